"""AdEMAMix: Adam with a second, slow mean of gradients."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from gpt_lab.optim.base import Recipe, Rule, mean_, mean_square_, roots, shrink_
from gpt_lab.options import Fraction, NonNegativeFloat, PositiveFloat, Probability
from gpt_lab.registry import register


def risen(progress: float, beta1: float, beta3: float, alpha: float) -> tuple[float, float]:
    """beta3 and alpha at progress in [0, 1] of their rise: beta3 from beta1, linear in its half-life; alpha from 0."""
    if progress >= 1 or beta1 == 0 or beta3 <= beta1:
        return beta3, alpha * min(progress, 1.0)
    log1, log3 = math.log(beta1), math.log(beta3)
    return min(math.exp(log1 * log3 / ((1 - progress) * log3 + progress * log1)), beta3), alpha * progress


class AdEMAMixRule(Rule):
    """p <- p - lr ((m1 / (1 - beta1^t) + alpha m2) / (sqrt(v / (1 - beta2^t)) + eps) + wd p).

    `progress` of a group: the share of the budget that is spent, as the trainer sets it.
    """

    def begin(self, p: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        return {name: torch.zeros_like(p) for name in ("mean", "slow", "square")}

    def update(self, group: dict[str, Any], params: list[Tensor]) -> None:
        (beta1, beta2, beta3), lr = group["betas"], group["lr"]
        share = group["progress"] / group["rise"] if group["rise"] else 1.0
        beta3, alpha = risen(share, beta1, beta3, group["alpha"])
        for step, members, grads in self.counted(params):
            mean, slow, square = (self.kept(members, name) for name in ("mean", "slow", "square"))
            mean_(mean, grads, beta1)
            mean_(slow, grads, beta3)
            mean_square_(square, grads, beta2)
            both = list(torch._foreach_div(mean, 1 - beta1**step))
            torch._foreach_add_(both, slow, alpha=alpha)
            shrink_(members, lr * group["weight_decay"])
            torch._foreach_addcdiv_(members, both, roots(square, group["eps"], 1 - beta2**step), value=-lr)


@register("optim", "ademamix")
class AdEMAMix(Recipe):
    """AdEMAMix: AdamW that adds a slow mean of gradients, which still knows those of long ago.

    Paper: Pagliardini et al. 2024, arXiv:2409.03137

    Every parameter alike, embeddings, experts and recurrences included.

    beta1: decay of the fast mean of gradients.
    beta2: decay of the mean of their squares.
    beta3: decay of the slow mean, in the end; the paper has 0.9999 for 256,000 steps.
    alpha: weight of the slow mean, in the end.
    rise: share of the budget in which alpha rises from 0 and beta3 from beta1.
    eps: added to the root of the second moment.
    """

    rule = AdEMAMixRule
    by_element = True

    def __init__(
        self,
        *,
        lr: PositiveFloat = 0.004,
        weight_decay: NonNegativeFloat = 0.1,
        clip: NonNegativeFloat = 1.0,
        beta1: Probability = 0.9,
        beta2: Probability = 0.95,
        beta3: Probability = 0.999,
        alpha: NonNegativeFloat = 5.0,
        rise: Fraction = 1.0,
        eps: PositiveFloat = 1e-8,
    ) -> None:
        betas = (beta1, beta2, beta3)
        super().__init__(lr, weight_decay, clip, betas=betas, alpha=alpha, rise=rise, eps=eps, progress=1.0)
