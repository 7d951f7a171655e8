"""Rotary position encoding stretched to a longer context. Constructor: (shape, *, options)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gpt_lab.errors import ConfigError
from gpt_lab.options import Fraction, PositiveFloat, PositiveInt
from gpt_lab.parts.base import Shape
from gpt_lab.parts.position.rope import Rotary, powers
from gpt_lab.registry import register


@register("position", "yarn")
class Yarn(Rotary):
    """Rotary for a context `factor` times longer: fast rotations stay, slow ones are slowed, and scores are sharpened.

    Paper: Peng et al. 2023, arXiv:2309.00071. Layers L of a pattern keep their own base as it is, as in Gemma 3.

    factor: how much longer the context becomes, 1 or more.
    original: tokens of the context before; null: scale.context.
    beta_fast: pairs that turn more often than this within the original context stay as they are.
    beta_slow: pairs that turn less often have their positions divided by factor; between the two, a mixture.
    attention_factor: factor on rotated queries and on rotated keys; null: the paper's 0.1 ln(factor) + 1.
    truncate: whether the two bounds are moved apart to whole pairs; gpt-oss keeps their fractions.
    """

    def __init__(
        self,
        shape: Shape,
        *,
        factor: PositiveFloat = 4.0,
        original: PositiveInt | None = None,
        base: PositiveFloat = 10000.0,
        partial: Fraction = 1.0,
        beta_fast: PositiveFloat = 32.0,
        beta_slow: PositiveFloat = 1.0,
        attention_factor: PositiveFloat | None = None,
        truncate: bool = True,
        pattern: str = "R",
        local_base: PositiveFloat | None = None,
    ) -> None:
        super().__init__(shape, base, partial, pattern, local_base)
        if factor < 1:
            raise ConfigError(f"position.factor={factor:g} would shorten the context: choose 1 or more")
        if beta_slow >= beta_fast:
            raise ConfigError(f"position.beta_slow={beta_slow:g} must be below position.beta_fast={beta_fast:g}")
        if base <= 1:
            raise ConfigError(f"position.base={base:g} gives all pairs one rate: choose more than 1")
        self.truncate = truncate
        self.factor, self.betas = factor, (beta_fast, beta_slow)
        self.original = shape.context if original is None else original
        self.gain = 0.1 * math.log(factor) + 1.0 if attention_factor is None else attention_factor
        self.fill_tables()

    def frequencies(self, rotated: int, device: torch.device) -> Tensor:
        fast, slow = (self._pair(turns, rotated) for turns in self.betas)
        if self.truncate:
            fast, slow = math.floor(fast), math.ceil(slow)
        low, high = max(fast, 0), min(slow, rotated - 1)
        pairs = torch.arange(rotated // 2, device=device, dtype=torch.float32)
        slowed = ((pairs - low) / (high - low if high != low else 1e-3)).clamp(0, 1)
        return powers(self.base, rotated, device) * (slowed / self.factor + (1 - slowed))

    def _pair(self, turns: float, rotated: int) -> float:
        """The pair, counted with fractions, that turns so often within the original context."""
        return rotated * math.log(self.original / (turns * 2 * math.pi)) / (2 * math.log(self.base))
