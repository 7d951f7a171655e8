"""Speculative decoding: a small model drafts a few tokens, which the large one reads in one pass and keeps or not.

What comes out is distributed as without a draft, and at temperature 0 it is the same text.

Paper: Leviathan et al. 2023, arXiv:2211.17192

Shapes: V vocabulary, N tokens of a draft.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from gpt_lab.errors import ConfigError
from gpt_lab.infer.cache import Cache
from gpt_lab.infer.generate import ENDED, PREFILL, Request, Usage, check_finite, check_prompt, context_limit
from gpt_lab.infer.sampling import Sampling, Streams, invert
from gpt_lab.model.gpt import GPT
from gpt_lab.parts.objective.base import FILLING

BLOCK = 4
"""Tokens that are drafted at a time."""


def generate_with_draft(
    model: GPT,
    draft: GPT,
    prompt_ids: Sequence[int],
    *,
    max_tokens: int,
    samples: int = 1,
    stop: int | None = None,
    seed: int = 0,
    block: int = BLOCK,
    usage: Usage | None = None,
    **sampling: Any,
) -> Generator[list[int], None, None]:
    """Yields, step by step, one new token for each of `samples` continuations.

    Options are those of `generate` but use_cache and log_probabilities; `block` tokens are drafted at a time. Each
    sample is drafted for by itself. Beyond the training context of positions that do not extrapolate, in either model,
    nothing is drafted.

    Raises:
        ConfigError: as `generate`; models of different vocabularies, one that fills in masks, a block below 1.
        LabError: the logits are not finite.
    """
    for one in (model, draft):
        check_prompt(one, prompt_ids)
        if one.generates == FILLING:
            raise ConfigError("a draft is written from left to right: this needs two models that are, too")
    if model.vocab_size != draft.vocab_size:
        raise ConfigError(
            f"the draft model has a vocabulary of {draft.vocab_size}, this one of {model.vocab_size}: they must share "
            "a tokenizer"
        )
    if samples < 1 or not 1 <= block < PREFILL:
        raise ConfigError(f"samples must be at least 1 and block 1 to {PREFILL - 1}, not {samples} and {block}")
    request, usage = Request(max_tokens, Sampling(**sampling), seed, stop), usage or Usage()
    each = [_Sample(model, draft, prompt_ids, request, block, number, usage) for number in range(samples)]
    return _in_step(each, (model, draft), usage)


def _in_step(each: Sequence[_Sample], models: Sequence[GPT], usage: Usage) -> Generator[list[int], None, None]:
    were_training = [one.training for one in models]
    for one in models:
        one.eval()
    try:
        for given in itertools.zip_longest(*(sample.tokens() for sample in each), fillvalue=ENDED):
            usage.cache_bytes = sum(sample.nbytes for sample in each)
            yield list(given)
    finally:
        for one, training in zip(models, were_training, strict=True):
            one.train(training)


class _Sample:
    """One continuation."""

    def __init__(
        self, model: GPT, draft: GPT, prompt_ids: Sequence[int], request: Request, block: int, number: int, usage: Usage
    ) -> None:
        self._text = list(prompt_ids)
        self._begin = len(self._text)
        self._target, self._draft = Reader(model), Reader(draft)
        self._request, self._block, self._usage, self._number = request, block, usage, number
        self._streams = Streams(request.seed, [number])
        limits = [limit for one in (model, draft) if (limit := context_limit(one)) is not None]
        self._limit = min(limits, default=None)

    @property
    def nbytes(self) -> int:
        return self._target.cache.nbytes + self._draft.cache.nbytes

    def tokens(self) -> Iterator[int]:
        """The new tokens, up to the stop token."""
        if self._begin > 1:  # first, as going back may mean to go back to where a draft began
            for reader in (self._target, self._draft):
                reader.read(self._text[:-1], 1)
        most = self._begin + self._request.max_tokens
        while len(self._text) < most:
            room = most - len(self._text) - 1
            if self._limit is not None:
                room = min(room, self._limit - len(self._text))
            for token in self._next(max(0, min(self._block, room))):
                if token == self._request.stop or self._number in self._usage.finished:
                    return
                yield token

    def _next(self, number: int) -> list[int]:
        """One to `number` + 1 new tokens, which the text then has."""
        begin, proposed, drawn_from = len(self._text), [], []
        self._draft.cache.mark()
        for _ in range(number):
            (logits_V,) = self._draft.read(self._text, 1)
            drawn_from.append(self._distribution(logits_V))
            proposed.append(self._draw(drawn_from[-1]))
            self._text.append(proposed[-1])
        self._target.cache.mark()
        logits_NV = self._target.read(self._text, number + 1)
        del self._text[begin:]
        for logits_V, token, q_V in zip(logits_NV, proposed, drawn_from, strict=False):
            p_V = self._distribution(logits_V)
            if not self._keeps(p_V[token].item(), q_V[token].item()):
                self._text.append(self._draw((p_V - q_V).clamp(min=0)))
                break
            self._text.append(token)
        else:
            self._text.append(self._draw(self._distribution(logits_NV[-1])))
        new = self._text[begin:]
        self._usage.drafted += number
        self._usage.accepted += len(new) - 1
        for reader in (self._target, self._draft):
            reader.cache.back(len(self._text) - 1)
        return new

    def _distribution(self, logits_V: Tensor) -> Tensor:
        sampling = self._request.sampling
        if sampling.penalizes:
            present_V = torch.zeros(len(logits_V), dtype=torch.bool, device=logits_V.device)
            present_V[self._text] = True
            logits_V = sampling.penalized(logits_V, present_V)
        return sampling.distribution(logits_V[None])[0]

    def _keeps(self, p: float, q: float) -> bool:
        """True with probability min(1, p / q)."""
        return self._streams.next().item() * q < p

    def _draw(self, p_V: Tensor) -> int:
        return int(invert(p_V[None], self._streams.next()))


class Reader:
    """Reads a text that grows, and whose end may be taken back."""

    def __init__(self, model: GPT) -> None:
        self._model = model
        self._limit = context_limit(model)
        self.cache = Cache()

    @torch.no_grad()
    def read(self, text: Sequence[int], last: int) -> Tensor:
        """Logits (N, V) in fp32 of what follows each of the `last` tokens; the cache has none of these."""
        if self._limit is not None and len(text) > self._limit:
            self.cache, text = Cache(), text[-self._limit :]
        tokens_1T = torch.tensor([list(text)], device=self._model.embed.weight.device)
        positions_T, length = torch.arange(len(text), device=tokens_1T.device), len(text)
        found: list[Tensor] = []
        if not self.cache.usable:
            return self._last([self._model(tokens_1T, positions_T=positions_T, last=last == 1)], last)
        for first in range(self.cache.seen, length, PREFILL):
            end = min(first + PREFILL, length)
            few = last == 1 or end <= length - last  # logits of a whole prompt take more memory than all else
            piece = self._model(
                tokens_1T[:, first:end], positions_T=positions_T[first:end], states=self.cache, last=few
            )
            found = [*found[-1:], piece]  # a block is short, so that it lies in the last two pieces
            if not self.cache.read(self._model, end - first):
                return self.read(text, last)
        return self._last(found, last)

    def _last(self, found: Sequence[Tensor], last: int) -> Tensor:
        logits_NV = torch.cat([piece[0] for piece in found])[-last:].float()
        check_finite(logits_NV)
        return logits_NV
