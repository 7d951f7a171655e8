"""Shampoo: gradients between inverse roots of their second moments over rows and over columns."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor

from gpt_lab.optim.adam import WithAdamW
from gpt_lab.optim.base import Recipe, mean_, mean_square_, roots, shrink_
from gpt_lab.optim.groups import Group
from gpt_lab.optim.matrix.sides import act, outer, sided_groups, sides, square_of
from gpt_lab.options import Fraction, NonNegativeFloat, PositiveFloat, PositiveInt, Probability
from gpt_lab.registry import register


def inverse_root(moment: Tensor, power: float, eps: float) -> Tensor:
    """(moment + eps)^-power of symmetric (..., n, n); eigenvalues that rounding made negative count as 0."""
    values, vectors = torch.linalg.eigh(moment)
    root: Tensor = (vectors * (values.clamp(min=0) + eps).pow(-power).unsqueeze(-2)) @ vectors.mT
    return root.contiguous()  # as it comes from a checkpoint: products round by layout


class ShampooRule(WithAdamW):
    """p <- (1 - lr wd) p - lr f L^(-1/4) m-hat R^(-1/4), with one side alone ^(-1/2); f gives it the grafted length.

    L and R are the means of g g^T and g^T g, or their sums where moment_beta is 1.
    """

    def begin_own(self, p: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        names = ("mean", "square") if group["graft"] == "adam" else ("mean",)
        kept: dict[str, Any] = {name: torch.zeros_like(p) for name in names}
        for side in sides(p, group):
            kept |= {side: square_of(p, side), f"{side}_root": square_of(p, side)}
        return kept

    def update_own(self, group: dict[str, Any], params: list[Tensor]) -> None:
        (beta1, beta2), lr = group["betas"], group["lr"]
        for step, members, grads in self.counted(params):
            mean = self.kept(members, "mean")
            mean_(mean, grads, beta1)
            averaged = list(torch._foreach_div(mean, 1 - beta1**step))
            update = [
                self._between(group, step, p, grad, mean_p)
                for p, grad, mean_p in zip(members, grads, averaged, strict=True)
            ]
            if group["graft"] == "adam":
                square = self.kept(members, "square")
                mean_square_(square, grads, beta2)
                below = roots(square, group["eps"], 1 - beta2**step)
                wanted = torch._foreach_norm(torch._foreach_div(averaged, below))
                lengths = list(torch._foreach_norm(update))
                torch._foreach_clamp_min_(lengths, 1e-30)
                torch._foreach_mul_(update, list(torch._foreach_div(wanted, lengths)))
            shrink_(members, lr * group["weight_decay"])
            torch._foreach_add_(members, update, alpha=-lr)

    def _between(self, group: dict[str, Any], step: int, p: Tensor, grad: Tensor, mean: Tensor) -> Tensor:
        """The mean gradient between the inverse roots, after both moments have learned from the gradient."""
        state, beta, acting = self.state[p], group["moment_beta"], sides(p, group)
        correction = 1.0 if beta == 1 else 1 - beta**step
        due = step <= group["every"] or step % group["every"] == 0
        for side in acting:
            if beta == 1:
                state[side].add_(outer(grad, side))
            else:
                state[side].lerp_(outer(grad, side), 1 - beta)
            if due:
                state[f"{side}_root"] = inverse_root(state[side] / correction, 0.5 / len(acting), group["eps_root"])
            mean = act(state[f"{side}_root"], side, mean)
        return mean


@register("optim", "shampoo")
class Shampoo(Recipe):
    """Shampoo: each matrix moves by its gradient between inverse fourth roots of its row and column moments.

    Paper: Gupta et al. 2018, arXiv:1802.09568; Shi et al. 2023, arXiv:2309.06497 (means, grafting)

    Matrices, a fused qkv as one, and each of stacked experts; embeddings and head from the side of the width alone.
    Gains, biases and what recurrences have beside projections take AdamW's step. beta1=0, moment_beta=1, root_every=1,
    graft=none is the first paper's.

    beta1: decay of the mean of gradients.
    beta2: Adam's decay of the mean of their squares.
    moment_beta: decay of the moments; 1: they are sums.
    root_every: steps between two computations of the roots; in the first so many, each step has one.
    max_dim: a larger side of a matrix is left as it is.
    graft: length of a matrix's step. adam: that of Adam's; none: its own.
    eps: added to eigenvalues of the moments.
    eps_adam: added to the root of Adam's second moment.
    """

    rule = ShampooRule
    no_mup = "its steps are between Adam's and Muon's, whose rules differ: use optim=adamw or muon, or init=normal"

    def __init__(
        self,
        *,
        lr: PositiveFloat = 0.004,
        weight_decay: NonNegativeFloat = 0.1,
        clip: NonNegativeFloat = 1.0,
        beta1: Probability = 0.9,
        beta2: Probability = 0.95,
        moment_beta: Fraction = 0.95,
        root_every: PositiveInt = 10,
        max_dim: PositiveInt = 4096,
        graft: Literal["adam", "none"] = "adam",
        eps: PositiveFloat = 1e-12,
        eps_adam: PositiveFloat = 1e-8,
    ) -> None:
        own = {"moment_beta": moment_beta, "every": root_every, "max_dim": max_dim, "graft": graft, "eps_root": eps}
        super().__init__(lr, weight_decay, clip, betas=(beta1, beta2), eps=eps_adam, **own)

    def build(self, groups: Iterable[Group]) -> torch.optim.Optimizer:
        """The optimizer over these parameters."""
        return ShampooRule(sided_groups(groups, self.lr, self.weight_decay), {"lr": self.lr, **self.settings})
