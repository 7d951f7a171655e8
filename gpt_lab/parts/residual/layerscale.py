"""Pre-norm whose branches pass a learned gain for each channel. Constructor and forward as in single_stream.py."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gpt_lab.options import PositiveFloat
from gpt_lab.parts.base import Flow, Shape
from gpt_lab.parts.residual.base import MakeNorm
from gpt_lab.parts.residual.single_stream import PreNorm
from gpt_lab.registry import register


class ChannelGain(nn.Module):
    """g x, one learned factor for each of the last dimension's channels, not decayed."""

    def __init__(self, dim: int, initial: float) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.full((dim,), initial))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gain.to(x.dtype)


@register("residual", "layerscale")
class LayerScale(PreNorm):
    """x + g f(norm(x)): what a branch adds is multiplied by a learned gain for each channel, small at first (CaiT).

    Paper: Touvron et al. 2021, arXiv:2103.17239

    A branch of attention=none or mlp=none has no gain.

    initial: the gain at the start; the paper has 0.1 up to 18 layers, 0.00001 up to 24, 0.000001 beyond.
    """

    def __init__(
        self,
        shape: Shape,
        layer: int,
        attention: nn.Module,
        mlp: nn.Module,
        make_norm: MakeNorm,
        *,
        initial: PositiveFloat = 0.1,
    ) -> None:
        super().__init__(shape, layer, attention, mlp, make_norm)
        self.attention_gain, self.mlp_gain = (
            None if getattr(branch, "absent", False) else ChannelGain(shape.width, initial)
            for branch in (attention, mlp)
        )

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        x = x + self.attend(self.attention_norm(x), flow, self.attention_gain)
        return x + self.feed(self.mlp_norm(x), flow, self.mlp_gain)
