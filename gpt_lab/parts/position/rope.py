"""Rotary position encoding. Constructor: (shape, *, options). Shape letters as in parts/base.py."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from gpt_lab.errors import ConfigError
from gpt_lab.kernels.base import Memo
from gpt_lab.options import Fraction, PositiveFloat, PositiveInt
from gpt_lab.parts.base import Position, Shape
from gpt_lab.parts.position.learned import NoPosition
from gpt_lab.registry import register


class Rotary(Position):
    """Queries and keys are rotated by their position: what all such encodings share.

    base: ratio of the slowest rotation's period to the fastest's (theta); larger for longer contexts.
    partial: share of the head dimension that is rotated, 0 to 1; the rest carries no position (GPT-NeoX: 0.25).
    pattern: one letter a layer, repeated over the layers: R rotated, L rotated by local_base (Gemma 3: LLLLLR), N not
        rotated (SmolLM3: RRRN).
    local_base: the base in layers L; needed by them, refused without one.

    Attributes:
        gain: factor on rotated queries and on rotated keys.
    """

    by_row = True
    gain = 1.0
    both_ways = True
    rates: Tensor
    cos: Tensor
    sin: Tensor

    def __init__(
        self, shape: Shape, base: float, partial: float, pattern: str = "R", local_base: float | None = None
    ) -> None:
        super().__init__(shape)
        self.head_dim = shape.width // shape.heads
        self.share = partial
        if self.rotated(self.head_dim) < 2 or self.rotated(self.head_dim) % 2:
            raise ConfigError(
                f"position.partial={partial:g} of a head dimension of {self.head_dim} rotates "
                f"{self.rotated(self.head_dim)} dimensions, not an even number of at least 2: change position.partial, "
                "scale.width or scale.heads, or use position=none"
            )
        if not pattern or set(pattern) - set("RLN"):
            raise ConfigError(
                f"position.pattern={pattern!r} must be letters R (rotated), L (by local_base) and N (not), such as RRRN"
            )
        if ("L" in pattern) != (local_base is not None):
            raise ConfigError(
                f"position.pattern={pattern} "
                + (
                    "has layers L, which need position.local_base, such as 1000.0"
                    if local_base is None
                    else "has no layer L: remove position.local_base, or choose a pattern such as LLLLLR"
                )
            )
        self.base = base
        self.pattern = pattern
        self.local = None if local_base is None else Rope(shape, base=local_base, partial=partial)
        self.unrotated = NoPosition(shape) if "N" in pattern else None
        self.register_buffer("rates", torch.empty(self.rotated(self.head_dim) // 2), persistent=False)
        self.register_buffer("cos", torch.empty(shape.context, self.rotated(self.head_dim)), persistent=False)
        self.register_buffer("sin", torch.empty(shape.context, self.rotated(self.head_dim)), persistent=False)
        self._memo = Memo(4)

    def at(self, layer: int) -> Position:
        other = {"R": None, "L": self.local, "N": self.unrotated}[self.pattern[layer % len(self.pattern)]]
        return self if other is None else other

    def rotated(self, head_dim: int) -> int:
        """How many of a head's dimensions are rotated; the rest come after them."""
        return int(head_dim * self.share)

    def frequencies(self, rotated: int, device: torch.device) -> Tensor:
        """Radians per position of each pair of dimensions, fastest first: (rotated / 2,) in fp32."""
        return powers(self.base, rotated, device)

    def fill_tables(self) -> None:
        device = self.rates.device
        self.rates = self.frequencies(self.rotated(self.head_dim), device)
        self.cos, self.sin = _waves(torch.arange(self.shape.context, device=device), self.rates, self.gain)

    def waves(self, positions_T: Tensor, dtype: torch.dtype, head_dim: int) -> tuple[Tensor, Tensor]:
        """cos and signed sin of the positions in the type of queries and keys; computed once for all layers."""
        if torch.compiler.is_compiling() and positions_T.shape[0] <= self.shape.context and head_dim == self.head_dim:
            # sines inside the graph would be fused into, and repeated for, every query of every layer
            return self.cos[positions_T].to(dtype), self.sin[positions_T].to(dtype)

        def build() -> tuple[Tensor, Tensor]:
            usual = head_dim == self.head_dim
            rates = self.rates if usual else self.frequencies(self.rotated(head_dim), positions_T.device)
            cos, sin = _waves(positions_T, rates, self.gain)
            return cos.to(dtype), sin.to(dtype)

        waves: tuple[Tensor, Tensor] = self._memo((dtype, head_dim), (positions_T, self.rates), build)
        return waves

    def rotate(self, q_BHTK: Tensor, k_BGTK: Tensor, positions_T: Tensor) -> tuple[Tensor, Tensor]:
        cos, sin = self.waves(positions_T, q_BHTK.dtype, q_BHTK.shape[-1])
        return turn(q_BHTK, cos, sin), turn(k_BGTK, cos, sin)


