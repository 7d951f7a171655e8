"""No feed-forward network. Constructor: (shape, layer); forward: (B, T, D) -> zeros (B, T, D)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gpt_lab.parts.base import Shape
from gpt_lab.registry import register


@register("mlp", "none")
class NoMLP(nn.Module):
    """Adds nothing: layers of attention alone, as in studies of induction heads. No parameters, no options.

    Paper: Elhage et al. 2021, https://transformer-circuits.pub/2021/framework. The norms of its branch are left out.
    """

    absent = True

    def __init__(self, shape: Shape, layer: int) -> None:
        super().__init__()

    def forward(self, x_BTD: Tensor) -> Tensor:
        return torch.zeros_like(x_BTD)

    def flops_per_token(self, context: int) -> float:
        """None."""
        return 0
