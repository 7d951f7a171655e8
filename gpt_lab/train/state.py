"""Where a run is, and how it can be cut short."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class State:
    """Where a run is: what a checkpoint holds beside tensors.

    Fields:
        validated: the step of the last evaluation, and `validation` its values.
        best: lowest val/loss at an evaluation, and the step of it.
        losses, norms: of the steps since the last log line.
    """

    step: int = 0
    seconds: float = 0.0
    validated: int = 0
    validation: dict[str, float] = field(default_factory=dict)
    best: float | None = None
    best_step: int = 0
    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)


class Stopped(Exception):
    """A signal ended the run; `number` says which."""

    def __init__(self, number: int) -> None:
        super().__init__(f"signal {number}")
        self.number = number
