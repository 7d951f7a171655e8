"""AdaHessian: Adam whose denominator is made of Hessian diagonals in place of gradients."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gpt_lab.optim.base import mean_, mean_square_, shrink_
from gpt_lab.optim.second_order.curved import CurvedRecipe, CurvedRule
from gpt_lab.options import Fraction, NonNegativeFloat, PositiveFloat, PositiveInt, Probability
from gpt_lab.registry import register


def blockwise(estimate: Tensor, block: int) -> Tensor:
    """Each size in a matrix becomes the mean over the `block` numbers of its row that it lies among; vectors stay."""
    if estimate.ndim < 2 or block == 1:
        return estimate
    sizes = estimate.abs().reshape(-1, 1, estimate.shape[-1])
    means = F.avg_pool1d(sizes, block, ceil_mode=True, count_include_pad=False)
    return means.repeat_interleave(block, dim=-1)[..., : estimate.shape[-1]].view_as(estimate)


class AdaHessianRule(CurvedRule):
    """p <- (1 - lr wd) p - lr m-hat / (h-hat^(power / 2) + eps), h the mean square of the estimates, `seen` of them."""

    def begin(self, p: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        return {"mean": torch.zeros_like(p), "square": torch.zeros_like(p), "seen": 0}

    def learn(self, group: dict[str, Any], params: list[Tensor], estimates: list[Tensor]) -> None:
        smooth = [blockwise(estimate, group["block"]) for estimate in estimates]
        mean_square_(self.kept(params, "square"), smooth, group["betas"][1])
        for p in params:
            self.state[p]["seen"] += 1

    def update(self, group: dict[str, Any], params: list[Tensor]) -> None:
        (beta1, beta2), lr = group["betas"], group["lr"]
        for step, members, grads in self.counted(params):
            mean = self.kept(members, "mean")
            mean_(mean, grads, beta1)
            corrections = [1 - beta2 ** max(seen, 1) for seen in self.kept(members, "seen")]
            below = list(torch._foreach_div(self.kept(members, "square"), corrections))
            torch._foreach_pow_(below, group["power"] / 2)
            torch._foreach_add_(below, group["eps"])
            shrink_(members, lr * group["weight_decay"])
            torch._foreach_addcdiv_(members, mean, below, value=-lr / (1 - beta1**step))


@register("optim", "adahessian")
class AdaHessian(CurvedRecipe):
    """AdaHessian: AdamW with the Hessian's diagonal, estimated by Hutchinson's method, where AdamW has the gradient.

    Paper: Yao et al. 2020, arXiv:2006.00719

    Every parameter alike, embeddings, experts and recurrences included; in vectors nothing is averaged over blocks.
    Differentiates twice, so that it needs kernel=math and takes three times as long. Estimates are drawn from
    (seed, step); FLOPs count them.

    block: numbers of a row whose estimates are averaged; 1: each stands alone.
    power: of the Hessian's root mean square in the denominator; smaller ones trust it less.
    beta1: decay of the mean of gradients.
    beta2: decay of the mean of squared estimates.
    eps: added to the denominator.
    """

    rule = AdaHessianRule
    no_mup = "its steps change with the size of the Hessian, and that with the width: use optim=adamw, or init=normal"

    def __init__(
        self,
        *,
        lr: PositiveFloat = 0.3,
        weight_decay: NonNegativeFloat = 0.1,
        clip: NonNegativeFloat = 1.0,
        hessian_every: PositiveInt = 1,
        block: PositiveInt = 32,
        power: Fraction = 1.0,
        beta1: Probability = 0.9,
        beta2: Probability = 0.95,
        eps: PositiveFloat = 1e-8,
    ) -> None:
        own = {"block": block, "power": power, "betas": (beta1, beta2), "eps": eps}
        super().__init__(lr, weight_decay, clip, "hutchinson", hessian_every, **own)
