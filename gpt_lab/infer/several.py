"""Continuations of several prompts of different lengths, read together.

Shapes: L rows that are not over, V vocabulary.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator, Sequence
from typing import Any

import torch
from torch import Tensor

from gpt_lab.errors import ConfigError
from gpt_lab.infer.batch import Batch
from gpt_lab.infer.generate import ENDED, Chooser, Request, Usage, check_prompt, generate, next_logits
from gpt_lab.infer.sampling import Sampling
from gpt_lab.model.gpt import GPT
from gpt_lab.parts.objective.base import FILLING


def generate_several(
    model: GPT,
    prompts: Sequence[Sequence[int]],
    *,
    max_tokens: int,
    samples: int = 1,
    stop: int | None = None,
    seed: int = 0,
    use_cache: bool = True,
    log_probabilities: int | None = None,
    usage: Usage | None = None,
    **sampling: Any,
) -> Generator[list[int], None, None]:
    """Yields, step by step, one new token for each of `samples` continuations of each prompt, prompt by prompt.

    Each is the text that `generate` gives for its prompt, up to rounding of the logits; options are those of
    `generate`. A row that is over leaves the batch, and the numbers of `usage.finished` are those of rows.

    Raises:
        ConfigError, LabError: as `generate`.
    """
    if not prompts:
        raise ConfigError("there are no prompts to continue")
    if samples < 1:
        raise ConfigError(f"samples must be a whole number >= 1, not {samples}")
    request = Request(max_tokens, Sampling(**sampling), seed, stop, use_cache, log_probabilities)
    usage = usage or Usage()
    for prompt_ids in prompts:
        check_prompt(model, prompt_ids)
    if model.generates == FILLING:
        options = {"max_tokens": max_tokens, "samples": samples, "stop": stop, "seed": seed, **sampling}
        options["log_probabilities"] = log_probabilities
        owns = [Usage() for _ in prompts]
        each = [generate(model, one, usage=own, **options) for one, own in zip(prompts, owns, strict=True)]
        return _in_step(each, owns, samples, usage)
    return _steps(model, [list(ids) for ids in prompts for _ in range(samples)], request, samples, usage)


def _in_step(
    each: Sequence[Generator[list[int], None, None]], owns: Sequence[Usage], samples: int, usage: Usage
) -> Generator[list[int], None, None]:
    for given in itertools.zip_longest(*each, fillvalue=[ENDED] * samples):
        yield [token for row in given for token in row]
        for row in usage.finished:
            owns[row // samples].finished.add(row % samples)


def _steps(
    model: GPT, texts: list[list[int]], request: Request, samples: int, usage: Usage
) -> Generator[list[int], None, None]:
    numbers = [row % samples for row in range(len(texts))]
    chooser = Chooser(request, texts, numbers, model.vocab_size, usage)
    batch = Batch(model)
    live = list(range(len(texts)))
    was_training = model.training
    model.eval()
    try:
        for step in range(request.max_tokens):
            if not request.use_cache:
                logits_LV = torch.cat([_anew(model, texts[row]) for row in live])
            elif step:
                logits_LV = batch.read({row: texts[row][-1] for row in live})
            else:
                logits_LV = torch.cat(
                    [
                        batch.add(texts[row], *range(row, row + samples)).expand(samples, -1)
                        for row in range(0, len(texts), samples)
                    ]
                )
            new = chooser.choose(logits_LV, live).tolist()
            for row, token in zip(live, new, strict=True):
                texts[row].append(token)
            given = chooser.told(new, logits_LV, live)
            if given is None:
                return
            if any(chooser.over[row] for row in live):
                usage.cache_bytes = max(usage.cache_bytes, batch.nbytes)
            for row in live:
                if chooser.over[row] and request.use_cache:
                    batch.remove(row)
            live = [row for row in live if not chooser.over[row]]
            yield given
    finally:
        usage.cache_bytes = max(usage.cache_bytes, batch.nbytes)
        model.train(was_training)


def _anew(model: GPT, text: list[int]) -> Tensor:
    return next_logits(model, torch.tensor([text], device=model.embed.weight.device), None)
