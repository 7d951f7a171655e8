"""Text, token by token, from the model's predictions.

Shapes: B samples, T tokens, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gpt_lab.errors import ConfigError, LabError
from gpt_lab.infer import unmask
from gpt_lab.infer.cache import Cache
from gpt_lab.infer.light_step import light_step
from gpt_lab.infer.sampling import LogProbability, Sampling, Streams, log_probabilities, stream
from gpt_lab.model.gpt import GPT
from gpt_lab.parts.objective.base import FILLING

ENDED = -1
"""Stands for the tokens of a sample that has met its stop token while others go on."""

NOT_FINITE = "the model's logits are not finite: its weights diverged; try checkpoint=best or another run"

PREFILL = 512
"""Prompt tokens read at once; bounds the scores held for a long prompt."""


@dataclass
class Usage:
    """What a generation took; filled in as it goes.

    Fields:
        log_probabilities: of each step one for each sample, if asked for; None for one that is over.
        drafted, accepted: tokens that a draft model proposed, and those of them that were kept.
        finished: numbers of samples that the caller wants no more of; looked at after each step.
    """

    cache_bytes: int = 0
    log_probabilities: list[list[LogProbability | None]] = field(default_factory=list)
    drafted: int = 0
    accepted: int = 0
    finished: set[int] = field(default_factory=set)


@dataclass(frozen=True)
class Request:
    """What is asked of a generation, for each of its samples.

    Fields:
        max_tokens: new tokens at most. sampling: how each is chosen. seed: of the random numbers.
        stop: a token that ends a sample; None: none does.
        use_cache: False: the whole text is read for each token.
        log_probabilities: how many of the likeliest tokens are noted beside the chosen one; None: nothing is noted.
    """

    max_tokens: int
    sampling: Sampling = Sampling()  # noqa: RUF009  # frozen
    seed: int = 0
    stop: int | None = None
    use_cache: bool = True
    log_probabilities: int | None = None

    def __post_init__(self) -> None:
        if self.max_tokens < 0:
            raise ConfigError(f"max_tokens must be a whole number >= 0, not {self.max_tokens}")
        if self.log_probabilities is not None and self.log_probabilities < 0:
            raise ConfigError(f"log_probabilities must be a whole number >= 0, not {self.log_probabilities}")


class Chooser:
    """Chooses the next tokens of rows, and notes of them what was asked for.

    Args:
        prompts: the tokens of each row before the first choice.
        numbers: of each row's stream of random numbers.
    """

    def __init__(
        self, request: Request, prompts: Sequence[Sequence[int]], numbers: Sequence[int], vocabulary: int, usage: Usage
    ) -> None:
        self.request, self.usage = request, usage
        self.over = [False] * len(prompts)
        self._streams = Streams(request.seed, numbers)
        self._present: Tensor | None = None
        if request.sampling.penalizes:
            self._present = torch.zeros(len(prompts), vocabulary, dtype=torch.bool)
            for row, ids in enumerate(prompts):
                self._present[row, list(ids)] = True

    def choose(self, logits_LV: Tensor, rows: Sequence[int]) -> Tensor:
        """The next tokens (L,) of these rows."""
        sampling, every = self.request.sampling, len(rows) == len(self.over)
        chosen_V = logits_LV
        if self._present is not None:
            self._present = self._present.to(logits_LV.device)
            chosen_V = sampling.penalized(logits_LV, self._present if every else self._present[list(rows)])
        if sampling.temperature == 0:
            new_L = chosen_V.argmax(dim=-1)
        else:
            uniform_B = self._streams.next()
            new_L = sampling.choose(chosen_V, uniform_B if every else uniform_B[list(rows)])
        if self._present is not None:
            self._present[list(rows), new_L] = True
        return new_L

    def told(self, new: Sequence[int], logits_LV: Tensor, rows: Sequence[int]) -> list[int] | None:
        """What is given out of new tokens of these rows, for all rows; None when all are over."""
        given = [ENDED] * len(self.over)
        for row, token in zip(rows, new, strict=True):
            if not self.over[row]:
                self.over[row] = token == self.request.stop or row in self.usage.finished
                given[row] = ENDED if self.over[row] else token
        if all(self.over):
            return None
        if (top := self.request.log_probabilities) is not None:
            found: list[LogProbability | None] = [None] * len(self.over)
            for row, one in zip(rows, log_probabilities(logits_LV, new, top), strict=True):
                found[row] = None if self.over[row] else one
            self.usage.log_probabilities.append(found)
        return given


def generate(
    model: GPT,
    prompt_ids: Sequence[int],
    *,
    max_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float = 1.0,
    seed: int = 0,
    samples: int = 1,
    stop: int | None = None,
    use_cache: bool = True,
    log_probabilities: int | None = None,
    usage: Usage | None = None,
) -> Generator[list[int], None, None]:
    """Yields, step by step, one new token for each of `samples` continuations of `prompt_ids`.

    Sample i draws its random numbers from its own stream, keyed by (seed, i), on the CPU: it is the same text whatever
    the number of samples and (up to rounding of the logits) the device. A sample that meets `stop` is over: the stop
    token itself is not given out, ENDED stands in its place and after it, and when all are over the iterator ends.
    Fields of Sampling and Request say what the other options are; `usage` notes what it took.

    A model of masked diffusion fills in masks, a block of tokens at a time (unmask.py), and no cache helps it.

    Beyond the training context a position encoding that extrapolates goes on; with one that does not (learned), the
    model reads the last `context` tokens anew for each token, which no cache can shorten.

    The model is in eval mode until the iterator is exhausted or closed, then as it was before.

    Raises:
        ConfigError: an empty prompt, a token outside the vocabulary, or a sampling option out of range; a model whose
            objective continues no text, or, filling in masks, has no order of tokens that an option asks for.
        LabError: the logits are not finite.
    """
    if samples < 1:
        raise ConfigError(f"samples must be a whole number >= 1, not {samples}")
    sampling = Sampling(temperature, top_k, top_p, min_p, repetition_penalty)
    request = Request(max_tokens, sampling, seed, stop, use_cache, log_probabilities)
    check_prompt(model, prompt_ids)
    if model.generates == FILLING:
        if sampling.penalizes or log_probabilities is not None:
            raise ConfigError(
                "repetition_penalty and log probabilities are of texts written from left to right, and this model "
                "fills in masks in any order: leave them out"
            )
        return _filled(model, prompt_ids, request, samples, usage or Usage())
    return _steps(model, list(prompt_ids), request, samples, usage or Usage())


def check_prompt(model: GPT, prompt_ids: Sequence[int]) -> None:
    """Refuses what cannot be continued.

    Raises:
        ConfigError: an empty prompt, or a token outside the vocabulary; a model whose objective continues no text.
    """
    if not model.generates:
        raise ConfigError(
            "this model cannot continue a text: it reads both ways, and its objective (such as mlm) is of single tokens"
        )
    if not prompt_ids:
        raise ConfigError("the prompt is empty: give at least one token to continue from")
    if not 0 <= min(prompt_ids) <= max(prompt_ids) < model.vocab_size:
        raise ConfigError(f"the prompt has tokens outside the model's vocabulary of {model.vocab_size}")


def complete(
    model: GPT, prompt_ids: Sequence[int], *, max_tokens: int, samples: int = 1, **options: Any
) -> list[list[int]]:
    """The tokens of each sample after the prompt, without the stop token; options as of `generate`."""
    return gathered(generate(model, prompt_ids, max_tokens=max_tokens, samples=samples, **options), samples)


def gathered(steps: Generator[list[int], None, None], rows: int) -> list[list[int]]:
    """The tokens of each row, of all steps."""
    texts: list[list[int]] = [[] for _ in range(rows)]
    for step in steps:
        for ids, token in zip(texts, step, strict=True):
            if token != ENDED:
                ids.append(token)
    return texts


def _steps(
    model: GPT, prompt_ids: list[int], request: Request, samples: int, usage: Usage
) -> Generator[list[int], None, None]:
    device = model.embed.weight.device
    cache = Cache() if request.use_cache else None
    rows = range(samples)
    chooser = Chooser(request, [prompt_ids] * samples, rows, model.vocab_size, usage)
    tokens_BT = torch.tensor([prompt_ids], device=device)
    was_training = model.training
    model.eval()
    try:
        for _ in range(request.max_tokens):
            logits_BV = next_logits(model, tokens_BT, cache)
            if len(tokens_BT) != samples:  # the prompt was read once for all samples
                logits_BV, tokens_BT = logits_BV.expand(samples, -1), tokens_BT.expand(samples, -1)
                if cache is not None:
                    cache.expand(samples)
            new_B = chooser.choose(logits_BV, rows)
            tokens_BT = torch.cat([tokens_BT, new_B.unsqueeze(1)], dim=1)
            given = chooser.told(new_B.tolist(), logits_BV, rows)
            if given is None:
                return
            yield given
    finally:
        if cache is not None:
            usage.cache_bytes = cache.nbytes
        model.train(was_training)


def _filled(
    model: GPT, prompt_ids: Sequence[int], request: Request, samples: int, usage: Usage
) -> Generator[list[int], None, None]:
    streams = [stream(request.seed, number) for number in range(samples)]
    over = [False] * samples
    was_training = model.training
    model.eval()
    try:
        for new_BN in unmask.blocks(model, prompt_ids, request.max_tokens, request.sampling.choose, streams):
            for new in new_BN.T.tolist():
                for number, token in enumerate(new):
                    over[number] = over[number] or token == request.stop or number in usage.finished
                if all(over):
                    return
                yield [ENDED if done else token for done, token in zip(over, new, strict=True)]
    finally:
        model.train(was_training)


@torch.no_grad()  # not inference_mode: tables that a part builds here must still serve training
def next_logits(model: GPT, tokens_BT: Tensor, cache: Cache | None, check: bool = True) -> Tensor:
    """Logits (B, V) of the token after `tokens_BT`; with a cache that holds the first of them, only the rest are read.

    Where an attention does not use the cache, neither does this.

    Raises:
        LabError: the logits are not finite, and they are to be checked.
    """
    limit = context_limit(model)
    if limit is not None and tokens_BT.shape[1] > limit:
        tokens_BT = tokens_BT[:, -limit:]
        if cache is not None:
            cache.clear()
    length, device = tokens_BT.shape[1], tokens_BT.device
    logits_BV: Tensor
    if cache is None or not cache.usable:
        logits_BV = model(tokens_BT, positions_T=torch.arange(length, device=device), last=True)[:, 0]
    elif 0 < cache.seen == length - 1 and (light := light_step(model)) is not None:
        logits_BV = light(tokens_BT[:, -1:], torch.tensor([cache.seen]), cache.seen, cache)
        cache.seen = length
    else:
        for first in range(cache.seen, length, PREFILL):
            last = min(first + PREFILL, length)
            positions_T = torch.arange(first, last, device=device)
            logits_BV = model(tokens_BT[:, first:last], positions_T=positions_T, states=cache, last=True)[:, 0]
            if not cache.read(model, last - first):
                return next_logits(model, tokens_BT, None, check)
    logits_BV = logits_BV.float()
    if check:
        check_finite(logits_BV)
    return logits_BV


def check_finite(logits_BV: Tensor) -> None:
    """Refuses what no token can be drawn from.

    Raises:
        LabError: the logits are not finite.
    """
    extremes = torch.stack(logits_BV.aminmax()).tolist()  # one pass, and no tensor of truths; both are NaN where any is
    if not all(map(math.isfinite, extremes)):
        raise LabError(NOT_FINITE)


def context_limit(model: GPT) -> int | None:
    """The most tokens that the model can read at once, or None where its position encoding extrapolates."""
    return None if model.position.extrapolates else model.shape.context
