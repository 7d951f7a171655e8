"""Adafactor: Adam's denominator from a row and a column of mean squares."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gpt_lab.optim.base import Recipe, Rule, mean_, shrink_
from gpt_lab.options import NonNegativeFloat, PositiveFloat, Probability
from gpt_lab.registry import register


class AdafactorRule(Rule):
    """Algorithm 4 of the paper at a rate that is given; the second moment of (..., m, n) is row x column / mean row."""

    def begin(self, p: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        if group["vectors"] or p.ndim < 2:
            kept = {"square": torch.zeros_like(p)}
        else:
            kept = {"row": torch.zeros_like(p[..., 0]), "column": torch.zeros_like(p[..., 0, :])}
        return kept | ({"mean": torch.zeros_like(p)} if group["beta1"] else {})

    def update(self, group: dict[str, Any], params: list[Tensor]) -> None:
        lr = group["lr"]
        for step, members, grads in self.counted(params):
            beta2 = 1 - step ** -group["decay"]
            update = [self._divided(group, p, grad, beta2) for p, grad in zip(members, grads, strict=True)]
            excess = list(torch._foreach_norm(update))
            torch._foreach_div_(excess, [group["threshold"] * p.numel() ** 0.5 for p in members])
            torch._foreach_clamp_min_(excess, 1.0)
            torch._foreach_div_(update, excess)
            if group["beta1"]:
                means = self.kept(members, "mean")
                mean_(means, update, group["beta1"])
                update = list(torch._foreach_clone(means)) if group["relative"] else means
            if group["relative"]:
                sizes = list(torch._foreach_norm(members))
                torch._foreach_div_(sizes, [p.numel() ** 0.5 for p in members])
                torch._foreach_clamp_min_(sizes, group["eps2"])
                torch._foreach_mul_(update, sizes)
            shrink_(members, lr * group["weight_decay"])
            torch._foreach_add_(members, update, alpha=-lr)

    def _divided(self, group: dict[str, Any], p: Tensor, grad: Tensor, beta2: float) -> Tensor:
        """The gradient over the root of its second moment, which learns from it first."""
        state, square = self.state[p], grad.square().add_(group["eps1"])
        if "square" in state:
            return grad / state["square"].lerp_(square, 1 - beta2).sqrt()
        row = state["row"].lerp_(square.mean(dim=-1), 1 - beta2)
        column = state["column"].lerp_(square.mean(dim=-2), 1 - beta2)
        share = (row / row.mean(dim=-1, keepdim=True)).rsqrt_()
        return grad * share.unsqueeze(-1) * column.rsqrt().unsqueeze(-2)


@register("optim", "adafactor")
class Adafactor(Recipe):
    """Adafactor: divides by a second moment of which each matrix keeps a row and a column, almost no memory.

    Paper: Shazeer and Stern 2018, arXiv:1804.04235

    The learning rate is the schedule's alone: the paper's own decay (1/sqrt(steps) at most) is left out, and its
    scaling by the tensor's size is an option. Embeddings, recurrences and each matrix of stacked experts are factored;
    gains and biases keep their whole second moment.

    beta1: decay of a mean of updates; 0: none, and nothing is kept for it.
    decay: the second moment's mean forgets by 1 - t^-decay at step t.
    threshold: largest root mean square of an update.
    relative: multiply each tensor's rate by the root mean square of its weights.
    eps1: added to squared gradients.
    eps2: least root mean square of weights where relative.
    """

    rule = AdafactorRule

    def __init__(
        self,
        *,
        lr: PositiveFloat = 0.004,
        weight_decay: NonNegativeFloat = 0.1,
        clip: NonNegativeFloat = 1.0,
        beta1: Probability = 0.0,
        decay: PositiveFloat = 0.8,
        threshold: PositiveFloat = 1.0,
        relative: bool = False,
        eps1: PositiveFloat = 1e-30,
        eps2: PositiveFloat = 1e-3,
    ) -> None:
        own = {"decay": decay, "threshold": threshold, "relative": relative, "eps1": eps1, "eps2": eps2}
        super().__init__(lr, weight_decay, clip, beta1=beta1, **own)
