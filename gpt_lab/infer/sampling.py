"""How a token is chosen from logits, and what the model gave it.

Shapes: B samples, V vocabulary, K candidates that are left to draw from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from gpt_lab.devices.hardware import in_float64
from gpt_lab.errors import ConfigError

DRAWN = 64
"""Random numbers that a stream draws at a time."""


@dataclass(frozen=True)
class Sampling:
    """How a token is chosen from logits. In this order:

    repetition_penalty: logits of tokens that the text has already, prompt included, are divided by it where positive
        and multiplied by it where negative (Keskar et al. 2019, arXiv:1909.05858).
    temperature: divides the logits; 0 takes the likeliest token. top_k: draw from the k likeliest only.
    top_p: of these, draw from the smallest set that holds this probability (Holtzman et al. 2019, arXiv:1904.09751).
    min_p: of these, draw from those that are at least this share as likely as the likeliest (Nguyen et al. 2024,
        arXiv:2407.01082).
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ConfigError(f"temperature must be a number >= 0, not {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise ConfigError(f"top_k must be a whole number >= 1 or null, not {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p must be a number in (0, 1] or null, not {self.top_p}")
        if self.min_p is not None and not 0 <= self.min_p <= 1:
            raise ConfigError(f"min_p must be a number in [0, 1] or null, not {self.min_p}")
        if not 0.01 <= self.repetition_penalty <= 100:
            raise ConfigError(f"repetition_penalty must be a number in [0.01, 100], not {self.repetition_penalty}")

    @property
    def penalizes(self) -> bool:
        """Whether it must be known which tokens the text has."""
        return self.repetition_penalty != 1.0

    def penalized(self, logits_BV: Tensor, present_BV: Tensor) -> Tensor:
        """Logits (B, V) after the repetition penalty; `present_BV` (bool): tokens that each text has."""
        less_BV = torch.where(logits_BV < 0, logits_BV * self.repetition_penalty, logits_BV / self.repetition_penalty)
        return torch.where(present_BV, less_BV, logits_BV)

    def candidates(self, logits_BV: Tensor) -> tuple[Tensor, Tensor | None]:
        """Probabilities (B, K), not normalised, and the tokens (B, K) they belong to; None: K = V in order."""
        # float64 and the maximum first: a tiny temperature must not overflow, and 50,000 terms must add up to 1
        scaled = in_float64(logits_BV)
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
        if self.min_p:
            p_BK = p_BK.masked_fill(p_BK < self.min_p * p_BK.amax(dim=-1, keepdim=True), 0.0)
        return p_BK, ids

    def distribution(self, logits_BV: Tensor) -> Tensor:
        """The probability (B, V) that each token is drawn with; at temperature 0 all of it is the likeliest's."""
        if self.temperature == 0:
            nothing_BV = in_float64(torch.zeros_like(logits_BV))
            return nothing_BV.scatter_(-1, logits_BV.argmax(-1, True).to(nothing_BV.device), 1.0)
        p_BK, ids_BK = self.candidates(logits_BV)
        p_BK = p_BK / p_BK.sum(dim=-1, keepdim=True)
        if ids_BK is None:
            return p_BK
        return in_float64(torch.zeros_like(logits_BV)).scatter_(-1, ids_BK, p_BK)

    def choose(self, logits_BV: Tensor, uniform_B: Tensor) -> Tensor:
        """One token per row (B,), by inverting the cumulative distribution at `uniform_B` in [0, 1)."""
        if self.temperature == 0:
            return logits_BV.argmax(dim=-1)
        p_BK, ids_BK = self.candidates(logits_BV)
        index = invert(p_BK, uniform_B)
        chosen = index if ids_BK is None else ids_BK.gather(-1, index.unsqueeze(-1)).squeeze(-1)
        return chosen.to(logits_BV.device)


def invert(p_BK: Tensor, uniform_B: Tensor) -> Tensor:
    """The place (B,) at which the cumulative sum of probabilities, not normalised, passes the share `uniform_B`."""
    cumulative = p_BK.cumsum(dim=-1)
    # 1 - u lies in (0, 1], and the first sum that reaches it belongs to a token of positive probability
    wanted = (1 - uniform_B.to(p_BK)).unsqueeze(-1) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, wanted).squeeze(-1)


class Streams:
    """Uniform random numbers of samples, each from a stream of its own, keyed by (seed, number), on the CPU."""

    def __init__(self, seed: int, numbers: Sequence[int]) -> None:
        self._generators = [stream(seed, number) for number in numbers]
        self._drawn = torch.empty(len(self._generators), 0)
        self._next = 0

    def next(self) -> Tensor:
        """One more of each stream: float64 (B,) in [0, 1)."""
        if self._next == self._drawn.shape[1]:  # one call each for many: it takes longer than its numbers
            drawn = [torch.rand(DRAWN, dtype=torch.float64, generator=one) for one in self._generators]
            self._drawn, self._next = torch.stack(drawn), 0
        self._next += 1
        return self._drawn[:, self._next - 1]


def stream(seed: int, number: int) -> torch.Generator:
    """The random numbers of one sample."""
    # a hash, not seed + number: else sample 1 of seed 0 would be sample 0 of seed 1
    digest = hashlib.sha256(f"{seed}/{number}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


class LogProbability(NamedTuple):
    """Natural logarithms of what the model itself gave a chosen token, and the likeliest ones, the likeliest first.

    Of its own distribution: before any penalty, temperature or cut.
    """

    token: int
    chosen: float
    top: tuple[tuple[int, float], ...] = ()


def log_probabilities(logits_BV: Tensor, tokens: Sequence[int], top: int = 0) -> list[LogProbability]:
    """Of one chosen token a row, and of the `top` likeliest ones (at most V)."""
    log_BV = in_float64(logits_BV).log_softmax(dim=-1)
    values, ids = log_BV.topk(min(top, log_BV.shape[-1]), dim=-1)
    return [
        LogProbability(token, log_BV[row, token].item(), tuple(zip(of_ids, of_values, strict=True)))
        for row, (token, of_ids, of_values) in enumerate(zip(tokens, ids.tolist(), values.tolist(), strict=True))
    ]
