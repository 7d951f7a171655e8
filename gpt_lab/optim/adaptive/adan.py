"""Adan: Nesterov momentum through differences of gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gpt_lab.optim.base import Recipe, Rule, mean_, mean_square_, roots
from gpt_lab.options import NonNegativeFloat, PositiveFloat, Probability
from gpt_lab.registry import register


class AdanRule(Rule):
    """Algorithm 1 with the bias corrections of the authors' code; d is the mean of g - previous g, 0 at first."""

    def begin(self, p: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        return {name: torch.zeros_like(p) for name in ("mean", "difference", "square", "previous")}

    def update(self, group: dict[str, Any], params: list[Tensor]) -> None:
        (beta1, beta2, beta3), lr = group["betas"], group["lr"]
        for step, members, grads in self.counted(params):
            previous, square = self.kept(members, "previous"), self.kept(members, "square")
            mean, difference = self.kept(members, "mean"), self.kept(members, "difference")
            change = list(torch._foreach_sub(grads, grads if step == 1 else previous))
            mean_(mean, grads, beta1)
            mean_(difference, change, beta2)
            ahead = torch._foreach_add(grads, change, alpha=beta2)
            mean_square_(square, list(ahead), beta3)
            below = roots(square, group["eps"], 1 - beta3**step)
            torch._foreach_addcdiv_(members, mean, below, value=-lr / (1 - beta1**step))
            torch._foreach_addcdiv_(members, difference, below, value=-lr * beta2 / (1 - beta2**step))
            torch._foreach_div_(members, 1 + lr * group["weight_decay"])
            torch._foreach_copy_(previous, grads)


@register("optim", "adan")
class Adan(Recipe):
    """Adan: adaptive Nesterov momentum, from means of the gradient, of its change, and of their squared sum.

    Paper: Xie et al. 2022, arXiv:2208.06677

    Every parameter alike, embeddings, experts and recurrences included.

    weight_decay: each step divides weights by 1 + lr x weight_decay (gains and biases excepted).
    beta1: decay of the mean of gradients.
    beta2: decay of the mean of their changes from step to step.
    beta3: decay of the mean square of gradient + beta2 x change.
    eps: added to the root of the mean square.
    """

    rule = AdanRule
    by_element = True

    def __init__(
        self,
        *,
        lr: PositiveFloat = 0.004,
        weight_decay: NonNegativeFloat = 0.1,
        clip: NonNegativeFloat = 1.0,
        beta1: Probability = 0.98,
        beta2: Probability = 0.92,
        beta3: Probability = 0.99,
        eps: PositiveFloat = 1e-8,
    ) -> None:
        super().__init__(lr, weight_decay, clip, betas=(beta1, beta2, beta3), eps=eps)
