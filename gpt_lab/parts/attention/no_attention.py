"""No attention at all. Constructor: (shape, layer)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gpt_lab.parts.base import Flow, Shape
from gpt_lab.registry import register


@register("attention", "none")
class NoAttention(nn.Module):
    """Gives zeros: no token reads another, and a block is its MLP alone.

    The control that shows what attention does, and a letter for layers of MLP only. It has no parameters and keeps
    nothing of earlier tokens, and blocks make no norm for it. Positions act on embeddings alone.
    """

    stateless = absent = both_ways = by_row = True
    scale = 1.0
    """There are no scores, so that any init's scale of them fits."""

    def __init__(self, shape: Shape, layer: int) -> None:
        super().__init__()

    def forward(self, x_BTD: Tensor, flow: Flow) -> Tensor:
        return torch.zeros_like(x_BTD)

    def flops_per_token(self, context: int) -> float:
        """Nothing is multiplied."""
        return 0
