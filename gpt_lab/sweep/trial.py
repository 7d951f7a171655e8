"""A trial while it runs: its ledger entry, the messages of its process, its curve."""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from gpt_lab.console.signals import ASKING
from gpt_lab.study.design import Design, join, shown
from gpt_lab.sweep.ledger.entry import LedgerEntry
from gpt_lab.sweep.tail import MetricsTail

LAST_LINES = 8


@dataclass
class Trial:
    """One running trial.

    Fields:
        slot: which of the runner's places it has. tail: its metrics so far.
        run: name of its folder, once it has one. steps, budget_seconds: its budget, one of them.
        result: its last word. error: why there is none. busy: another process trains it.
        ending: why it was told to stop.
    """

    entry: LedgerEntry
    slot: int
    tail: MetricsTail
    log: Path
    log_from: int
    began: float = field(default_factory=time.monotonic)
    run: str | None = None
    steps: int | None = None
    budget_seconds: float | None = None
    result: dict[str, Any] | None = None
    error: str | None = None
    busy: bool = False
    ending: Literal["stop", "prune", "lost"] | None = None

    def receive(self, message: dict[str, Any], folder: Path) -> None:
        """Takes a message of its process."""
        if "run" in message and self.run is None:
            self.run = message["run"]
            self.tail.path = folder / message["run"] / "metrics.jsonl"
        self.steps = message.get("steps", self.steps)
        self.budget_seconds = message.get("budget_seconds", self.budget_seconds)
        if "state" in message:
            self.result = message
        if "error" in message:
            self.error, self.busy = message["error"], message["busy"]

    @property
    def progress(self) -> float:
        """Share of its budget that is spent, 0 to 1."""
        if self.steps:
            return min(1.0, self.tail.step / self.steps)
        if self.budget_seconds:
            return min(1.0, self.tail.seconds / self.budget_seconds)
        return 0.0

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.began

    def stopped(self, status: int) -> bool:
        """Whether a signal ended it in an orderly way, before or after it could write a checkpoint."""
        if self.result is not None:
            return self.result["state"] == "stopped"
        return -status in ASKING or (self.ending is not None and status == -signal.SIGKILL)

    def last_lines(self) -> list[str]:
        """The end of what it wrote in this attempt."""
        try:
            with open(self.log, "rb") as file:
                file.seek(max(self.log_from, file.seek(0, 2) - 8192))
                text = file.read().decode("utf-8", "replace")
        except OSError:
            return []
        return [line for line in text.splitlines() if line.strip() and not line.startswith("--- ")][-LAST_LINES:]


def title(entry: LedgerEntry, design: Design) -> str:
    """Arm, tuning and pair in one line, as people tell trials apart."""
    pair = "" if entry.pair is None else f"{design.pair}={shown(entry.pair)}"
    named = [word for word in (entry.arm, entry.tuning) if word] or [join(_others(entry, design), entry.values)]
    return ", ".join(word for word in (*named, pair) if word) or f"trial {entry.index}"


def _others(entry: LedgerEntry, design: Design) -> tuple[str, ...]:
    return tuple(key for key in entry.values if key != design.pair)
