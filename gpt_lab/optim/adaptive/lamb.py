"""LAMB: Adam's direction, at a length that follows each tensor's own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gpt_lab.optim.base import Recipe, Rule, mean_, mean_square_, roots
from gpt_lab.options import NonNegativeFloat, PositiveFloat, Probability
from gpt_lab.registry import register


class LambRule(Rule):
    """u = m-hat / (sqrt(v-hat) + eps) + wd p; p <- p - lr |p| / |u| u. Without the ratio where a norm is 0."""

    def begin(self, p: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        return {"mean": torch.zeros_like(p), "square": torch.zeros_like(p)}

    def update(self, group: dict[str, Any], params: list[Tensor]) -> None:
        (beta1, beta2), lr = group["betas"], group["lr"]
        for step, members, grads in self.counted(params):
            mean, square = self.kept(members, "mean"), self.kept(members, "square")
            mean_(mean, grads, beta1)
            mean_square_(square, grads, beta2)
            update = list(torch._foreach_div(mean, roots(square, group["eps"], 1 - beta2**step)))
            torch._foreach_div_(update, 1 - beta1**step)
            torch._foreach_add_(update, members, alpha=group["weight_decay"])
            if not group["vectors"]:
                weights, lengths = (torch.stack(torch._foreach_norm(of)) for of in (members, update))
                ratios = torch.where((weights > 0) & (lengths > 0), weights / lengths, 1.0)
                torch._foreach_mul_(update, list(ratios.unbind()))
            torch._foreach_add_(members, update, alpha=-lr)


@register("optim", "lamb")
class Lamb(Recipe):
    """LAMB: AdamW whose step has, in each tensor, the length of its weights times the learning rate; for large batches.

    Paper: You et al. 2019, arXiv:1904.00962

    Embeddings, stacked experts and recurrences are a tensor each; gains and biases take AdamW's step as it is.

    lr: length of a step as a share of the tensor's, at its peak.
    weight_decay: weights x weight_decay are added to the direction (gains and biases excepted).
    beta1: decay of the mean of gradients.
    beta2: decay of the mean of their squares.
    eps: added to the root of the second moment.
    """

    rule = LambRule
    no_mup = "its step is a share of each tensor's length, whatever the width: use optim=adamw, or init=normal"

    def __init__(
        self,
        *,
        lr: PositiveFloat = 0.03,
        weight_decay: NonNegativeFloat = 0.1,
        clip: NonNegativeFloat = 1.0,
        beta1: Probability = 0.9,
        beta2: Probability = 0.95,
        eps: PositiveFloat = 1e-6,
    ) -> None:
        super().__init__(lr, weight_decay, clip, betas=(beta1, beta2), eps=eps)
