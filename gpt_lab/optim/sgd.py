"""Stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from gpt_lab.errors import ConfigError
from gpt_lab.optim.groups import Group, param_groups
from gpt_lab.options import NonNegativeFloat, PositiveFloat, Probability
from gpt_lab.registry import register


@register("optim", "sgd")
class SGD:
    """Stochastic gradient descent with momentum; weight decay is added to the gradient.

    Paper: Sutskever et al. 2013, https://proceedings.mlr.press/v28/sutskever13.html

    lr: peak learning rate.
    weight_decay: L2 penalty.
    clip: largest global gradient norm; 0 clips nothing.
    momentum: decay of the sum of gradients; 0 turns momentum off.
    nesterov: look one step ahead along the momentum.
    """

    def __init__(
        self,
        *,
        lr: PositiveFloat = 0.1,
        weight_decay: NonNegativeFloat = 0.0,
        clip: NonNegativeFloat = 1.0,
        momentum: Probability = 0.9,
        nesterov: bool = False,
    ) -> None:
        if nesterov and momentum == 0:
            raise ConfigError("optim.nesterov=true needs momentum: set optim.momentum, say to 0.9")
        self.lr = lr
        self.weight_decay = weight_decay
        self.clip = clip
        self.momentum = momentum
        self.nesterov = nesterov

    def build(self, groups: Iterable[Group]) -> torch.optim.Optimizer:
        """The optimizer over these parameters."""
        settings = param_groups(groups, self.lr, self.weight_decay)
        # not fused: a first step that a loss scaler skips would leave its momentum uninitialised
        return torch.optim.SGD(settings, lr=self.lr, momentum=self.momentum, nesterov=self.nesterov, foreach=True)
