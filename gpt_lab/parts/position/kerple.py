"""Learned kernels of the distance on scores. Constructor: (shape, *, options). Shape letters as in parts/base.py."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from gpt_lab.parts.base import Position, Shape
from gpt_lab.parts.position.per_layer import PerLayer
from gpt_lab.registry import register

SMALLEST, LARGEST_POWER = 0.01, 2.0
"""Bounds of the parameters, as in the authors' code; beyond a power of 2 the kernel is not conditionally positive
definite."""


@register("position", "kerple")
class Kerple(PerLayer):
    """Scores fall with distance by a kernel with two learned numbers for each head and layer; ALiBi is a special case.

    Paper: Chi et al. 2022, arXiv:2205.09921

    kernel: log: -r1 log(1 + r2 distance); power: -r1 distance^r2, with r2 at most 2.
    """

    bias_kind = "tensor"

    def __init__(self, shape: Shape, *, kernel: Literal["log", "power"] = "log") -> None:
        super().__init__(shape, False, lambda: _Kernel(shape, kernel == "log"))


class _Kernel(Position):
    """One layer's: r1 and r2, (H,) each."""

    by_row = True
    bias_kind = "tensor"

    def __init__(self, shape: Shape, log: bool) -> None:
        super().__init__(shape)
        self.log = log
        self.r1_H = nn.Parameter(torch.ones(shape.heads))
        self.r2_H = nn.Parameter(torch.ones(shape.heads))

    def draw(self, name: str, generator: torch.Generator) -> Tensor:
        """Uniform up to 2, or to 1 for what multiplies the distance, as in the authors' code."""
        return (2.0 if (name == "r1_H") == self.log else 1.0) * torch.rand(self.shape.heads, generator=generator)

    def bias(self, positions_q: Tensor, positions_k: Tensor) -> Tensor:
        distance_1TS = (positions_q[..., None, :, None] - positions_k[..., None, None, :]).clamp(min=0).float()
        r1_H11, r2_H11 = (r.clamp(min=SMALLEST)[:, None, None] for r in (self.r1_H, self.r2_H))
        if self.log:
            return -r1_H11 * torch.log1p(r2_H11 * distance_1TS)
        # 0^r has no gradient in r: the distance to oneself adds nothing anyway
        power_HTS = distance_1TS.clamp(min=1) ** r2_H11.clamp(max=LARGEST_POWER)
        return -r1_H11 * torch.where(distance_1TS > 0, power_HTS, 0.0)
