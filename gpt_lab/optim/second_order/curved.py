"""What an optimizer asks of the trainer that needs more than gradients: estimates of the loss's curvature."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from gpt_lab.optim.base import Recipe, Rule

Estimator = Literal["gnb", "hutchinson"]
FORWARDS: dict[Estimator, int] = {"gnb": 3, "hutchinson": 6}
"""Forward passes' worth of matrix products that an estimate costs beside the gradient of its step.

gnb: a forward pass and a gradient of its own (1 + 2). hutchinson: the gradient of the gradient that the step takes
anyway, through its forward pass (2) and through its backward pass (4).
"""


class CurvedRule(Rule):
    """A rule that learns of the curvature at steps 0, every, 2 every, ...

    Args:
        defaults: `estimator` gnb or hutchinson, and `every`, beside the rule's own.
    """

    def __init__(self, params: Any, defaults: dict[str, Any]) -> None:
        super().__init__(params, defaults)
        self.estimator: Estimator = defaults["estimator"]
        self.every: int = defaults["every"]

    @torch.no_grad()
    def curve(self, params: Sequence[Tensor], estimates: Sequence[Tensor]) -> None:
        """Takes estimates of the diagonal of the Hessian, one for each parameter."""
        known = dict(zip(params, estimates, strict=True))
        for group in self.param_groups:
            members = [p for p in group["params"] if p in known]
            self.ready(group, members)
            if members:
                self.learn(group, members, [known[p] for p in members])

    @abstractmethod
    def learn(self, group: dict[str, Any], params: list[Tensor], estimates: list[Tensor]) -> None:
        """As `curve`, of the parameters of one group."""


class CurvedRecipe(Recipe):
    """The settings of one that asks for estimates.

    hessian_every: steps between two estimates.
    """

    estimator: Estimator

    def __init__(
        self, lr: float, weight_decay: float, clip: float, estimator: Estimator, every: int, **settings: Any
    ) -> None:
        super().__init__(lr, weight_decay, clip, estimator=estimator, every=every, **settings)
        self.estimator = estimator
        self.every = every

    def flops_per_token(self, model: Any, forward: float, context: int) -> float:
        """An estimate's, a share of which each step bears."""
        return FORWARDS[self.estimator] * forward / self.every
