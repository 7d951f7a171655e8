"""Schedule-free AdamW: an average of the weights in place of a decaying learning rate."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from gpt_lab.optim.base import Recipe, Rule, mean_square_, roots
from gpt_lab.options import NonNegativeFloat, OpenShare, PositiveFloat, Probability
from gpt_lab.registry import register


class ScheduleFreeRule(Rule):
    """z moves by AdamW's step, x is the mean of all z weighted by lr^2, gradients are taken at y = (1-beta) z + beta x.

    Between steps parameters hold y, and x in `averaged`; a checkpoint is written there, with y beside it.
    """

    def __init__(self, params: Any, defaults: dict[str, Any]) -> None:
        super().__init__(params, {**defaults, "weights": 0.0, "peak": 0.0})

    def begin(self, p: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        return {"z": p.detach().clone(), "square": torch.zeros_like(p)}

    def rate(self, multiplier: float) -> float:
        """What multiplies the learning rates where the schedule says `multiplier`: they never fall."""
        for group in self.param_groups:
            group["peak"] = multiplier = max(group["peak"], multiplier)
        return multiplier

    def update(self, group: dict[str, Any], params: list[Tensor]) -> None:
        (beta1, beta2), lr = group["betas"], group["lr"]
        group["weights"] += lr**2
        share = lr**2 / group["weights"] if lr else 0.0
        for step, members, grads in self.counted(params):
            z, square = self.kept(members, "z"), self.kept(members, "square")
            mean_square_(square, grads, beta2)
            update = list(torch._foreach_div(grads, roots(square, group["eps"], 1 - beta2**step)))
            torch._foreach_add_(update, members, alpha=group["weight_decay"])
            # x <- (1 - share) x + share z, written for y
            torch._foreach_lerp_(members, z, share)
            torch._foreach_add_(members, update, alpha=lr * (beta1 * (1 - share) - 1))
            torch._foreach_add_(z, update, alpha=-lr)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, parameters are the averages x; after it they are what they were, bit for bit."""
        if any("y" in state for state in self.state.values()):  # they are already
            yield
            return
        for group in self.param_groups:
            for p in group["params"]:
                if "z" in self.state[p]:
                    self.state[p]["y"] = p.detach().clone()
                    with torch.no_grad():
                        p.lerp_(self.state[p]["z"], 1 - 1 / group["betas"][0])
        try:
            yield
        finally:
            self._go_back()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over what `state_dict` gave, and from `averaged` the parameters too."""
        super().load_state_dict(state_dict)
        self._go_back()

    @torch.no_grad()
    def _go_back(self) -> None:
        """From the averages to the points y."""
        for group in self.param_groups:
            for p in group["params"]:
                if "y" in self.state[p]:
                    p.copy_(self.state[p].pop("y"))


@register("optim", "schedule_free")
class ScheduleFree(Recipe):
    """Schedule-free AdamW: the learning rate never falls, and the weights that count are an average of those passed.

    Paper: Defazio et al. 2024, arXiv:2405.15682

    Of the schedule it takes the warm-up and stays at the peak, which train/lr shows; whatever would fall after it does
    nothing. Validation, samples, checkpoints and what is made from them have the averaged weights. Every parameter is
    averaged alike, embeddings, experts and recurrences included.

    beta1: share of the average in the point where gradients are taken; above 0.
    beta2: decay of the mean of squared gradients.
    eps: added to the root of the second moment.
    """

    rule = ScheduleFreeRule
    by_element = True

    def __init__(
        self,
        *,
        lr: PositiveFloat = 0.004,
        weight_decay: NonNegativeFloat = 0.1,
        clip: NonNegativeFloat = 1.0,
        beta1: OpenShare = 0.9,
        beta2: Probability = 0.95,
        eps: PositiveFloat = 1e-8,
    ) -> None:
        super().__init__(lr, weight_decay, clip, betas=(beta1, beta2), eps=eps)
