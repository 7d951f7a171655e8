"""Prodigy: finds its step size from how far the weights have come."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from gpt_lab.optim.base import Recipe, Rule, grads_of, mean_, mean_square_
from gpt_lab.options import NonNegativeFloat, PositiveFloat, Probability
from gpt_lab.registry import register

WHOLE = "all"
"""Key of what is kept of all parameters together."""


class ProdigyRule(Rule):
    """Adam of d g at rate d lr; d is the largest bound so far on how far the first weights are from a minimum.

    After each step d <- max(d, r / |s|_1) over all parameters, where r and s forget by sqrt(beta2) and gain lr d^2
    <g, first - p> and lr d^2 g.
    """

    def begin(self, p: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        return {name: torch.zeros_like(p) for name in ("mean", "square", "s")} | {"first": p.detach().clone()}

    def estimate(self) -> None:
        """The d of this step and, in tensors so that no device is waited for, that of the next."""
        d0, forget = self.defaults["d0"], math.sqrt(self.defaults["betas"][1])
        params = [p for group in self.param_groups for p in self.moved(group)]
        if not params:
            return
        whole: dict[str, Tensor] = self.state[WHOLE]  # type: ignore[index]
        if not whole:
            whole |= {"next": params[0].new_full((), d0), "r": params[0].new_zeros(())}
        d = whole["d"] = whole["next"]
        whole["r"] = whole["r"] * forget
        length = torch.zeros_like(d)
        for group in self.param_groups:
            if not (members := self.moved(group)):
                continue
            grads, s, gain = grads_of(members), self.kept(members, "s"), group["lr"] * d * d / d0
            away = torch._foreach_sub(self.kept(members, "first"), members)
            dots = [torch.sum(g * a) for g, a in zip(grads, away, strict=True)]
            whole["r"] = whole["r"] + torch.stack(dots).sum() * gain
            torch._foreach_mul_(s, forget)
            torch._foreach_add_(s, torch._foreach_mul(grads, gain))
            length = length + torch.stack([one.abs().sum() for one in s]).sum()
        found = torch.where(length > 0, self.defaults["d_coef"] * whole["r"] / length, d)
        whole["next"] = torch.maximum(d, found)

    def update(self, group: dict[str, Any], params: list[Tensor]) -> None:
        d: Tensor = self.state[WHOLE]["d"]  # type: ignore[index]
        (beta1, beta2), mean, square = group["betas"], self.kept(params, "mean"), self.kept(params, "square")
        grads = list(torch._foreach_mul(grads_of(params), d))
        mean_(mean, grads, beta1)
        mean_square_(square, grads, beta2)
        below = list(torch._foreach_sqrt(square))
        torch._foreach_add_(below, d * group["eps"])
        update = list(torch._foreach_div(mean, below))
        torch._foreach_add_(update, params, alpha=group["weight_decay"])
        torch._foreach_mul_(update, d)
        torch._foreach_add_(params, update, alpha=-group["lr"])


@register("optim", "prodigy")
class Prodigy(Recipe):
    """Prodigy: AdamW that estimates its own step size d while it trains; the schedule shapes it.

    Paper: Mishchenko and Defazio 2023, arXiv:2306.06101

    One d for all parameters, embeddings, experts and recurrences included.

    lr: factor on the estimated step size, at its peak.
    weight_decay: each step shrinks weights by d x lr x weight_decay (gains and biases excepted).
    beta1: decay of the mean of gradients.
    beta2: decay of the mean of their squares; its root is that of what d is estimated from.
    d0: the first d.
    d_coef: factor on each estimate.
    eps: times d it is added to the root of the second moment.
    """

    rule = ProdigyRule
    no_mup = "one step size is estimated for all of its parameters: use optim=adamw, or init=normal"

    def __init__(
        self,
        *,
        lr: PositiveFloat = 1.0,
        weight_decay: NonNegativeFloat = 0.1,
        clip: NonNegativeFloat = 1.0,
        beta1: Probability = 0.9,
        beta2: Probability = 0.99,
        d0: PositiveFloat = 1e-6,
        d_coef: PositiveFloat = 1.0,
        eps: PositiveFloat = 1e-8,
    ) -> None:
        super().__init__(lr, weight_decay, clip, betas=(beta1, beta2), d0=d0, d_coef=d_coef, eps=eps)
