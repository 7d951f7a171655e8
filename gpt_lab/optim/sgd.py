"""Stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from gpt_lab.errors import ConfigError
from gpt_lab.optim.base import Recipe
from gpt_lab.optim.groups import Group, param_groups
from gpt_lab.options import NonNegativeFloat, PositiveFloat, Probability
from gpt_lab.registry import register


@register("optim", "sgd")
class SGD(Recipe):
    """Stochastic gradient descent with momentum; weight decay is added to the gradient.

    Paper: Sutskever et al. 2013, https://proceedings.mlr.press/v28/sutskever13.html

    Every parameter alike, embeddings, experts and recurrences included.

    weight_decay: L2 penalty (gains and biases excepted).
    momentum: decay of the sum of gradients; 0 turns momentum off.
    nesterov: look one step ahead along the momentum.
    """

    by_element = True
    no_mup = "its steps are as large as gradients are, for which muP has other rules: use optim=adamw, or init=normal"

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
        super().__init__(lr, weight_decay, clip, momentum=momentum, nesterov=nesterov)

    def build(self, groups: Iterable[Group]) -> torch.optim.Optimizer:
        """The optimizer over these parameters."""
        found = param_groups(groups, self.lr, self.weight_decay)
        # not fused: a first step that a loss scaler skips would leave its momentum uninitialised
        return torch.optim.SGD(found, lr=self.lr, foreach=True, **self.settings)
