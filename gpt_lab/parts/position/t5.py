"""A learned bias for each bucket of distances. Constructor: (shape, *, options). Shape letters as in parts/base.py."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt_lab.errors import ConfigError
from gpt_lab.kernels.base import Memo
from gpt_lab.options import PositiveInt
from gpt_lab.parts.base import Position, Shape
from gpt_lab.parts.position.per_layer import PerLayer
from gpt_lab.registry import register


@register("position", "t5")
class T5(PerLayer):
    """Each head adds a learned number for the distance's bucket: small distances have their own, large ones share.

    Paper: Raffel et al. 2020, arXiv:1910.10683. T5's attention does not divide scores by sqrt(head_dim); that is the
    attention's choice, and stays as it is here.

    buckets: how many there are; half of them for one distance each, the rest grow to max_distance.
    max_distance: distances from it on are one bucket.
    shared: one table for all layers, as in T5; false: one for each.
    """

    bias_kind = "tensor"

    def __init__(
        self, shape: Shape, *, buckets: PositiveInt = 32, max_distance: PositiveInt = 128, shared: bool = True
    ) -> None:
        if buckets < 2:
            raise ConfigError(f"position.buckets={buckets} tells no distances apart: choose at least 2")
        if max_distance <= buckets // 2:
            raise ConfigError(
                f"position.max_distance={max_distance} must be more than half of position.buckets={buckets}, the "
                "distances that have a bucket each"
            )
        super().__init__(shape, shared, lambda: _Table(shape, buckets, max_distance))


class _Table(Position):
    """The table of one layer or of all: (buckets, H)."""

    by_row = True
    bias_kind = "tensor"

    def __init__(self, shape: Shape, buckets: int, max_distance: int) -> None:
        super().__init__(shape)
        self.max_distance = max_distance
        self.table = nn.Parameter(torch.zeros(buckets, shape.heads))
        self._memo = Memo(2)

    def bucket(self, distance: Tensor) -> Tensor:
        """The bucket of each distance, int64; those below 0 are hidden, and count as 0."""
        buckets = self.table.shape[0]
        exact = buckets // 2
        distance = distance.clamp(min=0)
        grown = torch.log(distance.clamp(min=exact).float() / exact) / math.log(self.max_distance / exact)
        large = exact + (grown * (buckets - exact)).long()
        return torch.where(distance < exact, distance, large.clamp(max=buckets - 1))

    def bias(self, positions_q: Tensor, positions_k: Tensor) -> Tensor:
        bucket_TS: Tensor = self._memo(
            (), (positions_q, positions_k), lambda: self.bucket(positions_q[..., :, None] - positions_k[..., None, :])
        )
        return F.embedding(bucket_TS, self.table).movedim(-1, -3)
