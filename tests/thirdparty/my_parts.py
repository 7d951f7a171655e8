"""Two parts of one's own: a norm and an attention."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gpt_lab.options import PositiveFloat
from gpt_lab.parts.attention.softmax import MultiHead
from gpt_lab.parts.base import Flow, Shape
from gpt_lab.registry import register


@register("norm", "my_norm")
class ScaleNorm(nn.Module):
    """Divides by the length of the vector, then one learned gain for all of it.

    Paper: Nguyen and Salazar 2019, arXiv:1910.05895

    eps: smallest length that is divided by.
    """

    def __init__(self, dim: int, *, eps: PositiveFloat = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.gain = nn.Parameter(torch.full((1,), dim**0.5))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=-1, eps=self.eps) * self.gain


@register("attention", "my_attention")
class GatedAttention(MultiHead):
    """Multi-head attention whose output passes a gate that the input opens and closes.

    Paper: Qiu et al. 2025, arXiv:2505.06708

    slope: steepness of the gate.
    """

    def __init__(self, shape: Shape, layer: int, *, slope: PositiveFloat = 1.0) -> None:
        super().__init__(shape, layer)
        self.slope = slope
        self.gate = nn.Linear(shape.width, shape.width, bias=False)

    def forward(self, x_BTD: Tensor, flow: Flow) -> Tensor:
        return super().forward(x_BTD, flow) * torch.sigmoid(self.slope * self.gate(x_BTD))

    def flops_per_token(self, context: int) -> float:
        return super().flops_per_token(context) + 2 * self.gate.weight.numel()
