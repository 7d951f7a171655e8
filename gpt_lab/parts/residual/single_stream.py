"""One residual stream: where in a layer the norms stand, and whether its branches follow each other.

Constructor: (shape, layer, attention, mlp, make_norm, *, options); forward: (B, T, D), Flow -> (B, T, D).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gpt_lab.options import PositiveFloat
from gpt_lab.parts.base import Flow, Shape
from gpt_lab.parts.residual.base import Block, MakeNorm, norm_for
from gpt_lab.registry import register


@register("residual", "pre")
class PreNorm(Block):
    """x + f(norm(x)): the stream itself is never normalised, as in GPT-2 and Llama.

    Paper: Xiong et al. 2020, arXiv:2002.04745
    """

    def __init__(self, shape: Shape, layer: int, attention: nn.Module, mlp: nn.Module, make_norm: MakeNorm) -> None:
        super().__init__(shape, layer, attention, mlp)
        self.attention_norm = norm_for(attention, shape, make_norm)
        self.mlp_norm = norm_for(mlp, shape, make_norm)

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        x = x + self.attend(self.attention_norm(x), flow)
        return x + self.feed(self.mlp_norm(x), flow)


@register("residual", "post")
class PostNorm(Block):
    """norm(x + f(x)): the stream is normalised after each branch, as in the first Transformer; no final norm.

    Paper: Vaswani et al. 2017, arXiv:1706.03762

    alpha: factor of x in the sum; null: (2 x depth)^(1/4), the half of DeepNorm (Wang et al. 2022, arXiv:2203.00555)
        that goes with init=deepnorm.
    """

    final_norm = False

    def __init__(
        self,
        shape: Shape,
        layer: int,
        attention: nn.Module,
        mlp: nn.Module,
        make_norm: MakeNorm,
        *,
        alpha: PositiveFloat | None = 1.0,
    ) -> None:
        super().__init__(shape, layer, attention, mlp)
        self.alpha = (2 * shape.depth) ** 0.25 if alpha is None else alpha
        self.attention_norm = norm_for(attention, shape, make_norm)
        self.mlp_norm = norm_for(mlp, shape, make_norm)

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        x = self.attention_norm(torch.add(self.attend(x, flow), x, alpha=self.alpha))
        out: Tensor = self.mlp_norm(torch.add(self.feed(x, flow), x, alpha=self.alpha))
        return out


@register("residual", "sandwich")
class Sandwich(Block):
    """x + norm(f(norm(x))): each branch is normalised before and after, four norms a block, as in Gemma 2.

    Paper: Ding et al. 2021, arXiv:2105.13290
    """

    def __init__(self, shape: Shape, layer: int, attention: nn.Module, mlp: nn.Module, make_norm: MakeNorm) -> None:
        super().__init__(shape, layer, attention, mlp)
        self.attention_norm = norm_for(attention, shape, make_norm)
        self.attention_out_norm = norm_for(attention, shape, make_norm)
        self.mlp_norm = norm_for(mlp, shape, make_norm)
        self.mlp_out_norm = norm_for(mlp, shape, make_norm)

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        x = x + self.attend(self.attention_norm(x), flow, self.attention_out_norm)
        return x + self.feed(self.mlp_norm(x), flow, self.mlp_out_norm)


@register("residual", "olmo2")
class ReorderedNorm(Block):
    """x + norm(f(x)): the norm moves to the branch's output, as in OLMo 2; stable like pre, and the branch stays O(1).

    Paper: OLMo et al. 2024, arXiv:2501.00656
    """

    def __init__(self, shape: Shape, layer: int, attention: nn.Module, mlp: nn.Module, make_norm: MakeNorm) -> None:
        super().__init__(shape, layer, attention, mlp)
        self.attention_out_norm = norm_for(attention, shape, make_norm)
        self.mlp_out_norm = norm_for(mlp, shape, make_norm)

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        x = x + self.attend(x, flow, self.attention_out_norm)
        return x + self.feed(x, flow, self.mlp_out_norm)


@register("residual", "parallel")
class Parallel(Block):
    """x + attention(norm(x)) + mlp(norm(x)): both branches read the same stream, as in GPT-J and GPT-NeoX.

    Paper: Black et al. 2022, arXiv:2204.06745

    shared_norm: one norm for both branches (GPT-J, PaLM); false gives each its own (GPT-NeoX).
    """

    def __init__(
        self,
        shape: Shape,
        layer: int,
        attention: nn.Module,
        mlp: nn.Module,
        make_norm: MakeNorm,
        *,
        shared_norm: bool = True,
    ) -> None:
        super().__init__(shape, layer, attention, mlp)
        self.attention_norm = make_norm(shape.width) if shared_norm else norm_for(attention, shape, make_norm)
        self.mlp_norm = None if shared_norm else norm_for(mlp, shape, make_norm)

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        attention_in = self.attention_norm(x)
        mlp_in = attention_in if self.mlp_norm is None else self.mlp_norm(x)
        x = x + self.attend(attention_in, flow)
        return x + self.feed(mlp_in, flow)