@register("position", "rope")
class Rope(Rotary):
    """Rotary: queries and keys are rotated by their position, so that scores depend on distance alone.

    Paper: Su et al. 2021, arXiv:2104.09864. A head's first half is paired with its second, as in Llama.

    scaling: for contexts beyond training: linear divides positions by factor, ntk (arXiv:2309.00071) raises the base,
        llama3 (arXiv:2407.21783) divides the slow rotations by factor, keeps the fast ones and mixes between.
    factor: how much longer the context becomes; needed by linear, ntk and llama3, refused without them.
    original: tokens of the context before, for llama3 alone as the two below; null: scale.context.
    low_freq_factor: pairs that turn less often than this within the original context are slow; null: 1.
    high_freq_factor: pairs that turn more often than this are fast; null: 4.
    """

    def __init__(
        self,
        shape: Shape,
        *,
        base: PositiveFloat = 10000.0,
        partial: Fraction = 1.0,
        scaling: Literal["none", "linear", "ntk", "llama3"] = "none",
        factor: PositiveFloat | None = None,
        original: PositiveInt | None = None,
        low_freq_factor: PositiveFloat | None = None,
        high_freq_factor: PositiveFloat | None = None,
        pattern: str = "R",
        local_base: PositiveFloat | None = None,
    ) -> None:
        super().__init__(shape, base, partial, pattern, local_base)
        if (scaling == "none") != (factor is None):
            raise ConfigError(
                f"position.scaling={scaling} "
                + ("needs position.factor, such as 2.0" if factor is None else "takes no position.factor: remove it")
            )
        own = {"original": original, "low_freq_factor": low_freq_factor, "high_freq_factor": high_freq_factor}
        if scaling != "llama3" and (stated := [key for key, value in own.items() if value is not None]):
            raise ConfigError(f"position.{stated[0]} goes with position.scaling=llama3: remove it")
        self.turns = (low_freq_factor or 1.0, high_freq_factor or 4.0)
        if self.turns[0] >= self.turns[1]:
            raise ConfigError(
                f"position.low_freq_factor={self.turns[0]:g} must be below position.high_freq_factor={self.turns[1]:g}"
            )
        self.scaling = scaling
        self.original = shape.context if original is None else original
        self.factor = 1.0 if factor is None else factor
        self.fill_tables()

    def frequencies(self, rotated: int, device: torch.device) -> Tensor:
        base, stretch = self.base, 1.0
        if self.scaling == "linear":
            stretch = self.factor
        elif self.scaling == "ntk" and rotated > 2:  # a single rate, 1, knows no base
            base = base * self.factor ** (rotated / (rotated - 2))
        rates = powers(base, rotated, device) / stretch
        if self.scaling != "llama3":
            return rates
        low, high = self.turns
        kept = ((rates * self.original / (2 * math.pi) - low) / (high - low)).clamp(0, 1)
        return rates * (kept + (1 - kept) / self.factor)


def powers(base: float, rotated: int, device: torch.device) -> Tensor:
    """base^(-2i / rotated) for each pair i: (rotated / 2,) in fp32."""
    return base ** -(torch.arange(0, rotated, 2, device=device, dtype=torch.float32) / rotated)


def _waves(positions_T: Tensor, rates: Tensor, gain: float) -> tuple[Tensor, Tensor]:
    """gain x cos and signed sin, (T, rotated) each, or (B, 1, T, rotated) of (B, T) positions.

    x cos + roll(x) sin rotates, roll swapping the halves.
    """
    angles = over_heads(positions_T).float()[..., None] * rates
    cos, sin = angles.cos(), angles.sin()
    if gain != 1.0:
        cos, sin = cos * gain, sin * gain
    return torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)


def over_heads(positions_T: Tensor) -> Tensor:
    """Positions that all heads share: (T,) as they are, (B, T) as (B, 1, T)."""
    return positions_T if positions_T.dim() == 1 else positions_T[:, None]


def turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates as many of the last dimension's first entries as there are waves."""
    rotated = cos.shape[-1]
    if rotated < x.shape[-1]:
        turned, kept = x.split((rotated, x.shape[-1] - rotated), dim=-1)
        return torch.cat((turn(turned, cos, sin), kept), dim=-1)
    x = x.contiguous()  # a copy that the kernel would make otherwise; the rest then runs on whole rows
    return x.roll(x.shape[-1] // 2, -1).mul_(sin).addcmul_(x, cos)
