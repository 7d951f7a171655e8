"""Sampling of text, token by token, from the model's predictions.

Shapes: B samples, T tokens, V vocabulary, K candidates that are left to draw from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gpt_lab.errors import ConfigError, LabError
from gpt_lab.infer import unmask
from gpt_lab.infer.cache import Cache
from gpt_lab.model.gpt import GPT
from gpt_lab.parts.objective.base import FILLING

ENDED = -1
"""Stands for the tokens of a sample that has met its stop token while others go on."""

PREFILL = 512
"""Prompt tokens read at once; bounds the logits held for a long prompt."""


@dataclass(frozen=True)
class Sampling:
    """How a token is chosen from logits.

    temperature: divides the logits; 0 takes the likeliest token. top_k: draw from the k likeliest only.
    top_p: of these, draw from the smallest set that holds this probability (Holtzman et al. 2019, arXiv:1904.09751).
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ConfigError(f"temperature must be a number >= 0, not {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise ConfigError(f"top_k must be a whole number >= 1 or null, not {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p must be a number in (0, 1] or null, not {self.top_p}")

    def candidates(self, logits_BV: Tensor) -> tuple[Tensor, Tensor | None]:
        """Probabilities (B, K), not normalised, and the tokens (B, K) they belong to; None: K = V in order."""
        # float64 and the maximum first: a tiny temperature must not overflow, and 50,000 terms must add up to 1
        scaled = logits_BV.double()
        scaled = (scaled - scaled.amax(dim=-1, keepdim=True)) / self.temperature
        ids = None
        if self.top_k is not None and self.top_k < scaled.shape[-1]:
            scaled, ids = scaled.topk(self.top_k, dim=-1)
        elif self.top_p is not None and self.top_p < 1:
            scaled, ids = scaled.sort(dim=-1, descending=True, stable=True)
        p_BK = scaled.softmax(dim=-1)
        if self.top_p is not None and self.top_p < 1:
            above = p_BK.cumsum(dim=-1) - p_BK
            p_BK = p_BK.masked_fill(above >= self.top_p, 0.0)
        return p_BK, ids

    def choose(self, logits_BV: Tensor, uniform_B: Tensor) -> Tensor:
        """One token per row (B,), by inverting the cumulative distribution at `uniform_B` in [0, 1)."""
        if self.temperature == 0:
            return logits_BV.argmax(dim=-1)
        p_BK, ids_BK = self.candidates(logits_BV)
        cumulative = p_BK.cumsum(dim=-1)
        # 1 - u lies in (0, 1], and the first sum that reaches it belongs to a token of positive probability
        wanted = (1 - uniform_B.to(p_BK)).unsqueeze(-1) * cumulative[:, -1:]
        index = torch.searchsorted(cumulative, wanted)
        return (index if ids_BK is None else ids_BK.gather(-1, index)).squeeze(-1)


@dataclass
class Usage:
    """What a generation took; filled in as it goes."""

    cache_bytes: int = 0


def generate(
    model: GPT,
    prompt_ids: Sequence[int],
    *,
    max_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    samples: int = 1,
    stop: int | None = None,
    use_cache: bool = True,
    usage: Usage | None = None,
) -> Generator[list[int], None, None]:
    """Yields, step by step, one new token for each of `samples` continuations of `prompt_ids`.

    Sample i draws its random numbers from its own stream, keyed by (seed, i), on the CPU: it is the same text whatever
    the number of samples and (up to rounding of the logits) the device. A sample that meets `stop` is over: the stop
    token itself is not given out, ENDED stands in its place and after it, and when all are over the iterator ends.

    A model of masked diffusion fills in masks, a block of tokens at a time (unmask.py), and no cache helps it.

    Beyond the training context a position encoding that extrapolates goes on; with one that does not (learned), the
    model reads the last `context` tokens anew for each token, which no cache can shorten.

    The model is in eval mode until the iterator is exhausted or closed, then as it was before.

    Raises:
        ConfigError: an empty prompt, a token outside the vocabulary, or a sampling option out of range; a model whose
            objective continues no text.
        LabError: the logits are not finite.
    """
    if not model.generates:
        raise ConfigError(
            "this model cannot continue a text: it reads both ways, and its objective (such as mlm) is of single tokens"
        )
    sampling = Sampling(temperature, top_k, top_p)
    if samples < 1:
        raise ConfigError(f"samples must be a whole number >= 1, not {samples}")
    if max_tokens < 0:
        raise ConfigError(f"max_tokens must be a whole number >= 0, not {max_tokens}")
    if not prompt_ids:
        raise ConfigError("the prompt is empty: give at least one token to continue from")
    if not 0 <= min(prompt_ids) <= max(prompt_ids) < model.vocab_size:
        raise ConfigError(f"the prompt has tokens outside the model's vocabulary of {model.vocab_size}")
    if model.generates == FILLING:
        return _filled(model, prompt_ids, max_tokens, sampling, [_stream(seed, i) for i in range(samples)], stop)
    return _steps(model, list(prompt_ids), max_tokens, sampling, seed, samples, stop, use_cache, usage or Usage())


def complete(
    model: GPT, prompt_ids: Sequence[int], *, max_tokens: int, samples: int = 1, **options: Any
) -> list[list[int]]:
    """The tokens of each sample after the prompt, without the stop token; options as of `generate`."""
    texts: list[list[int]] = [[] for _ in range(samples)]
    for step in generate(model, prompt_ids, max_tokens=max_tokens, samples=samples, **options):
        for ids, token in zip(texts, step, strict=True):
            if token != ENDED:
                ids.append(token)
    return texts


def _steps(
    model: GPT,
    prompt_ids: list[int],
    max_tokens: int,
    sampling: Sampling,
    seed: int,
    samples: int,
    stop: int | None,
    use_cache: bool,
    usage: Usage,
) -> Generator[list[int], None, None]:
    device = next(model.parameters()).device
    cache = Cache() if use_cache else None
    streams = [_stream(seed, i) for i in range(samples)]
    over = [False] * samples
    tokens_BT = torch.tensor([prompt_ids], device=device)
    was_training = model.training
    model.eval()
    try:
        for _ in range(max_tokens):
            logits_BV = next_logits(model, tokens_BT, cache)
            if len(tokens_BT) != samples:  # the prompt was read once for all samples
                logits_BV, tokens_BT = logits_BV.expand(samples, -1), tokens_BT.expand(samples, -1)
                if cache is not None:
                    cache.expand(samples)
            uniform_B = torch.stack([torch.rand((), dtype=torch.float64, generator=stream) for stream in streams])
            new_B = sampling.choose(logits_BV, uniform_B)
            tokens_BT = torch.cat([tokens_BT, new_B.unsqueeze(1)], dim=1)
            if cache is not None:
                usage.cache_bytes = cache.nbytes
            new = new_B.tolist()
            over = [done or token == stop for done, token in zip(over, new, strict=True)]
            if all(over):
                return
            yield [ENDED if done else token for done, token in zip(over, new, strict=True)]
    finally:
        model.train(was_training)


def _filled(
    model: GPT,
    prompt_ids: Sequence[int],
    max_tokens: int,
    sampling: Sampling,
    streams: Sequence[torch.Generator],
    stop: int | None,
) -> Generator[list[int], None, None]:
    over = [False] * len(streams)
    was_training = model.training
    model.eval()
    try:
        for new_BN in unmask.blocks(model, prompt_ids, max_tokens, sampling.choose, streams):
            for new in new_BN.T.tolist():
                over = [done or token == stop for done, token in zip(over, new, strict=True)]
                if all(over):
                    return
                yield [ENDED if done else token for done, token in zip(over, new, strict=True)]
    finally:
        model.train(was_training)


@torch.no_grad()  # not inference_mode: tables that a part builds here must still serve training
def next_logits(model: GPT, tokens_BT: Tensor, cache: Cache | None) -> Tensor:
    """Logits (B, V) of the token after `tokens_BT`; with a cache that holds the first of them, only the rest are read.

    Where an attention does not use the cache, neither does this.

    Raises:
        LabError: the logits are not finite.
    """
    limit = context_limit(model)
    if limit is not None and tokens_BT.shape[1] > limit:
        tokens_BT = tokens_BT[:, -limit:]
        if cache is not None:
            cache.clear()
    length = tokens_BT.shape[1]
    positions_T = torch.arange(length, device=tokens_BT.device)
    if cache is None or not cache.usable:
        logits_BTV = model(tokens_BT, positions_T=positions_T)
    else:
        for first in range(cache.seen, length, PREFILL):
            chunk = slice(first, min(first + PREFILL, length))
            logits_BTV = model(tokens_BT[:, chunk], positions_T=positions_T[chunk], states=cache)
            if not cache.read(model, len(positions_T[chunk])):
                return next_logits(model, tokens_BT, None)
    logits_BV: Tensor = logits_BTV[:, -1].float()
    if not torch.isfinite(logits_BV).all():
        raise LabError("the model's logits are not finite: its weights diverged; try checkpoint=best or another run")
    return logits_BV


def context_limit(model: GPT) -> int | None:
    """The most tokens that the model can read at once, or None where its position encoding extrapolates."""
    return None if model.position.extrapolates else model.shape.context


def _stream(seed: int, sample: int) -> torch.Generator:
    # a hash, not seed + sample: else sample 1 of seed 0 would be sample 0 of seed 1
    digest = hashlib.sha256(f"{seed}/{sample}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
