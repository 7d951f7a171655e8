"""Training state in a checkpoint, and the stop of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from gpt_lab.errors import DataError
from gpt_lab.options import is_number, is_whole


@dataclass
class TrainingState:
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

    @classmethod
    def from_checkpoint(cls, saved: Mapping[str, Any]) -> Self:
        """The state in a checkpoint.

        Raises:
            DataError: a field is missing or cannot be one.
        """
        for name, fits in _FITS.items():
            if not fits(saved.get(name)):
                raise DataError(f"it has no {name} that can be used")
        return cls(**{name: saved[name] for name in _FITS})


def _whole(value: Any) -> bool:
    return is_whole(value) and value >= 0


def _numbers(value: Any) -> bool:
    return isinstance(value, list) and all(map(is_number, value))


_FITS: dict[str, Callable[[Any], bool]] = {
    "step": _whole,
    "seconds": lambda value: is_number(value) and 0 <= value < float("inf"),
    "validated": _whole,
    "validation": lambda value: isinstance(value, dict) and all(map(is_number, value.values())),
    "best": lambda value: value is None or is_number(value),
    "best_step": _whole,
    "losses": _numbers,
    "norms": _numbers,
}


class Stopped(Exception):
    """A signal ended the run; `number` says which."""

    def __init__(self, number: int) -> None:
        super().__init__(f"signal {number}")
        self.number = number
