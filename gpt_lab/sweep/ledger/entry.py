"""One trial as the ledger has it.

States of a cell: waiting (nobody works on it), running, finished, failed (as often as it may be tried), diverged,
pruned (ended early for a poor curve), stopped (by a signal; the same command goes on with it).
"""

from __future__ import annotations

import dataclasses
import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gpt_lab.store.atomic_files import decode
from gpt_lab.study.design import Cell
from gpt_lab.sweep.ledger.database import checked

TrialState = Literal["waiting", "running", "finished", "failed", "diverged", "pruned", "stopped"]
STATES: tuple[TrialState, ...] = ("waiting", "running", "finished", "failed", "diverged", "pruned", "stopped")


@dataclass(frozen=True)
class LedgerEntry:
    """What the ledger knows of one cell.

    Fields:
        index, values, arm, tuning, pair, overrides, key, identity: as Cell has them.
        run: name of its folder in the study; None before it has one.
        attempts: how often it was begun. error: of its last failure.
        wanted: the last version of the sweep file asks for it.
        score: the run's final value of the metric that decides; None unless it ended. seconds: of training.
    """

    key: str
    index: int
    values: Mapping[str, Any]
    arm: str
    tuning: str
    pair: Any
    overrides: tuple[str, ...]
    identity: str
    state: TrialState
    run: str | None
    attempts: int
    error: str | None
    wanted: bool
    score: float | None
    seconds: float | None

    @property
    def cell(self) -> Cell:
        """The cell as the sweep made it."""
        return Cell(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Cell)})


def read_entry(row: sqlite3.Row, path: Path) -> LedgerEntry:
    """A row of trials, its digest checked."""
    row = checked(row, "trials", path)
    return LedgerEntry(
        key=row["key"],
        index=row["place"],
        values=json.loads(row["vals"]),
        arm=row["arm"],
        tuning=row["tuning"],
        pair=json.loads(row["pair"]),
        overrides=tuple(json.loads(row["overrides"])),
        identity=row["identity"],
        state=row["state"],
        run=row["run"],
        attempts=row["attempts"],
        error=row["error"],
        wanted=bool(row["wanted"]),
        score=decode(row["score"]),
        seconds=row["seconds"],
    )
