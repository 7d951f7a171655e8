"""Rotary position encoding whose scores fade with distance. Constructor: (shape, *, options)."""

from __future__ import annotations

import torch
from torch import Tensor

from gpt_lab.options import Fraction, NonNegativeFloat, PositiveFloat
from gpt_lab.parts.base import Shape
from gpt_lab.parts.position.rope import Rotary, over_heads, turn
from gpt_lab.registry import register


@register("position", "xpos")
class XPos(Rotary):
    """Rotary, and each pair's share of the score shrinks exponentially with distance, the slow pairs' least.

    Paper: Sun et al. 2022, arXiv:2212.10554; its blockwise attention at longer lengths is not part of it

    A query at n is multiplied by zeta^((n - c) / scale_base) and a key at m by zeta^(-(m - c) / scale_base), so that
    the score has zeta^((n - m) / scale_base), with zeta = (i / pairs + gamma) / (1 + gamma) for pair i. The centre c is
    half the training context, where both factors are 1. Far beyond it keys grow without bound: at gamma 0.4 and
    scale_base 512 they leave fp16 near 4,000 tokens and fp32 near 36,000.

    gamma: how gently the fastest pair fades; larger is gentler.
    scale_base: tokens over which the factor is zeta.
    """

    both_ways = False  # scores of later tokens would grow with distance

    def __init__(
        self,
        shape: Shape,
        *,
        base: PositiveFloat = 10000.0,
        partial: Fraction = 1.0,
        gamma: NonNegativeFloat = 0.4,
        scale_base: PositiveFloat = 512.0,
    ) -> None:
        super().__init__(shape, base, partial)
        self.gamma, self.scale_base = gamma, scale_base
        self.fill_tables()

    def rotate(self, q_BHTK: Tensor, k_BGTK: Tensor, positions_T: Tensor) -> tuple[Tensor, Tensor]:
        cos, sin = self.waves(positions_T, torch.float32, q_BHTK.shape[-1])
        pairs = cos.shape[-1] // 2
        zeta = (torch.arange(pairs, device=cos.device) / pairs + self.gamma) / (1 + self.gamma)
        power_T1 = (over_heads(positions_T)[..., None] - self.shape.context / 2) / self.scale_base
        grown = torch.cat((zeta, zeta)) ** power_T1
        q, k = ((cos * factor, sin * factor) for factor in (grown, 1 / grown))
        dtype = q_BHTK.dtype
        return turn(q_BHTK, q[0].to(dtype), q[1].to(dtype)), turn(k_BGTK, k[0].to(dtype), k[1].to(dtype))
