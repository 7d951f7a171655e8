"""Differential attention. Constructor: (shape, layer, *, options). Shape letters as in parts/base.py."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from gpt_lab.errors import ConfigError
from gpt_lab.options import PositiveFloat, PositiveInt
from gpt_lab.parts.attention.softmax import SelfAttention
from gpt_lab.parts.base import Flow, Shape
from gpt_lab.parts.norm.rmsnorm import RMSNorm
from gpt_lab.registry import register


@register("attention", "differential")
class Differential(SelfAttention):
    """Differential attention: the difference of two softmaxes, which cancels what both see, such as noise.

    Paper: Ye et al. 2024, arXiv:2410.05258, as in DiffLlama.

    Heads go by pairs (h, h + H/2): the weights of the second, times a learned lambda, are taken from those of the
    first, and the pair's values are both heads' side by side. A norm without gain over them, times 1 - lambda_0,
    precedes the last projection. lambda = exp(q1 k1) - exp(q2 k2) +
    lambda_0 of four learned vectors of the head dimension, with lambda_0 = 0.8 - 0.6 exp(-0.3 layer), layers from 0.

    Compare it at equal scale.heads: a pair is one head of the paper, which takes half the heads of plain attention at
    twice their width.

    kv_heads: key/value heads, even; must divide scale.heads; null: as many as query heads.
    lambda_std: standard deviation of the four vectors at first.
    eps: of the norm.
    """

    def __init__(
        self,
        shape: Shape,
        layer: int,
        *,
        kv_heads: PositiveInt | None = None,
        lambda_std: PositiveFloat = 0.1,
        eps: PositiveFloat = 1e-5,
        **options: Any,
    ) -> None:
        super().__init__(shape, layer, kv_heads, **options)
        if self.kv_heads % 2:
            raise ConfigError(
                f"attention=differential pairs its heads: {self.kv_heads} key/value heads is odd; choose an even "
                + ("attention.kv_heads" if kv_heads else "scale.heads")
            )
        self.value_dim = 2 * self.head_dim
        self.first = 0.8 - 0.6 * math.exp(-0.3 * layer)
        self.lambda_std = lambda_std
        self.lambda_q1, self.lambda_k1, self.lambda_q2, self.lambda_k2 = (
            nn.Parameter(torch.zeros(self.head_dim)) for _ in range(4)
        )
        self.init_roles = dict.fromkeys(("lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2"), "head_input")
        self.pair_norm = RMSNorm(self.value_dim, eps=eps, gain=False)

    def draw(self, name: str, generator: torch.Generator) -> Tensor | None:
        """The vectors of lambda are drawn: at 0 their gradients would be too."""
        if not name.startswith("lambda_"):
            return None
        return torch.empty(self.head_dim).normal_(0.0, self.lambda_std, generator=generator)

    def attend(self, q_BHTK: Tensor, k_BGTK: Tensor, v_BGTK: Tensor, flow: Flow) -> Tensor:
        k_BGSK, v_BGSK, positions_k = self.remember(k_BGTK, v_BGTK, flow)
        v_BGSV = torch.cat(v_BGSK.chunk(2, dim=1), dim=-1).repeat(1, 2, 1, 1)
        one, two = self.weigh(q_BHTK, k_BGSK, v_BGSV, positions_k, flow).chunk(2, dim=1)
        y_BHTV = self.pair_norm(one - self.subtracted().to(one.dtype) * two).to(one.dtype)
        return (1.0 - self.first) * y_BHTV

    def subtracted(self) -> Tensor:
        """lambda: how much of the second softmax is taken from the first."""
        more = (self.lambda_q1 * self.lambda_k1).float().sum().exp()
        return more - (self.lambda_q2 * self.lambda_k2).float().sum().exp() + self.first

    def flops_per_token(self, context: int) -> float:
        more = 2 * self.heads * (self.value_dim - self.head_dim) * self.keys_seen(context)
        return super().flops_per_token(context) + more
