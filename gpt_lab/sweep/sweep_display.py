"""Progress display of a sweep: a live table in a terminal, a line per event elsewhere, a table at the end."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from gpt_lab import metrics
from gpt_lab.console.terminal import fit
from gpt_lab.study.design import shown
from gpt_lab.study.sweep import Sweep
from gpt_lab.sweep.ledger.entry import STATES, LedgerEntry, TrialState
from gpt_lab.sweep.ledger.liveness import Owner
from gpt_lab.sweep.trial import Trial, title

REFRESH_EVERY = 0.5
RECENT = 6
"""Ended trials that the live table keeps in sight."""
LONG = 60
"""Unfinished cells from which on the last table has a row per arm instead of one per cell."""
STYLES = {"finished": "green", "failed": "red", "diverged": "red", "pruned": "yellow", "stopped": "yellow"}
ENDED: tuple[TrialState, ...] = ("finished", "failed", "diverged", "pruned", "stopped")


class SweepDisplay:
    """The view of one runner's work.

    Args:
        total: cells of the sweep; None: the search has no end that is known.
        jobs: trials at a time, for the estimate of the time that is left.
    """

    def __init__(self, console: Console, sweep: Sweep, total: int | None, jobs: int) -> None:
        self.console, self.sweep, self.total, self.jobs = console, sweep, total, jobs
        self.design = sweep.design
        self._running: list[Trial] = []
        self._counts: Mapping[TrialState, int] = dict.fromkeys(STATES, 0)
        self._walls: list[float] = []
        self._recent: deque[tuple[Text, ...]] = deque(maxlen=RECENT)
        self._refreshed = 0.0
        self._told: tuple[str, ...] = ()
        self._live = Live(console=console, auto_refresh=False, transient=True, get_renderable=self._render)

    def __enter__(self) -> SweepDisplay:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    def say(self, text: str) -> None:
        """One line above the table."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    # -- what happens to trials --

    def started(self, trial: Trial) -> None:
        if not self.console.is_terminal:
            again = f" (attempt {trial.entry.attempts})" if trial.entry.attempts > 1 else ""
            self.say(f"{self._place(trial)} started: {self._title(trial)}{again}")

    def ended(self, trial: Trial, state: str, score: float | None, seconds: float | None, done: bool = False) -> None:
        """A trial that has finished, diverged, was pruned or stopped."""
        if state in ("finished", "diverged", "pruned") and not done:
            self._walls.append(trial.elapsed)
        values = [f"{self._metric} {score:.4f}"] if score is not None else []
        values += [f"{seconds:.1f} s"] if seconds else []
        values += ["as before"] if done else []
        if not self.console.is_terminal or state in ("diverged", "stopped"):
            self.say(f"{self._place(trial)} {state}: {', '.join([self._title(trial), *values])}")
        self._remember(trial, state, score)

    def failed(self, trial: Trial, error: str, again: bool) -> None:
        """A trial that has failed: shown at once, with the end of its log."""
        self.say(f"{self._place(trial)} FAILED: {self._title(trial)}: {error}{'; trying again' if again else ''}")
        lines = trial.last_lines()
        for line in lines:
            if error not in line:
                self.say(f"    {line}")
        self.say(f"    log: {trial.log}")
        self._remember(trial, "failed", None)

    def postponed(self, trial: Trial) -> None:
        """A trial that another process trains."""
        line = f"waiting: another process trains {self._title(trial)}"
        if (line,) != self._told:
            self._told = (line,)
            self.say(line)

    def others(self, owners: Sequence[tuple[Owner, int, int]]) -> None:
        """Nothing is left but what other runners hold: said once."""
        held = tuple(f"{count} held by process {o.pid} on {o.machine}" for o, _, count in owners if count)
        if held and held != self._told:
            self._told = held
            self.say(f"waiting for other runners of this sweep: {'; '.join(held)}")

    def refresh(self, running: Iterable[Trial], counts: Callable[[], Mapping[TrialState, int]]) -> None:
        """Redraws the table, if there is one and it is time; only then the ledger is asked for its counts."""
        now = time.monotonic()
        if self.console.is_terminal and now - self._refreshed >= REFRESH_EVERY:
            self._refreshed = now
            self._running, self._counts = list(running), counts()
            self._live.refresh()

    # -- how it looks --

    @property
    def _metric(self) -> str:
        return metrics.short(self.design.metric)

    def _title(self, trial: Trial) -> str:
        return title(trial.entry, self.design)

    def _place(self, trial: Trial) -> str:
        return f"[{trial.entry.index + 1}/{self.total}]" if self.total else f"[{trial.entry.index + 1}]"

    def _remember(self, trial: Trial, state: str, score: float | None) -> None:
        arm, pair = names(trial.entry)
        number = "" if score is None else f"{score:.4f}"
        style = STYLES.get(state, "")
        self._recent.append((Text(arm), Text(pair), Text(state, style), Text(""), Text(number), Text(""), Text("")))

    def seconds_left(self) -> float | None:
        """An estimate for the whole sweep; None before anything is known of a trial's length."""
        lengths = self._walls or [t.elapsed / t.progress for t in self._running if t.progress > 0.02]
        if not lengths or self.total is None:
            return None
        mean = sum(lengths) / len(lengths)
        ended = sum(self._counts[state] for state in ENDED)
        begun = sum(trial.progress for trial in self._running)
        return max(0.0, (self.total - ended - begun) * mean / self.jobs)

    def _render(self) -> Group:
        table = Table(box=None, pad_edge=False, header_style="dim")
        for name in ("trial", self.design.pair, "state", "loss", self._metric, "left", "tokens/s"):
            table.add_column(name, justify="left" if name in ("trial", "state") else "right", no_wrap=name != "trial")
        for row in self._recent:
            table.add_row(*row)
        for trial in sorted(self._running, key=lambda trial: trial.slot)[: max(4, self.console.height - 12)]:
            arm, pair = names(trial.entry)
            values, progress = trial.tail.values, trial.progress
            left = trial.elapsed * (1 - progress) / progress if progress > 0.02 else None
            table.add_row(
                Text(arm),
                Text(pair),
                ProgressBar(100, 100 * progress, width=20) if trial.run else Text("starting", "dim"),
                _number(values.get("train/loss"), "{:.4f}"),
                _number(values.get(self.design.metric), "{:.4f}"),
                _clock(left),
                _number(values.get("perf/tokens_per_s"), "{:,.0f}"),
            )
        counts = [f"{count} {state}" for state, count in self._counts.items() if count]
        left = self.seconds_left()
        ending = f", about {_clock(left)} left" if left is not None else ""
        return Group(fit(table, self.console)[0], Text(f"{self.design.study}: {', '.join(counts)}{ending}"))


