"""Schedules of learning rate and weight decay, as factors on the stated values. Imports no torch.

A schedule maps progress in (0, 1] and the step to a factor. The trainer passes (t + 1) / (N + 1) and t for step
t = 0, 1, ... of N, or the share spent of a budget in seconds and t. So with a warm-up fraction of (W + 1) / (N + 1) the
warm-up is (t + 1) / (W + 1), and so it is with a warm-up of W steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from gpt_lab.errors import ConfigError
from gpt_lab.options import Fraction, Steps
from gpt_lab.registry import register


class _Schedule:
    """Linear warm-up to the peak, then `after`.

    warmup: share of the budget, or (2 and more) steps, in which the learning rate rises linearly.
    final: learning rate at the end, as a share of the peak.
    weight_decay: factor on optim.weight_decay over the run. constant: 1; linear: 1 - x at share x of the budget, as in
        nanochat; cosine: half a cosine from 1 to 0; proportional: as the learning rate's (Defazio 2025,
        arXiv:2506.02285).
    """

    def __init__(
        self,
        *,
        warmup: Fraction | Steps = 0.25,
        weight_decay: Literal["constant", "linear", "cosine", "proportional"] = "constant",
    ) -> None:
        self.warmup = warmup
        self.weight_decay = weight_decay

    def after(self, progress: float, start: float) -> float:
        """The factor at progress in [start, 1], where the warm-up ended at progress `start`."""
        raise NotImplementedError

    def __call__(self, progress: float, step: int) -> float:
        """The factor of a 0-based step at progress, the share of the budget that is spent; beyond 1 it stays.

        Under a budget in seconds a warm-up in steps is taken to have ended at the speed of all steps so far.
        """
        progress = min(progress, 1.0)
        if isinstance(self.warmup, int):
            if step < self.warmup:
                return (step + 1) / (self.warmup + 1)
            start = progress * (self.warmup + 1) / (step + 1)
        else:
            start = self.warmup
            if progress < start:
                return progress / start
        return self.after(progress, start)


def decay_factor(how: str, progress: float, multiplier: float) -> float:
    """The factor on the weight decay at progress, the share of the budget that is spent; beyond 1 it stays.

    Args:
        how: the option `weight_decay` of a schedule. multiplier: what the schedule makes of the learning rate.
    """
    left = 1 - min(progress, 1.0)
    factors = {"linear": left, "cosine": 0.5 * (1 - math.cos(math.pi * left)), "proportional": multiplier}
    return factors.get(how, 1.0)


def check_length(settings: Mapping[str, Any], steps: int | None) -> None:
    """Refuses a warm-up in steps that a budget of `steps` (None: of seconds) has no room for.

    Raises:
        ConfigError: the cooldown, or the end, would come before the peak.
    """
    warmup, cooldown = settings.get("warmup"), settings.get("cooldown", 0.0)
    if steps is not None and isinstance(warmup, int) and (warmup + 1) / (steps + 1) + cooldown > 1:
        rest = f" and a cooldown of {cooldown:.0%}" if cooldown else ""
        raise ConfigError(f"{warmup} steps of warm-up{rest} exceed a budget of {steps} steps: lower schedule.warmup")


def _share(progress: float, start: float) -> float:
    """How far progress is from the warm-up's end to the budget's, in [0, 1]."""
    return (progress - start) / (1 - start) if start < 1 else 0.0


@register("schedule", "cosine")
class Cosine(_Schedule):
    """Half a cosine from the peak to the final learning rate.

    Paper: Loshchilov and Hutter 2017, arXiv:1608.03983
    """

    def __init__(self, *, final: Fraction = 0.1, **options: Any) -> None:
        super().__init__(**options)
        self.final = final

    def after(self, progress: float, start: float) -> float:
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * _share(progress, start)))


@register("schedule", "linear")
class Linear(_Schedule):
    """A straight line from the peak to the final learning rate.

    Paper: Bergsma et al. 2025, arXiv:2502.15938
    """

    def __init__(self, *, final: Fraction = 0.0, **options: Any) -> None:
        super().__init__(**options)
        self.final = final

    def after(self, progress: float, start: float) -> float:
        return self.final + (1 - self.final) * (1 - _share(progress, start))


@register("schedule", "wsd")
class WSD(_Schedule):
    """Warm-up, stable, decay: the peak is held, then a short cooldown.

    Paper: Hägele et al. 2024, arXiv:2405.18392

    cooldown: share of the budget, at its end, in which the learning rate falls.
    shape: of the cooldown; sqrt: 1 - sqrt(x), linear: 1 - x.
    """

    def __init__(
        self,
        *,
        final: Fraction = 0.0,
        cooldown: Fraction = 0.2,
        shape: Literal["sqrt", "linear"] = "sqrt",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if isinstance(self.warmup, float) and self.warmup + cooldown > 1:
            raise ConfigError(
                f"schedule.warmup={self.warmup:g} and schedule.cooldown={cooldown:g} exceed the budget: "
                "their sum must be at most 1"
            )
        self.final = final
        self.cooldown = cooldown
        self.shape = shape

    def after(self, progress: float, start: float) -> float:
        left = 1 - progress
        if left >= self.cooldown:
            return 1.0
        done = 1 - left / self.cooldown
        return self.final + (1 - self.final) * (1 - (math.sqrt(done) if self.shape == "sqrt" else done))


@register("schedule", "constant")
class Constant(_Schedule):
    """The peak learning rate to the end.

    Reference: what every decay is compared with
    """

    def after(self, progress: float, start: float) -> float:
        return 1.0
