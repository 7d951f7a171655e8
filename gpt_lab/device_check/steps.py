"""Steps of a check: each is tried, and one that fails is recorded with its error and stops no other."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from gpt_lab.errors import LabError
from gpt_lab.train.speed.stepwise import Load


class Wrong(Exception):
    """A step that ran, and whose numbers are not what they must be."""

    def __init__(self, why: str, found: dict[str, Any]) -> None:
        super().__init__(why)
        self.found = found


LOAD = Load("gpt2", 64, 32, 3, 5.0)


@dataclass(frozen=True)
class Place:
    """Where and how large a check is.

    Fields:
        device: its kind. folder: for runs that nobody keeps. load: of the throughput.
        trials: how many processes train beside each other. scale: of small runs. steps: of theirs. tokens: of a step.
    """

    device: str
    folder: Path
    load: Load = LOAD
    trials: Sequence[int] = (1, 2, 4, 8)
    trial_seconds: float = 8.0
    scale: str = "small"
    steps: int = 20
    tokens: int = 4096
    compiled: bool = True


class Step(NamedTuple):
    """One thing that is tried: its name, which is what it proves, and a function that returns what it found."""

    name: str
    run: Callable[[Place], dict[str, Any]]


def tried(steps: Sequence[Step], place: Place) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and outcome of each step: state ok, refused (the lab says why in a line) or failed; seconds."""
    for step in steps:
        began = time.perf_counter()
        outcome: dict[str, Any] = {"state": "ok"}
        try:
            outcome["found"] = step.run(place)
        except LabError as error:
            outcome = {"state": "refused", "error": str(error)}
        except Wrong as error:
            outcome = {"state": "failed", "error": str(error), "found": error.found}
        except (Exception, SystemExit) as error:
            said = " ".join(str(error).split())[:500]
            outcome = {"state": "failed", "error": f"{type(error).__name__}: {said}"}
        yield step.name, outcome | {"seconds": round(time.perf_counter() - began, 1)}
