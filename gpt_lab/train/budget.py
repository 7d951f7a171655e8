"""Training budget in steps and seconds, and how far along a run is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from gpt_lab.config.schema import RunConfig
from gpt_lab.cost.flops import Cost
from gpt_lab.errors import ConfigError


@dataclass(frozen=True)
class TrainingLimit:
    """Exactly one of the two is set. Steps are optimizer steps; seconds are those spent training."""

    steps: int | None
    seconds: float | None

    def spent(self, step: int, seconds: float) -> bool:
        """Whether nothing is left after `step` steps and `seconds` of training."""
        if self.steps is not None:
            return step >= self.steps
        return seconds >= self._seconds

    def progress(self, step: int, seconds: float) -> float:
        """Where the 0-based step that comes next stands, in (0, 1]: what learning-rate schedules take."""
        if self.steps is not None:
            return (step + 1) / (self.steps + 1)
        # the first step starts at 0 seconds and would have a learning rate of 0
        return min(1.0, max(seconds / self._seconds, 1e-3))

    @property
    def _seconds(self) -> float:
        assert self.seconds is not None
        return self.seconds


def budget(
    cfg: RunConfig,
    cost: Cost,
    spent: tuple[Callable[[int], float], Callable[[int], float]] | None = None,
) -> TrainingLimit:
    """The budget of a config in steps or seconds; a budget of tokens or FLOPs is never exceeded.

    Args:
        spent: tokens and FLOPs of the first so many steps; None: those of full rows of the context.

    Raises:
        ConfigError: it does not pay for one step.
    """
    limit = cfg.budget
    if limit.seconds is not None:
        return TrainingLimit(None, limit.seconds)
    if limit.steps is not None:
        return TrainingLimit(limit.steps, None)
    tokens, flops = spent or (cfg.tokens_after, lambda steps: cfg.tokens_after(steps) * cost.train_flops_per_token)
    for name, total, after in (("tokens", limit.tokens, tokens), ("flops", limit.flops, flops)):
        if total is not None:
            steps = _most(after, total)
            if not steps:
                raise ConfigError(f"budget.{name}={total:g} does not pay for one step of {after(1):g}: raise it")
            return TrainingLimit(steps, None)
    raise ConfigError("exactly one of budget.steps, budget.tokens, budget.flops, budget.seconds is needed")


def _most(after: Callable[[int], float], total: float) -> int:
    """The most steps that together spend no more than a total."""
    low, high = 0, 1
    while after(high) <= total:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if after(middle) <= total else (low, middle)
    return low


class Clock:
    """Seconds spent training, over all resumes; stands still while paused (evaluation, samples, checkpoints)."""

    def __init__(self, before: float = 0.0) -> None:
        self._before = before
        self._since: float | None = None

    @property
    def seconds(self) -> float:
        return self._before + (time.perf_counter() - self._since if self._since is not None else 0.0)

    def start(self) -> None:
        if self._since is None:
            self._since = time.perf_counter()

    def pause(self) -> None:
        self._before, self._since = self.seconds, None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stands still inside the block; runs on after it if it ran before."""
        running = self._since is not None
        self.pause()
        yield
        if running:
            self.start()
