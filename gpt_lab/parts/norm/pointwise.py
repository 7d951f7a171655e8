"""In place of a norm, a bounded function of each number by itself. Constructor: (dim, *, options)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gpt_lab.options import PositiveFloat
from gpt_lab.registry import register


class EmbeddingScale(nn.Module):
    """Multiplies the embeddings by one learned number."""

    def __init__(self, first: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(first))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class _PointWise(nn.Module):
    """gain * bounded(x) + bias.

    Nothing is measured, so that a small input stays small: the authors' language models multiply their embeddings by a
    learned number, and so does any model whose norm this is.

    alpha: the learned factor of x at first. The authors' language models begin with 1.0 up to a width of 1,024; wider
        ones with less, and with less before MLPs than before attention (LLaMA 7B: 0.2 and 0.8), which is not told apart
        here.
    bias: whether there is a learned bias beside the gain.
    embed_scale: the learned factor of the embeddings at first; null: sqrt(scale.width).
    """

    no_mup: str | None = None

    def __init__(
        self, dim: int, *, alpha: PositiveFloat = 1.0, bias: bool = True, embed_scale: PositiveFloat | None = None
    ) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.tensor(alpha))
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim)) if bias else None
        if embed_scale is None:
            self.no_mup = "embeddings times sqrt(scale.width) grow with width: set norm.embed_scale to a number"

    @classmethod
    def on_embeddings(cls, dim: int, *, embed_scale: float | None = None, **options: object) -> nn.Module:
        """What acts on the embeddings of a model whose norm this is."""
        return EmbeddingScale(dim**0.5 if embed_scale is None else embed_scale)

    def bounded(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        y, weight = self.bounded(x), self.weight.to(x.dtype)
        return y * weight if self.bias is None else torch.addcmul(self.bias.to(x.dtype), y, weight)


@register("norm", "dyt")
class DynamicTanh(_PointWise):
    """Dynamic tanh: gain * tanh(alpha x) + bias, with one learned alpha, in place of a norm.

    Paper: Zhu et al. 2025, arXiv:2503.10622
    """

    def bounded(self, x: Tensor) -> Tensor:
        return torch.tanh(self.alpha * x)


@register("norm", "derf")
class DynamicErf(_PointWise):
    """Dynamic erf: gain * erf(alpha x + shift) + bias, with one learned alpha and shift, in place of a norm.

    Paper: Chen et al. 2025, arXiv:2512.10938
    """

    def __init__(
        self, dim: int, *, alpha: PositiveFloat = 1.0, bias: bool = True, embed_scale: PositiveFloat | None = None
    ) -> None:
        super().__init__(dim, alpha=alpha, bias=bias, embed_scale=embed_scale)
        self.shift = nn.Parameter(torch.zeros(()))

    def bounded(self, x: Tensor) -> Tensor:
        return torch.erf(self.alpha * x + self.shift)
