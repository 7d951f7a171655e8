"""Lion: the sign of a momentum (Chen et al. 2023, arXiv:2302.06675)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gpt_lab.optim.base import Recipe, Rule
from gpt_lab.options import NonNegativeFloat, PositiveFloat, Probability
from gpt_lab.registry import register


class LionRule(Rule):
    """p <- p (1 - lr wd) - lr sign(beta1 m + (1 - beta1) g), then m <- beta2 m + (1 - beta2) g."""

    def begin(self, p: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        return {"momentum": torch.zeros_like(p)}

    def update(self, group: dict[str, Any], params: list[Tensor]) -> None:
        grads: list[Tensor] = [p.grad for p in params if p.grad is not None]
        momenta = self.kept(params, "momentum")
        (beta1, beta2), lr = group["betas"], group["lr"]
        update = torch._foreach_lerp(momenta, grads, 1 - beta1)
        torch._foreach_sign_(update)
        torch._foreach_mul_(params, 1 - lr * group["weight_decay"])
        torch._foreach_add_(params, update, alpha=-lr)
        torch._foreach_lerp_(momenta, grads, 1 - beta2)


@register("optim", "lion")
class Lion(Recipe):
    """Lion: every weight moves by the learning rate, in the direction of a momentum's sign.

    Paper: Chen et al. 2023, arXiv:2302.06675

    Every parameter alike, embeddings, experts and recurrences included.

    lr: peak learning rate, 3 to 10 times smaller than AdamW's.
    weight_decay: each step shrinks weights by lr x weight_decay; 3 to 10 times larger than AdamW's.
    beta1: share of the momentum, against the new gradient, in the step.
    beta2: decay of the momentum.
    """

    rule = LionRule
    by_element = True

    def __init__(
        self,
        *,
        lr: PositiveFloat = 0.0003,
        weight_decay: NonNegativeFloat = 0.5,
        clip: NonNegativeFloat = 1.0,
        beta1: Probability = 0.9,
        beta2: Probability = 0.99,
    ) -> None:
        super().__init__(lr, weight_decay, clip, betas=(beta1, beta2))
