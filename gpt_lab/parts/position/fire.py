"""A small network of the relative distance on scores. Constructor: (shape, *, options). Letters as in parts/base.py."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt_lab.options import PositiveFloat, PositiveInt
from gpt_lab.parts.base import Position, Shape, keys_seen
from gpt_lab.parts.position.per_layer import PerLayer
from gpt_lab.registry import register

EPSILON = 1e-6


@register("position", "fire")
class Fire(PerLayer):
    """Each head adds what a two-layer network makes of the distance as a share of the query's position.

    Paper: Li et al. 2023, arXiv:2310.04418

    The network reads psi(i - j) / psi(max(i, L)), psi(x) = log(|c x| + 1), with c and L learned, so that it never meets
    inputs beyond those of training. As i counts from the start of a row, a document that stands late in one is not read
    as it would be alone, once i exceeds L. FLOPs are those of a batch of one row: the bias is the same for all rows.

    hidden: width of the network.
    threshold: L at the start, in tokens; null: scale.context. The paper: 512.
    c: c at the start.
    shared: one network for all layers (FIRE-S); false: one for each.
    """

    bias_kind = "tensor"

    def __init__(
        self,
        shape: Shape,
        *,
        hidden: PositiveInt = 32,
        threshold: PositiveFloat | None = None,
        c: PositiveFloat = 0.1,
        shared: bool = False,
    ) -> None:
        super().__init__(shape, shared, lambda: _Network(shape, hidden, threshold or float(shape.context), c))


class _Network(Position):
    """The network of one layer or of all: 1 -> hidden -> H."""

    by_row = True
    bias_kind = "tensor"

    def __init__(self, shape: Shape, hidden: int, threshold: float, c: float) -> None:
        super().__init__(shape)
        self.threshold = threshold
        self.up = nn.Linear(1, hidden)
        self.down = nn.Linear(hidden, shape.heads)
        self.c = nn.Parameter(torch.tensor(c))
        self.stretch = nn.Parameter(torch.tensor(1.0))

    def draw(self, name: str, generator: torch.Generator) -> Tensor | None:
        """Uniform within 1/sqrt(fan-in), as the authors' nn.Linear: smaller draws would leave the bias near 0."""
        if name in ("c", "stretch"):
            return None
        module, kind = name.split(".")
        layer = self.up if module == "up" else self.down
        target = layer.weight if kind == "weight" else layer.bias
        return (2 * torch.rand(target.shape, generator=generator) - 1) * layer.in_features**-0.5

    def bias(self, positions_q: Tensor, positions_k: Tensor) -> Tensor:
        distance_TS = (positions_q[..., :, None] - positions_k[..., None, :]).clamp(min=0).float()
        reach_T1 = torch.maximum(positions_q.float(), (self.stretch * self.threshold).abs())[..., None]
        share_TS = self._psi(distance_TS) / (self._psi(reach_T1) + EPSILON)
        hidden_TSW = torch.relu(share_TS.unsqueeze(-1) * self.up.weight[:, 0] + self.up.bias)
        return F.linear(hidden_TSW, self.down.weight, self.down.bias).movedim(-1, -3)

    def _psi(self, x: Tensor) -> Tensor:
        return torch.log1p((self.c * x).abs())

    def flops_per_token(self, context: int) -> float:
        return 2 * self.down.weight.numel() * keys_seen(context)
