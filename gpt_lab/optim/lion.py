"""Lion: the sign of a momentum (Chen et al. 2023, arXiv:2302.06675)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from gpt_lab.optim.groups import Group, param_groups
from gpt_lab.options import NonNegativeFloat, PositiveFloat, Probability
from gpt_lab.registry import register


class LionOptimizer(torch.optim.Optimizer):
    """p <- p (1 - lr wd) - lr sign(beta1 m + (1 - beta1) g), then m <- beta2 m + (1 - beta2) g.

    Args:
        params: parameters or parameter groups.
        lr, weight_decay, betas: defaults of groups that do not set their own.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]] | Iterable[Tensor],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params: list[Tensor] = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            grads: list[Tensor] = [p.grad for p in params if p.grad is not None]
            for p in params:
                if not self.state[p]:
                    self.state[p]["momentum"] = torch.zeros_like(p)
            momenta: list[Tensor] = [self.state[p]["momentum"] for p in params]
            (beta1, beta2), lr = group["betas"], group["lr"]
            update = torch._foreach_lerp(momenta, grads, 1 - beta1)
            torch._foreach_sign_(update)
            torch._foreach_mul_(params, 1 - lr * group["weight_decay"])
            torch._foreach_add_(params, update, alpha=-lr)
            torch._foreach_lerp_(momenta, grads, 1 - beta2)
        return loss


@register("optim", "lion")
class Lion:
    """Lion: every weight moves by the learning rate, in the direction of a momentum's sign.

    Paper: Chen et al. 2023, arXiv:2302.06675

    lr: peak learning rate, 3 to 10 times smaller than AdamW's.
    weight_decay: each step shrinks weights by lr x weight_decay; 3 to 10 times larger than AdamW's.
    clip: largest global gradient norm; 0 clips nothing.
    beta1: share of the momentum, against the new gradient, in the step.
    beta2: decay of the momentum.
    """

    def __init__(
        self,
        *,
        lr: PositiveFloat = 0.0003,
        weight_decay: NonNegativeFloat = 0.5,
        clip: NonNegativeFloat = 1.0,
        beta1: Probability = 0.9,
        beta2: Probability = 0.99,
    ) -> None:
        self.lr = lr
        self.weight_decay = weight_decay
        self.clip = clip
        self.betas = (beta1, beta2)

    def build(self, groups: Iterable[Group]) -> torch.optim.Optimizer:
        """The optimizer over these parameters."""
        return LionOptimizer(param_groups(groups, self.lr, self.weight_decay), lr=self.lr, betas=self.betas)
