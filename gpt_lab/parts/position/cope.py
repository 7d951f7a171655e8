"""Positions that count what the context makes count. Constructor: (shape, *, options). Letters as in parts/base.py."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gpt_lab.errors import ConfigError
from gpt_lab.options import PositiveInt
from gpt_lab.parts.base import Position, Shape, keys_seen
from gpt_lab.parts.position.per_layer import PerLayer
from gpt_lab.registry import register


@register("position", "cope")
class Cope(PerLayer):
    """Contextual: how far a key is, is the sum of the gates sigmoid(q k) from it to the query, each between 0 and 1.

    Paper: Golovneva et al. 2024, arXiv:2405.18719

    The score gets q e[distance], without the factor 1/sqrt(head_dim), as in the authors' code; between whole distances
    e is interpolated. Each layer has its own e, which its heads share. A key outside the window or document of a query
    is not counted. Slow: scores (B, H, T, S) stand in memory several times over.

    positions: entries of e; distances from positions - 1 on are one. The paper: 64.
    """

    bias_kind = "content"

    def __init__(self, shape: Shape, *, positions: PositiveInt = 64) -> None:
        super().__init__(shape, False, lambda: _Contextual(shape, positions))


class _Contextual(Position):
    """One layer's: e, (head dimension, positions)."""

    by_row = True
    bias_kind = "content"

    def __init__(self, shape: Shape, positions: int) -> None:
        super().__init__(shape)
        self.table_KP = nn.Parameter(torch.zeros(shape.width // shape.heads, positions))
        self.init_roles = {"table_KP": "head_input"}

    def draw(self, name: str, generator: torch.Generator) -> Tensor:
        """Zeros, as in the authors' code: it begins without positions."""
        return torch.zeros(self.table_KP.shape)

    def content_bias(self, q_BHTK: Tensor, k_BGSK: Tensor, scale: float, seen: Tensor) -> Tensor:
        batch, heads, queries, head_dim = q_BHTK.shape
        if head_dim != self.table_KP.shape[0]:
            raise ConfigError(
                f"position=cope needs queries of dimension {self.table_KP.shape[0]} (scale.width / scale.heads), and "
                f"this attention has {head_dim}: use attention=mha or gqa"
            )
        q_BGRK = q_BHTK.reshape(batch, k_BGSK.shape[1], -1, head_dim)  # the query heads of a key head are rows
        scores_BHTS = (q_BGRK @ k_BGSK.mT).view(batch, heads, queries, -1) * scale
        gates_BHTS = torch.where(seen, scores_BHTS.float().sigmoid(), 0.0)
        far_BHTS = gates_BHTS.flip(-1).cumsum(-1).flip(-1).clamp(max=self.table_KP.shape[1] - 1)
        below, above = far_BHTS.detach().floor().long(), far_BHTS.detach().ceil().long()
        share_BHTS = far_BHTS - below
        whole_BHTP = (q_BHTK @ self.table_KP).float()
        near, next_ = whole_BHTP.gather(-1, below), whole_BHTP.gather(-1, above)
        return (near + share_BHTS * (next_ - near)).to(scores_BHTS.dtype)

    def flops_per_token(self, context: int) -> float:
        return 2 * self.shape.width * (self.table_KP.shape[1] + keys_seen(context))
