"""Normalisation by a vector's length, its Euclidean norm, over the last dimension. Constructor: (dim, *, options)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gpt_lab.options import PositiveFloat
from gpt_lab.registry import register


@register("norm", "scalenorm")
class ScaleNorm(nn.Module):
    """Divides by the length, then one learned number, sqrt(dim) at first, for all dimensions.

    Paper: Nguyen and Salazar 2019, arXiv:1910.05895. At first it is RMSNorm; what it lacks are the other dim - 1 gains.

    eps: smallest length that is divided by.
    """

    def __init__(self, dim: int, *, eps: PositiveFloat = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.gain = nn.Parameter(torch.tensor(dim**0.5))

    def forward(self, x: Tensor) -> Tensor:
        return x * (self.gain / _length(x, self.eps)).to(x.dtype)


@register("norm", "unit")
class UnitNorm(nn.Module):
    """Divides by the length and leaves it there: vectors of length 1, without a gain, as nGPT's hidden states.

    Paper: Loshchilov et al. 2024, arXiv:2410.01131

    Numbers are of size 1/sqrt(dim), sqrt(dim) times smaller than after other norms: nGPT scales logits, queries, keys
    and its MLP against that, and normalises its matrices. None of this comes with the norm alone. The same with
    numbers of size 1 is norm=rmsnorm norm.gain=false.

    eps: smallest length that is divided by.
    """

    no_mup = "its numbers shrink as 1/sqrt(scale.width): use norm=rmsnorm norm.gain=false"

    def __init__(self, dim: int, *, eps: PositiveFloat = 1e-5) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return x * _length(x, self.eps).reciprocal().to(x.dtype)


def _length(x: Tensor, eps: float) -> Tensor:
    """Euclidean norm over the last dimension, kept, at least eps; fp32, as squares of thousands leave bf16 and fp16."""
    return torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32).clamp(min=eps)
