"""Sines and cosines added to the embeddings. Constructor: (shape, *, options)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gpt_lab.errors import ConfigError
from gpt_lab.kernels.base import Memo
from gpt_lab.options import PositiveFloat
from gpt_lab.parts.base import Position, Shape
from gpt_lab.registry import register


@register("position", "sinusoidal")
class Sinusoidal(Position):
    """Fixed sines and cosines of geometric wavelengths, added to the embeddings.

    Paper: Vaswani et al. 2017, arXiv:1706.03762

    base: ratio of the longest wavelength to the shortest.
    scaled: multiply token embeddings by sqrt(width) first, as the paper does, so that positions do not drown them.
    """

    by_row = True
    both_ways = True
    rates: Tensor

    def __init__(self, shape: Shape, *, base: PositiveFloat = 10000.0, scaled: bool = True) -> None:
        super().__init__(shape)
        if shape.width % 2:
            raise ConfigError(f"position=sinusoidal pairs sines with cosines: scale.width={shape.width} must be even")
        self.base = base
        if scaled:
            self.no_mup = "embeddings times sqrt(scale.width) grow with width: use position.scaled=false"
        self.scale = math.sqrt(shape.width) if scaled else 1.0
        self.register_buffer("rates", torch.empty(shape.width // 2), persistent=False)
        self.fill_tables()
        self._memo = Memo(2)

    def fill_tables(self) -> None:
        width = self.shape.width
        self.rates = self.base ** (-torch.arange(0, width, 2, device=self.rates.device, dtype=torch.float32) / width)

    def table(self, positions_T: Tensor) -> Tensor:
        """(T, D), or (B, T, D), in fp32: sine and cosine of the i-th rate at 2i and 2i + 1."""

        def build() -> Tensor:
            angles = positions_T.float()[..., None] * self.rates
            return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2)

        table_TD: Tensor = self._memo((), (positions_T, self.rates), build)
        return table_TD

    def embed(self, x_BTD: Tensor, positions_T: Tensor) -> Tensor:
        table_TD = self.table(positions_T).to(x_BTD.dtype)
        return torch.add(table_TD, x_BTD, alpha=self.scale) if self.scale != 1.0 else x_BTD + table_TD
