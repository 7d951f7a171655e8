"""Losses and gradient norms since the last log line, kept on the device; divergence is detected when read."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from gpt_lab.train.step import StepOutcome


class Diverged(Exception):
    """A loss or gradient is not finite. `step` is the 0-based step where that began."""

    def __init__(self, step: int, what: str) -> None:
        super().__init__(f"{what} is not finite at step {step + 1}")
        self.step = step
        self.what = what


class History:
    """Losses and gradient norms since the last log line.

    A step adds tensors and does not wait; `settle` reads all of them in one transfer. What is read but not yet
    logged is part of a checkpoint, so that a resumed run logs the same means.

    Args:
        overflow_allowed: gradients that are not finite are skipped steps (fp16 with a scaler), not divergence.
    """

    def __init__(self, overflow_allowed: bool = False) -> None:
        self.overflow_allowed = overflow_allowed
        self.losses: list[float] = []
        self.norms: list[float] = []
        self._pending: list[tuple[int, StepOutcome, int]] = []

    def add(self, step: int, outcome: StepOutcome, targets: int) -> None:
        """Keeps the outcome of a 0-based step over `targets` counted targets."""
        self._pending.append((step, outcome, targets))

    def __len__(self) -> int:
        return len(self._pending)

    def settle(self) -> None:
        """Reads what is pending (waits for the device).

        Raises:
            Diverged: the first step whose loss, or gradient norm, is not finite.
        """
        pending, self._pending = self._pending, []
        if not pending:
            return
        scalars: list[Tensor] = [o.nll_sum for _, o, _ in pending] + [o.grad_norm.float() for _, o, _ in pending]
        values = torch.stack(scalars).tolist()
        for (step, _, targets), nll, norm in zip(pending, values[: len(pending)], values[len(pending) :], strict=True):
            if not math.isfinite(nll):
                raise Diverged(step, "the loss")
            if not math.isfinite(norm) and not self.overflow_allowed:
                raise Diverged(step, "the gradient norm")
            self.losses.append(nll / max(targets, 1))
            self.norms.append(norm)

    def means(self) -> dict[str, float]:
        """train/loss and train/grad_norm averaged over the steps since the last call, which begins a new interval."""
        finite = [norm for norm in self.norms if math.isfinite(norm)]
        values = {"train/loss": _mean(self.losses), "train/grad_norm": _mean(finite)}
        self.losses, self.norms = [], []
        return values


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan
