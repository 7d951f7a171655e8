"""SOAP: Adam in the eigenbases of Shampoo's moments."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from gpt_lab.optim.adam import WithAdamW
from gpt_lab.optim.base import Recipe, shrink_
from gpt_lab.optim.groups import Group
from gpt_lab.optim.matrix.sides import DIMENSION, act, outer, sided_groups, sides, square_of
from gpt_lab.options import NonNegativeFloat, PositiveFloat, PositiveInt, Probability
from gpt_lab.registry import register


class SoapRule(WithAdamW):
    """p <- (1 - lr wd) p - lr Q_L (m' / (sqrt v + eps)) Q_R^T, where g' = Q_L^T g Q_R and v is the mean of g'^2.

    Q_L and Q_R are the eigenvectors of the means of g g^T and g^T g: of the first gradient, at which nothing moves,
    then followed by a step of orthogonal iteration every `every` steps.
    """

    def begin_own(self, p: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        kept: dict[str, Any] = {"mean": torch.zeros_like(p), "square": torch.zeros_like(p)}
        for side in sides(p, group):
            kept |= {side: square_of(p, side), f"{side}_basis": square_of(p, side)}
        return kept

    def update_own(self, group: dict[str, Any], params: list[Tensor]) -> None:
        (beta1, beta2), lr = group["betas"], group["lr"]
        for step, members, grads in self.counted(params):
            if step > 1:
                size = lr * (1 - beta2 ** (step - 1)) ** 0.5 / (1 - beta1 ** (step - 1))
                update = [self._rotated(group, p, grad) for p, grad in zip(members, grads, strict=True)]
                shrink_(members, lr * group["weight_decay"])
                torch._foreach_add_(members, update, alpha=-size)
            for p, grad in zip(members, grads, strict=True):
                self._follow(group, step, p, grad)

    def _rotated(self, group: dict[str, Any], p: Tensor, grad: Tensor) -> Tensor:
        """Adam's direction in the eigenbases, turned back."""
        state, (beta1, beta2), acting = self.state[p], group["betas"], sides(p, group)
        mean = state["mean"].lerp_(grad, 1 - beta1)
        for side in acting:
            grad, mean = (act(state[f"{side}_basis"], side, t) for t in (grad, mean))
        square = state["square"].mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        update = mean / square.sqrt().add_(group["eps"])
        for side in acting:
            update = act(state[f"{side}_basis"].mT, side, update)
        return update

    def _follow(self, group: dict[str, Any], step: int, p: Tensor, grad: Tensor) -> None:
        """The moments learn from the gradient, and the bases from the moments when that is due."""
        state = self.state[p]
        for side in sides(p, group):
            moment = state[side].lerp_(outer(grad, side), 1 - group["betas"][1])
            if step == 1:
                state[f"{side}_basis"] = torch.linalg.eigh(moment).eigenvectors.flip(-1).contiguous()
            elif (step - 1) % group["every"] == 0:
                turned = moment @ state[f"{side}_basis"]
                # the largest first, and what is known of each direction goes with it
                order = (state[f"{side}_basis"] * turned).sum(-2).argsort(dim=-1, descending=True)
                dim = DIMENSION[side]
                state["square"] = torch.take_along_dim(state["square"], order.unsqueeze(-1 if dim == -2 else -2), dim)
                basis = torch.linalg.qr(torch.take_along_dim(turned, order.unsqueeze(-2), -1)).Q
                state[f"{side}_basis"] = basis.contiguous()  # as it comes from a checkpoint: products round by layout


@register("optim", "soap")
class Soap(Recipe):
    """SOAP: AdamW in slowly turning coordinates, the eigenvectors of each matrix's row and column moments.

    Paper: Vyas et al. 2024, arXiv:2409.11321

    Matrices, a fused qkv as one, and each of stacked experts; embeddings and head from the side of the width alone.
    Gains, biases and what recurrences have beside projections take AdamW's step. The first step only measures.

    beta1: decay of the mean of gradients.
    beta2: decay of the mean of their squares and of the moments.
    basis_every: steps between two turns of the coordinates.
    max_dim: a larger side of a matrix is left as it is.
    eps: added to the root of the mean square.
    """

    rule = SoapRule
    no_mup = "its steps are between Adam's and Muon's, whose rules differ: use optim=adamw or muon, or init=normal"

    def __init__(
        self,
        *,
        lr: PositiveFloat = 0.004,
        weight_decay: NonNegativeFloat = 0.1,
        clip: NonNegativeFloat = 1.0,
        beta1: Probability = 0.95,
        beta2: Probability = 0.95,
        basis_every: PositiveInt = 10,
        max_dim: PositiveInt = 4096,
        eps: PositiveFloat = 1e-8,
    ) -> None:
        super().__init__(lr, weight_decay, clip, betas=(beta1, beta2), every=basis_every, max_dim=max_dim, eps=eps)

    def build(self, groups: Iterable[Group]) -> torch.optim.Optimizer:
        """The optimizer over these parameters."""
        return SoapRule(sided_groups(groups, self.lr, self.weight_decay), {"lr": self.lr, **self.settings})
