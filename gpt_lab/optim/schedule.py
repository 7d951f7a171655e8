"""The learning rate over training, as a factor on its peak. Imports no torch.

A schedule maps progress in (0, 1] to a factor. The trainer passes (t + 1) / (N + 1) for step t = 0, 1, ... of N, or the
share spent of another budget. So with a warm-up fraction of (W + 1) / (N + 1) the warm-up is (t + 1) / (W + 1).
"""

from __future__ import annotations

import math
from typing import Literal

from gpt_lab.errors import ConfigError
from gpt_lab.options import Fraction
from gpt_lab.registry import register


class _Schedule:
    """Linear warm-up to the peak, then `after`."""

    warmup: float

    def after(self, x: float) -> float:
        """The factor at a share x in [0, 1] of what follows the warm-up."""
        raise NotImplementedError

    def __call__(self, progress: float) -> float:
        """The factor at progress, the share of the budget that is spent; beyond 1 it stays."""
        progress = min(progress, 1.0)
        if progress < self.warmup:
            return progress / self.warmup
        return self.after((progress - self.warmup) / (1 - self.warmup)) if self.warmup < 1 else 1.0


@register("schedule", "cosine")
class Cosine(_Schedule):
    """Half a cosine from the peak to the final learning rate.

    Paper: Loshchilov and Hutter 2017, arXiv:1608.03983

    warmup: share of the budget in which the learning rate rises linearly.
    final: learning rate at the end, as a share of the peak.
    """

    def __init__(self, *, warmup: Fraction = 0.05, final: Fraction = 0.1) -> None:
        self.warmup = warmup
        self.final = final

    def after(self, x: float) -> float:
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * x))


@register("schedule", "linear")
class Linear(_Schedule):
    """A straight line from the peak to the final learning rate.

    Paper: Bergsma et al. 2025, arXiv:2502.15938

    warmup: share of the budget in which the learning rate rises linearly.
    final: learning rate at the end, as a share of the peak.
    """

    def __init__(self, *, warmup: Fraction = 0.05, final: Fraction = 0.0) -> None:
        self.warmup = warmup
        self.final = final

    def after(self, x: float) -> float:
        return self.final + (1 - self.final) * (1 - x)


@register("schedule", "wsd")
class WSD(_Schedule):
    """Warm-up, stable, decay: the peak is held, then a short cooldown.

    Paper: Hägele et al. 2024, arXiv:2405.18392

    warmup: share of the budget in which the learning rate rises linearly.
    final: learning rate at the end, as a share of the peak.
    cooldown: share of the budget, at its end, in which the learning rate falls.
    shape: of the cooldown; sqrt: 1 - sqrt(x), linear: 1 - x.
    """

    def __init__(
        self,
        *,
        warmup: Fraction = 0.05,
        final: Fraction = 0.0,
        cooldown: Fraction = 0.2,
        shape: Literal["sqrt", "linear"] = "sqrt",
    ) -> None:
        if warmup + cooldown > 1:
            raise ConfigError(
                f"schedule.warmup={warmup:g} and schedule.cooldown={cooldown:g} exceed the budget: "
                "their sum must be at most 1"
            )
        self.warmup = warmup
        self.final = final
        self.cooldown = cooldown
        self.shape = shape

    def after(self, x: float) -> float:
        left = (1 - x) * (1 - self.warmup)  # share of the whole budget
        if left >= self.cooldown:
            return 1.0
        done = 1 - left / self.cooldown
        return self.final + (1 - self.final) * (1 - (math.sqrt(done) if self.shape == "sqrt" else done))


@register("schedule", "constant")
class Constant(_Schedule):
    """The peak learning rate to the end.

    Reference: what every decay is compared with

    warmup: share of the budget in which the learning rate rises linearly.
    """

    def __init__(self, *, warmup: Fraction = 0.05) -> None:
        self.warmup = warmup

    def after(self, x: float) -> float:
        return 1.0
