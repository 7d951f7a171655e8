"""Adam and AdamW, torch's fused kernels."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from gpt_lab.optim.groups import Group, param_groups
from gpt_lab.options import NonNegativeFloat, PositiveFloat, Probability
from gpt_lab.registry import register


@register("optim", "adamw")
class AdamW:
    """Adam with decoupled weight decay: the default of language modelling.

    Paper: Loshchilov and Hutter 2019, arXiv:1711.05101

    lr: peak learning rate.
    weight_decay: each step shrinks weights by lr x weight_decay (gains and biases excepted).
    clip: largest global gradient norm; 0 clips nothing.
    beta1: decay of the mean of gradients.
    beta2: decay of the mean of their squares; at 0.99 runs that differ by chance end twice as far apart
        (benchmarks/README.md).
    eps: added to the root of the second moment.
    """

    rule: type[torch.optim.Adam] = torch.optim.AdamW

    def __init__(
        self,
        *,
        lr: PositiveFloat = 0.004,
        weight_decay: NonNegativeFloat = 0.1,
        clip: NonNegativeFloat = 1.0,
        beta1: Probability = 0.9,
        beta2: Probability = 0.95,
        eps: PositiveFloat = 1e-8,
    ) -> None:
        self.lr = lr
        self.weight_decay = weight_decay
        self.clip = clip
        self.betas = (beta1, beta2)
        self.eps = eps

    def build(self, groups: Iterable[Group]) -> torch.optim.Optimizer:
        """The optimizer; fused is the fastest on CUDA and on CPU (1.07x a whole training step at 4 x 128)."""
        settings = param_groups(groups, self.lr, self.weight_decay)
        return self.rule(settings, lr=self.lr, betas=self.betas, eps=self.eps, fused=True)


@register("optim", "adam")
class Adam(AdamW):
    """Adam: step size from the mean and the mean square of gradients; weight decay is added to the gradient.

    Paper: Kingma and Ba 2015, arXiv:1412.6980

    weight_decay: L2 penalty; its gradient weight_decay x weight goes through the moments.
    beta2: decay of the mean of their squares.
    """

    rule = torch.optim.Adam

    def __init__(self, *, weight_decay: NonNegativeFloat = 0.0, **options: Any) -> None:
        super().__init__(weight_decay=weight_decay, **options)
