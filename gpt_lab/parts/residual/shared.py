"""Layers that share their matrices, each with a small residual of its own. Constructor and forward as in
single_stream.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt_lab.errors import ConfigError
from gpt_lab.options import PositiveInt
from gpt_lab.parts.base import Flow, Shape
from gpt_lab.parts.residual.base import Block, MakeNorm, norm_for
from gpt_lab.registry import register


class OwnedLinear(nn.Linear):
    """A matrix used by several layers, to which each adds its own: W x + up (down x) + diagonal x.

    forward: (..., in) -> (..., out), for the layer number `use` of those that share it.

    Args:
        whole: whose weight and bias are shared.
        uses: how many layers do.
        rank: of up down; up and the diagonal begin at 0.
    """

    def __init__(self, whole: nn.Linear, uses: int, rank: int) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = whole.in_features, whole.out_features
        self.weight, self.bias = whole.weight, whole.bias
        self.use, self.rank = 0, rank
        self.down = nn.ParameterList(torch.empty(rank, self.in_features) for _ in range(uses))
        self.up = nn.ParameterList(torch.zeros(self.out_features, rank) for _ in range(uses))
        size = max(self.in_features, self.out_features)
        self.diagonal = nn.ParameterList(torch.zeros(size) for _ in range(uses))

    def draw(self, name: str, generator: torch.Generator) -> Tensor | None:
        """Zeros for `up`."""
        return torch.zeros(self.out_features, self.rank) if name.startswith("up.") else None

    def forward(self, x: Tensor) -> Tensor:
        shared = F.linear(x, self.weight, self.bias)
        own = F.linear(F.linear(x, self.down[self.use]), self.up[self.use])
        return shared + own + self._diagonal(x).to(shared.dtype)

    def _diagonal(self, x: Tensor) -> Tensor:
        """A matrix that is not square counts as square ones on top of each other or side by side, the last one cut."""
        diagonal, inner, outer = self.diagonal[self.use], self.in_features, self.out_features
        if outer >= inner:
            return torch.cat([x] * -(-outer // inner), dim=-1)[..., :outer] * diagonal
        return F.pad(x * diagonal, (0, -inner % outer)).unflatten(-1, (-1, outer)).sum(-2)

    @property
    def flops(self) -> int:
        """Matmul FLOPs of a token, of the residual alone."""
        return 2 * self.rank * (self.in_features + self.out_features)


@register("residual", "shared")
class Shared(Block):
    """Neighbouring layers share their matrices; each adds a residual of low rank and a diagonal of its own.

    Paper: Wang and Li 2023, arXiv:2310.02489 (ResidualTransformer)

    Layers group by group use one attention and one MLP, with W + up down + diagonal in place of each W that is a
    nn.Linear; stacked experts, convolutions, decays and biases are shared as they are, and so is a matrix that its
    part names in `read_directly`, because it multiplies with the weight itself (the routers of moe and mod, what mla
    absorbs). Norms are each layer's own. At the start the layers of a group are equal: up and the diagonal are 0, down
    is drawn as other matrices are. The diagonal of a matrix that is not square goes on below or beside the square, so
    that queries, keys and values in one matrix have one each where they are as wide as the model; that, and the start,
    are this lab's choice. Patterns over layers (attention=hybrid, sliding) go by group. Blocks are those of
    residual=pre.

    group: neighbouring layers that share; the last group may have fewer.
    rank: of the residual.

    Raises:
        ConfigError: under init=mup beyond its base width: what reads the rank's few numbers has no width to go by.
    """

    def __init__(
        self,
        shape: Shape,
        layer: int,
        attention: nn.Module,
        mlp: nn.Module,
        make_norm: MakeNorm,
        *,
        group: PositiveInt = 2,
        rank: PositiveInt = 16,
    ) -> None:
        super().__init__(shape, layer, attention, mlp)
        self.group = group
        uses = min(group, shape.depth - layer * group)
        self.attention_norms = nn.ModuleList(norm_for(attention, shape, make_norm) for _ in range(uses))
        self.mlp_norms = nn.ModuleList(norm_for(mlp, shape, make_norm) for _ in range(uses))
        self.owned = [*_owned(attention, uses, rank), *_owned(mlp, uses, rank)]

    @classmethod
    def order(cls, depth: int, **options: Any) -> Sequence[int]:
        """Group by group."""
        return [layer // options.get("group", 2) for layer in range(depth)]

    def join(self, init: Any, earlier: Sequence[Any]) -> None:
        if init.lr_multiplier("matrix", (1, 1)) != 1.0:
            raise ConfigError(
                "residual=shared has matrices with `rank` columns, whose learning rate does not go by the width: use "
                "init=normal or init=fan_in, or another residual"
            )

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        use = flow.layer % self.group
        for linear in self.owned:
            linear.use = use
        x = x + self.attend(self.attention_norms[use](x), flow)
        return x + self.feed(self.mlp_norms[use](x), flow)

    def flops_per_token(self, context: int) -> float:
        """Forward matmul FLOPs of a token: what a layer adds to the shared matrices."""
        return sum(linear.flops for linear in self.owned)


def _owned(branch: nn.Module, uses: int, rank: int) -> Iterator[OwnedLinear]:
    """Puts an OwnedLinear in the place of each nn.Linear that the branch calls."""
    for parent in list(branch.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear and name not in getattr(parent, "read_directly", ()):
                made = OwnedLinear(child, uses, rank)
                setattr(parent, name, made)
                yield made
