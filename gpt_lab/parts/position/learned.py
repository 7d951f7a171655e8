"""No position encoding, and a learned vector for each position. Constructor: (shape)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt_lab.parts.base import Position, Shape
from gpt_lab.registry import register


@register("position", "none")
class NoPosition(Position):
    """No position encoding: order shows only through the causal mask (NoPE).

    Paper: Kazemnejad et al. 2023, arXiv:2305.19466
    """

    by_row = True

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)


@register("position", "learned")
class Learned(Position):
    """A learned vector for each position up to the context, added to the embeddings, as in GPT-2.

    Paper: Gehring et al. 2017, arXiv:1705.03122. Nothing beyond the training context.
    """

    by_row = True
    extrapolates = False
    both_ways = True

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        self.table = nn.Parameter(torch.zeros(shape.context, shape.width))

    def embed(self, x_BTD: Tensor, positions_T: Tensor) -> Tensor:
        return x_BTD + F.embedding(positions_T, self.table)
