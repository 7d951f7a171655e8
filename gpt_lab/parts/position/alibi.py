"""Linear penalties of the distance on scores. Constructor: (shape)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gpt_lab.kernels.base import alibi
from gpt_lab.parts.base import Position, Shape
from gpt_lab.registry import register


@register("position", "alibi")
class Alibi(Position):
    """Scores fall linearly with distance, at a fixed slope for each head; made for contexts longer than trained on.

    Paper: Press et al. 2022, arXiv:2108.12409
    """

    by_row = True
    bias_kind = "alibi"
    slopes_H: Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        self.slopes_H = torch.empty(shape.heads)
        self.fill_tables()

    def fill_tables(self) -> None:
        slopes = alibi_slopes(self.shape.heads)
        self.slopes_H = torch.tensor(slopes, device=self.slopes_H.device, dtype=torch.float32)

    def bias(self, positions_q: Tensor, positions_k: Tensor) -> Tensor:
        return alibi(self.slopes_H, positions_q[..., :, None] - positions_k[..., None, :])


def alibi_slopes(heads: int) -> list[float]:
    """2^(-8/n), 2^(-16/n), ... for n heads; where n is no power of 2, those of the power below, then every other one
    of the power above, as in the paper's code."""
    below = 2 ** int(math.log2(heads))
    slopes = [2.0 ** (-8.0 * i / below) for i in range(1, below + 1)]
    return slopes + [2.0 ** (-4.0 * i / below) for i in range(1, 2 * (heads - below), 2)]
