"""ADOPT: Adam whose denominator has not seen the gradient that it divides."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gpt_lab.optim.base import Recipe, Rule, mean_, mean_square_, shrink_
from gpt_lab.options import NonNegativeFloat, PositiveFloat, Probability
from gpt_lab.registry import register


class AdoptRule(Rule):
    """v begins as the first gradient's square, at which nothing moves; then m <- mean of clip(g / max(sqrt v, eps)).

    The t-th division is clipped to +- t^(1/4).
    """

    def begin(self, p: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        return {"mean": torch.zeros_like(p), "square": torch.zeros_like(p)}

    def update(self, group: dict[str, Any], params: list[Tensor]) -> None:
        (beta1, beta2), lr = group["betas"], group["lr"]
        for step, members, grads in self.counted(params):
            mean, square = self.kept(members, "mean"), self.kept(members, "square")
            if step == 1:
                mean_square_(square, grads, 0.0)
                continue
            below = list(torch._foreach_sqrt(square))
            torch._foreach_clamp_min_(below, group["eps"])
            normed = list(torch._foreach_div(grads, below))
            limit = (step - 1) ** 0.25
            torch._foreach_clamp_min_(normed, -limit)
            torch._foreach_clamp_max_(normed, limit)
            mean_(mean, normed, beta1)
            shrink_(members, lr * group["weight_decay"])
            torch._foreach_add_(members, mean, alpha=-lr)
            mean_square_(square, grads, beta2)


@register("optim", "adopt")
class Adopt(Recipe):
    """ADOPT: Adam that divides by the mean square of earlier gradients alone, and converges with any beta2.

    Paper: Taniguchi et al. 2024, arXiv:2411.02853

    Every parameter alike, embeddings, experts and recurrences included. The first step only measures.

    beta1: decay of the mean of divided gradients.
    beta2: decay of the mean of squares.
    eps: least denominator.
    """

    rule = AdoptRule
    by_element = True

    def __init__(
        self,
        *,
        lr: PositiveFloat = 0.004,
        weight_decay: NonNegativeFloat = 0.1,
        clip: NonNegativeFloat = 1.0,
        beta1: Probability = 0.9,
        beta2: Probability = 0.95,
        eps: PositiveFloat = 1e-6,
    ) -> None:
        super().__init__(lr, weight_decay, clip, betas=(beta1, beta2), eps=eps)
