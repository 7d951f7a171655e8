"""MARS: gradients corrected by how they changed, before AdamW's means."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gpt_lab.optim.base import Recipe, Rule, mean_, mean_square_, roots, shrink_
from gpt_lab.options import NonNegativeFloat, PositiveFloat, Probability
from gpt_lab.registry import register


class MarsRule(Rule):
    """AdamW of c = g + gamma beta1 / (1 - beta1) (g - previous g), each tensor's c cut to length 1."""

    def begin(self, p: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        names = ("mean", "square") if group["vectors"] else ("mean", "square", "previous")
        return {name: torch.zeros_like(p) for name in names}

    def update(self, group: dict[str, Any], params: list[Tensor]) -> None:
        (beta1, beta2), lr = group["betas"], group["lr"]
        for step, members, grads in self.counted(params):
            corrected = grads
            if not group["vectors"]:
                previous = self.kept(members, "previous")
                change = torch._foreach_sub(grads, grads if step == 1 else previous)
                corrected = list(torch._foreach_add(grads, change, alpha=group["gamma"] * beta1 / (1 - beta1)))
                lengths = list(torch._foreach_norm(corrected))
                torch._foreach_clamp_min_(lengths, 1.0)
                torch._foreach_div_(corrected, lengths)
                torch._foreach_copy_(previous, grads)
            mean, square = self.kept(members, "mean"), self.kept(members, "square")
            mean_(mean, corrected, beta1)
            mean_square_(square, corrected, beta2)
            shrink_(members, lr * group["weight_decay"])
            below = roots(square, group["eps"], 1 - beta2**step)
            torch._foreach_addcdiv_(members, mean, below, value=-lr / (1 - beta1**step))


@register("optim", "mars")
class Mars(Recipe):
    """MARS-AdamW: AdamW of gradients from which the noise of the last batch is partly taken, by their change.

    Paper: Yuan et al. 2024, arXiv:2411.10438

    The change is from batch to batch (the paper's MARS-approx), so a step costs one gradient; at the first it is
    0. Embeddings, stacked experts and recurrences are a tensor each; gains and biases take AdamW's step.

    gamma: strength of the correction; 0: none, which leaves AdamW of gradients cut to length 1.
    beta1: decay of the mean of corrected gradients.
    beta2: decay of the mean of their squares.
    eps: added to the root of the second moment.
    """

    rule = MarsRule

    def __init__(
        self,
        *,
        lr: PositiveFloat = 0.004,
        weight_decay: NonNegativeFloat = 0.1,
        clip: NonNegativeFloat = 1.0,
        gamma: NonNegativeFloat = 0.025,
        beta1: Probability = 0.95,
        beta2: Probability = 0.99,
        eps: PositiveFloat = 1e-8,
    ) -> None:
        super().__init__(lr, weight_decay, clip, gamma=gamma, betas=(beta1, beta2), eps=eps)