def names(entry: LedgerEntry) -> tuple[str, str]:
    """Arm with tuning, and pair, of a table's row."""
    arm = ", ".join(word for word in (entry.arm, entry.tuning) if word) or f"trial {entry.index}"
    return arm, "" if entry.pair is None else shown(entry.pair)


def show_result(console: Console, sweep: Sweep, entries: Sequence[LedgerEntry]) -> None:
    """What became of the cells that did not finish, of their arms where there are many; and how many did."""
    lacking = [entry for entry in entries if entry.state != "finished"]
    if lacking:
        console.print(_result(sweep, lacking))
    for entry in entries:
        if entry.state == "failed":
            console.print(
                f"failed: {title(entry, sweep.design)}: {entry.error}", markup=False, highlight=False, soft_wrap=True
            )
    console.print(f"{len(entries)} cells: {_states(entries)}", markup=False, highlight=False, soft_wrap=True)


def _result(sweep: Sweep, entries: Sequence[LedgerEntry]) -> Table:
    metric = metrics.short(sweep.design.metric)
    table = Table(title=f"{sweep.design.study}: not finished", title_justify="left")
    table.add_column("cell" if len(entries) <= LONG else "arm")
    if len(entries) <= LONG:
        for name in (sweep.design.pair, "state", metric, "seconds", "run"):
            table.add_column(name, justify="left" if name in ("state", "run") else "right", overflow="fold")
        for entry in entries:
            arm, pair = names(entry)
            state = Text(entry.state, STYLES.get(entry.state, ""))
            score, seconds = _number(entry.score, "{:.4f}"), _number(entry.seconds, "{:.1f}")
            table.add_row(Text(arm), Text(pair), state, score, seconds, Text(entry.run or ""))
    else:
        table.add_column("states")
        for arm, group in _by_arm(entries).items():
            table.add_row(Text(arm), Text(_states(group)))
    return table


def _by_arm(entries: Sequence[LedgerEntry]) -> dict[str, list[LedgerEntry]]:
    groups: dict[str, list[LedgerEntry]] = {}
    for entry in entries:
        groups.setdefault(names(entry)[0], []).append(entry)
    return groups


def _states(entries: Sequence[LedgerEntry]) -> str:
    counts = {state: sum(entry.state == state for entry in entries) for state in STATES}
    return ", ".join(f"{count} {state}" for state, count in counts.items() if count)


def _number(value: Any, form: str) -> Text:
    return Text("" if value is None else form.format(value))


def _clock(seconds: float | None) -> Text:
    if seconds is None:
        return Text("")
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return Text(f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}")
