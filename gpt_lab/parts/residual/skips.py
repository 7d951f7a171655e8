"""Pre-norm with learned shortcuts from the embeddings and from mirrored layers. Constructor and forward as in
single_stream.py.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gpt_lab.parts.base import Flow, Shape
from gpt_lab.parts.residual.base import MakeNorm
from gpt_lab.parts.residual.single_stream import PreNorm
from gpt_lab.registry import register


@register("residual", "skips")
class Skips(PreNorm):
    """Each block reads a x + b x0, a mixture of the stream and the embeddings x0 with two learned numbers a layer.

    Reference: Jordan et al. 2024, https://github.com/KellerJordan/modded-nanogpt, whose records of November 2024 have
        `lambdas` in each block and, from the 10th on (Rappazzo), the `skip_weights` of unet=true.

    a begins at 1, b at 0. x0 is what the first block reads: with model.embed_norm=true it is normalised, as there. The
    same model's skip of the first layer's values is attention=value_residual. Neither number is decayed.

    unet: the second half of the layers also read the outputs of the first half, the last layer those of the first:
        layer n adds c times the output of layer depth - 1 - n before it mixes in x0; c is learned and begins at 1. The
        middle one of an odd number of layers does neither.
    """

    def __init__(
        self,
        shape: Shape,
        layer: int,
        attention: nn.Module,
        mlp: nn.Module,
        make_norm: MakeNorm,
        *,
        unet: bool = False,
    ) -> None:
        super().__init__(shape, layer, attention, mlp, make_norm)
        self.mix = nn.Parameter(torch.tensor([1.0, 0.0]))
        mirrored = shape.depth - 1 - layer
        self.left = f"skip{layer}" if unet and layer < mirrored else None
        self.taken = f"skip{mirrored}" if unet and mirrored < layer else None
        self.skip = nn.Parameter(torch.ones(1)) if self.taken else None

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        assert flow.shared is not None, "a pass through the model carries it"
        if self.skip is not None and self.taken is not None:
            x = x + self.skip.to(x.dtype) * flow.shared[self.taken]
        own, first = self.mix.to(x.dtype)
        x = super().forward(own * x + first * flow.shared["x0"], flow)
        if self.left is not None:
            flow.shared[self.left] = x
        return x
