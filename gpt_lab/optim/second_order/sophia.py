"""Sophia: clipped steps over a light estimate of the diagonal Hessian."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from gpt_lab.optim.base import grads_of, mean_, shrink_
from gpt_lab.optim.second_order.curved import CurvedRecipe, CurvedRule
from gpt_lab.options import NonNegativeFloat, PositiveFloat, PositiveInt, Probability
from gpt_lab.registry import register


class SophiaRule(CurvedRule):
    """p <- (1 - lr wd) p - lr clip(m / max(gamma h, eps), 1), h the mean of the estimates."""

    def begin(self, p: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        return {"mean": torch.zeros_like(p), "hessian": torch.zeros_like(p)}

    def learn(self, group: dict[str, Any], params: list[Tensor], estimates: list[Tensor]) -> None:
        mean_(self.kept(params, "hessian"), estimates, group["betas"][1])

    def update(self, group: dict[str, Any], params: list[Tensor]) -> None:
        lr, mean = group["lr"], self.kept(params, "mean")
        mean_(mean, grads_of(params), group["betas"][0])
        below = list(torch._foreach_mul(self.kept(params, "hessian"), group["gamma"]))
        torch._foreach_clamp_min_(below, group["eps"])
        update = list(torch._foreach_div(mean, below))
        torch._foreach_clamp_min_(update, -1.0)
        torch._foreach_clamp_max_(update, 1.0)
        shrink_(params, lr * group["weight_decay"])
        torch._foreach_add_(params, update, alpha=-lr)


@register("optim", "sophia")
class Sophia(CurvedRecipe):
    """Sophia: momentum divided by an estimated Hessian diagonal, each element of the step clipped to the learning rate.

    Paper: Liu et al. 2023, arXiv:2305.14342

    Every parameter alike, embeddings, experts and recurrences included. Estimates are drawn from (seed, step); FLOPs
    count them.

    estimator: of the Hessian's diagonal. gnb: squared gradient of the loss at targets drawn from the model, times their
        number (Gauss-Newton-Bartlett), without dropout; hutchinson: z x Hz of random signs z, which differentiates
        twice.
    gamma: factor on the estimate; the smaller, the more elements are clipped.
    beta1: decay of the mean of gradients; the paper has 0.96, with which runs of a hundred steps stay on a plateau.
    beta2: decay of the mean of estimates; the paper has 0.99.
    eps: least denominator.
    """

    rule = SophiaRule

    def __init__(
        self,
        *,
        lr: PositiveFloat = 0.003,
        weight_decay: NonNegativeFloat = 0.1,
        clip: NonNegativeFloat = 1.0,
        estimator: Literal["gnb", "hutchinson"] = "gnb",
        hessian_every: PositiveInt = 10,
        gamma: PositiveFloat = 0.05,
        beta1: Probability = 0.8,
        beta2: Probability = 0.95,
        eps: PositiveFloat = 1e-12,
    ) -> None:
        own = {"gamma": gamma, "betas": (beta1, beta2), "eps": eps}
        super().__init__(lr, weight_decay, clip, estimator, hessian_every, **own)
