"""What a ledger says at a glance: trials by state, who works on them, failures. Reads without writing."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gpt_lab.sweep.ledger.entry import STATES, LedgerEntry, TrialState, read_entry
from gpt_lab.sweep.ledger.ledger import read_with
from gpt_lab.sweep.ledger.liveness import Owner, has_ended, process_table


@dataclass(frozen=True)
class Worker:
    """A runner. `beat` is its heartbeat counter, `gone` that its process has ended: known of this machine's alone."""

    owner: Owner
    beat: int
    gone: bool
    running: Sequence[LedgerEntry]


@dataclass(frozen=True)
class Overview:
    """What a ledger says.

    Fields:
        counts: wanted trials in each state. seconds: mean training time of those that ended; None: none has.
        failed: trials that failed, at last or once, with their error.
    """

    counts: dict[TrialState, int]
    workers: list[Worker]
    seconds: float | None
    failed: list[LedgerEntry]

    @property
    def left(self) -> int:
        """Trials that wait, run, or go on when they are asked for again."""
        return self.counts["waiting"] + self.counts["running"] + self.counts["stopped"]

    @property
    def at_work(self) -> int:
        """Trials in the hands of workers that are not known to be gone."""
        return sum(len(worker.running) for worker in self.workers if not worker.gone)

    def remaining(self) -> float | None:
        """Seconds that the rest takes with these workers, at the mean training time so far; None: it cannot be said."""
        if self.seconds is None or not self.at_work:
            return None
        return self.left * self.seconds / self.at_work


def read(folder: Path) -> Overview | None:
    """The overview of a study's ledger; None without one.

    Raises:
        Damaged: the file is no ledger, or not as it was written. LabError: it cannot be read.
    """
    found: Overview | None = read_with(folder, _read)
    return found


def _read(database: sqlite3.Connection, path: Path) -> Overview:
    found = dict(map(tuple, database.execute("SELECT state, COUNT(*) FROM trials WHERE wanted GROUP BY state")))
    (seconds,) = database.execute(
        "SELECT AVG(seconds) FROM trials WHERE wanted AND state IN ('finished', 'diverged', 'pruned') AND seconds > 0"
    ).fetchone()
    failed = _entries(database, path, "wanted AND error IS NOT NULL")
    here = process_table()
    workers = []
    for row in database.execute("SELECT * FROM owners ORDER BY host, pid").fetchall():
        owner = Owner(row["host"], row["pid"], row["start"], row["token"])
        gone = owner.host == here and owner.start is not None and has_ended(owner.pid, owner.start)
        workers.append(Worker(owner, row["beat"], gone, _entries(database, path, "owner = ?", owner.id)))
    return Overview({state: found.get(state, 0) for state in STATES}, workers, seconds, failed)


def _entries(database: sqlite3.Connection, path: Path, where: str, *values: str) -> list[LedgerEntry]:
    rows = database.execute(f"SELECT * FROM trials WHERE {where} ORDER BY place, key", values)
    return [read_entry(row, path) for row in rows]
