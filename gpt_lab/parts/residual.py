"""How a block joins attention, MLP and norms to the residual stream.

Constructor: (shape, layer, attention, mlp, make_norm, *, options); forward: (B, T, D), Flow -> (B, T, D).
`final_norm` tells the model whether a norm must follow the last block. Dropout acts on the output of each branch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from torch import Tensor, nn

from gpt_lab.parts.base import Flow, KeyedDropout, Shape, salt
from gpt_lab.registry import register

MakeNorm = Callable[[int], nn.Module]


class _Block(nn.Module):
    """The two branches and their dropout."""

    final_norm: ClassVar[bool] = True

    def __init__(self, shape: Shape, layer: int, attention: nn.Module, mlp: nn.Module) -> None:
        super().__init__()
        self.attention = attention
        self.attention_dropout = KeyedDropout(shape.dropout, salt(layer, "attention_out"))
        self.mlp = mlp
        self.mlp_dropout = KeyedDropout(shape.dropout, salt(layer, "mlp_out"))


@register("residual", "pre")
class PreNorm(_Block):
    """x + f(norm(x)): the stream itself is never normalised, as in GPT-2 and Llama.

    Paper: Xiong et al. 2020, arXiv:2002.04745
    """

    def __init__(self, shape: Shape, layer: int, attention: nn.Module, mlp: nn.Module, make_norm: MakeNorm) -> None:
        super().__init__(shape, layer, attention, mlp)
        self.attention_norm = make_norm(shape.width)
        self.mlp_norm = make_norm(shape.width)

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        x = x + self.attention_dropout(self.attention(self.attention_norm(x), flow), flow.keys_B)
        return x + self.mlp_dropout(self.mlp(self.mlp_norm(x)), flow.keys_B)


@register("residual", "post")
class PostNorm(_Block):
    """norm(x + f(x)): the stream is normalised after each branch, as in the first Transformer; no final norm.

    Paper: Vaswani et al. 2017, arXiv:1706.03762
    """

    final_norm = False

    def __init__(self, shape: Shape, layer: int, attention: nn.Module, mlp: nn.Module, make_norm: MakeNorm) -> None:
        super().__init__(shape, layer, attention, mlp)
        self.attention_norm = make_norm(shape.width)
        self.mlp_norm = make_norm(shape.width)

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        x = self.attention_norm(x + self.attention_dropout(self.attention(x, flow), flow.keys_B))
        out: Tensor = self.mlp_norm(x + self.mlp_dropout(self.mlp(x), flow.keys_B))
        return out


@register("residual", "sandwich")
class Sandwich(_Block):
    """x + norm(f(norm(x))): each branch is normalised before and after, four norms a block, as in Gemma 2.

    Paper: Ding et al. 2021, arXiv:2105.13290
    """

    def __init__(self, shape: Shape, layer: int, attention: nn.Module, mlp: nn.Module, make_norm: MakeNorm) -> None:
        super().__init__(shape, layer, attention, mlp)
        self.attention_norm = make_norm(shape.width)
        self.attention_out_norm = make_norm(shape.width)
        self.mlp_norm = make_norm(shape.width)
        self.mlp_out_norm = make_norm(shape.width)

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        branch = self.attention_out_norm(self.attention(self.attention_norm(x), flow))
        x = x + self.attention_dropout(branch, flow.keys_B)
        branch = self.mlp_out_norm(self.mlp(self.mlp_norm(x)))
        return x + self.mlp_dropout(branch, flow.keys_B)


@register("residual", "olmo2")
class ReorderedNorm(_Block):
    """x + norm(f(x)): the norm moves to the branch's output, as in OLMo 2; stable like pre, and the branch stays O(1).

    Paper: OLMo et al. 2024, arXiv:2501.00656
    """

    def __init__(self, shape: Shape, layer: int, attention: nn.Module, mlp: nn.Module, make_norm: MakeNorm) -> None:
        super().__init__(shape, layer, attention, mlp)
        self.attention_out_norm = make_norm(shape.width)
        self.mlp_out_norm = make_norm(shape.width)

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        x = x + self.attention_dropout(self.attention_out_norm(self.attention(x, flow)), flow.keys_B)
        return x + self.mlp_dropout(self.mlp_out_norm(self.mlp(x)), flow.keys_B)


@register("residual", "parallel")
class Parallel(_Block):
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
        self.attention_norm = make_norm(shape.width)
        self.mlp_norm = None if shared_norm else make_norm(shape.width)

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        attention_in = self.attention_norm(x)
        mlp_in = attention_in if self.mlp_norm is None else self.mlp_norm(x)
        x = x + self.attention_dropout(self.attention(attention_in, flow), flow.keys_B)
        return x + self.mlp_dropout(self.mlp(mlp_in), flow.keys_B)
