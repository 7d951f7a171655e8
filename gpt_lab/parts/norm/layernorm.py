"""Layer normalisation over the last dimension, and none at all. Constructor: (dim, *, options)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt_lab.options import PositiveFloat
from gpt_lab.registry import register


@register("norm", "layernorm")
class LayerNorm(nn.Module):
    """Subtracts the mean, divides by the standard deviation, then a learned gain and bias.

    Paper: Ba et al. 2016, arXiv:1607.06450

    eps: added to the variance.
    bias: whether there is a learned bias beside the gain; GPT-2 has one.
    """

    def __init__(self, dim: int, *, eps: PositiveFloat = 1e-5, bias: bool = True) -> None:
        super().__init__()
        self.dim = (dim,)
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.dim, self.weight, self.bias, self.eps)


@register("norm", "none")
class NoNorm(nn.Module):
    """Leaves activations as they are: the control that shows what normalisation does."""

    def __init__(self, dim: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x
