"""Progress display of a run: live in a terminal, a few plain lines elsewhere, a table at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from gpt_lab import metrics
from gpt_lab.console.lines import fold
from gpt_lab.context_multiples import at, split
from gpt_lab.train.budget import TrainingLimit

QUIET_SECONDS = 20.0
"""Without a terminal: time between two lines of training losses."""


class RunDisplay:
    """The view of one run; `start` and `stop` enclose the training.

    Args:
        eval_every: steps between evaluations, which have a line of their own.
    """

    def __init__(self, console: Console, budget: TrainingLimit, eval_every: int) -> None:
        self.console = console
        self.budget = budget
        self.eval_every = eval_every
        self.values: dict[str, float] = {}
        self._sample = ""
        self._line_at = -QUIET_SECONDS
        self._live: Live | None = None
        if console.is_terminal:
            unit = (
                MofNCompleteColumn()
                if budget.steps is not None
                else TextColumn("{task.completed:.0f}/{task.total:.0f} s")
            )
            self._progress = Progress(
                TextColumn("training"),
                BarColumn(max(5, min(40, console.width - 45))),
                unit,
                TimeElapsedColumn(),
                TextColumn("ETA"),
                TimeRemainingColumn(),
                console=console,
            )
            self._task = self._progress.add_task("training", total=budget.steps or budget.seconds)
            self._live = Live(console=console, auto_refresh=False, get_renderable=self._render)

    def start(self, step: int, seconds: float) -> None:
        if self._live is not None:
            self._live.start()
            self._advance(step, seconds)

    def stop(self) -> None:
        if self._live is not None:
            self._live.stop()

    def log(self, step: int, seconds: float, values: Mapping[str, float]) -> None:
        """Takes new training values."""
        self.values.update(values)
        if self._live is not None:
            self._advance(step, seconds)
        elif step % self.eval_every and time.monotonic() - self._line_at >= QUIET_SECONDS:
            self._line(step, values)

    def validated(self, step: int, seconds: float, values: Mapping[str, float]) -> None:
        """Takes the result of an evaluation, and says it."""
        self.values.update(values)
        if self._live is not None:
            self._advance(step, seconds)
        else:
            self._line(step, self.values)

    def sample(self, text: str) -> None:
        """Takes the last text of the model; shown in a terminal only."""
        self._sample = text
        if self._live is not None:
            self._live.refresh()

    def say(self, text: str) -> None:
        """One line above the view."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _line(self, step: int, values: Mapping[str, float]) -> None:
        self._line_at = time.monotonic()
        of = f"/{self.budget.steps}" if self.budget.steps is not None else ""
        self.say(f"step {step}{of}: {', '.join(_shown(values))}")

    def _advance(self, step: int, seconds: float) -> None:
        assert self._live is not None
        self._progress.update(self._task, completed=step if self.budget.steps is not None else seconds)
        self._live.refresh()

    def _render(self) -> Group:
        parts: list[Any] = [self._progress, Text("  ".join(_shown(self.values)))]
        if self._sample:
            height = max(3, min(8, self.console.height - 8))
            lines = [part for line in self._sample.splitlines() for part in fold(line, self.console.width - 4)]
            text = Text("\n".join(lines[:height]), no_wrap=True)
            parts.append(Panel(text, title="sample", title_align="left", border_style="dim"))
        return Group(*parts)


@contextmanager
def preparing(console: Console) -> Iterator[Callable[[str, int, int | None], None]]:
    """Shows how far the building of token shards is, should there be any to build: (what, done, total) of the data."""
    columns = (TextColumn("{task.description}"), BarColumn(20), TaskProgressColumn(), TimeElapsedColumn())
    bar = Progress(*columns, console=console, transient=True)
    task = bar.add_task("", total=None)
    told = False

    def show(phase: str, done: int, total: int | None) -> None:
        nonlocal told
        if not told:
            told = True
            if console.is_terminal:
                bar.start()
            else:
                console.print("building token shards (once for each corpus and tokenizer)", markup=False)
        bar.update(task, description=phase, completed=done, total=total)

    try:
        yield show
    finally:
        if told and console.is_terminal:
            bar.stop()


def opening(run: Path, step: int | None, resolved: Iterable[str], damaged: Sequence[str]) -> str:
    """The first line of a run: where it goes on, or that it begins.

    Args:
        step: of the checkpoint that it goes on from; None: it begins. resolved: what `auto` became.
        damaged: a few words on each newer checkpoint that is not used.
    """
    because = f": {'; '.join(damaged)}" if damaged else ""
    if step is not None:
        return f"resuming {run} from step {step}{because}"
    return f"training {run} anew{because}" if damaged else f"training {run} ({', '.join(resolved)[:80]})"


def _shown(values: Mapping[str, float]) -> list[str]:
    return [row.line.format(values[row.name]) for row in metrics.TABLE.values() if row.line and row.name in values]


def summary_rows(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The final table: what is measured and its value, in a reader's order."""
    whole = [key for key in summary if not metrics.source(key)[1]]
    rows = [
        *_measured(summary, "val/"),
        *(
            (f"val {row.longer} at {times}x the context", _number(summary, at(row.name, times), row.form))
            for row in metrics.TABLE.values()
            for times in sorted({split(key)[1] for key in whole if key.startswith(f"{row.name}_")})
            if row.longer and row.name in summary
        ),
        *(
            (f"{metrics.TABLE[name].label} of {of}", _number(summary, key, metrics.TABLE[name].form))
            for key in summary
            for name, of in [metrics.source(key)]
            if of and name == metrics.HEADLINE
        ),
        *((key, _number(summary, key, "{:.4f}")) for key in summary if key.startswith(metrics.EVAL)),
        *((f"{name} floor (bits per byte)", _number(summary, f"floor/{name}", "{:.4f}")) for name in metrics.FLOORS),
        ("parameters", _number(summary, "parameters", "{:,.0f}")),
        ("of these without embeddings", _number(summary, "parameters_non_embedding", "{:,.0f}")),
        ("steps", _number(summary, "steps", "{:,.0f}")),
        ("tokens", _number(summary, "tokens", "{:,.0f}")),
        ("training FLOPs", _number(summary, "flops", "{:.3g}")),
        ("of these the teacher's", _number(summary, "teacher/flops", "{:.3g}")),
        ("FLOPs of the teacher's own training", _number(summary, "teacher/train_flops", "{:.3g}")),
        ("training time", _number(summary, "seconds", "{:.1f} s")),
        *_measured(summary, "perf/"),
    ]
    return [(name, value) for name, value in rows if value]


def verdict(summary: Mapping[str, Any], bound: bool = False) -> str | None:
    """Whether the model beats counting: validation bits per byte against the lowest n-gram floor of the corpus.

    Args:
        bound: they are what the model's own cannot exceed.
    """
    floors = [(summary[f"floor/{name}"], name) for name in metrics.FLOORS if summary.get(f"floor/{name}") is not None]
    bpb = summary.get(metrics.HEADLINE)
    if not floors or bpb is None:
        return None
    floor, name = min(floors)
    said = f"val bpb is at most {bpb:.4f}, which" if bound else f"val bpb {bpb:.4f}"
    if bpb >= floor and bound:
        return f"{said} does not show whether the model beats counting {metrics.FLOORS[name]} ({floor:.4f})"
    if bpb >= floor:  # of all that it is worse than, the simplest says the most
        floor, name = next(one for one in floors if bpb >= one[0])
    else:
        return f"{said} is below every n-gram floor of the corpus; the lowest, {name}, is {floor:.4f}"
    return f"val bpb {bpb:.4f} is worse than counting {metrics.FLOORS[name]}: the corpus's {name} floor is {floor:.4f}"


def show_end(console: Console, title: str, rows: Sequence[tuple[str, str]], lines: Sequence[str]) -> None:
    """Prints the final table and what follows from it."""
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _measured(summary: Mapping[str, Any], section: str) -> list[tuple[str, str]]:
    rows = (row for name, row in metrics.TABLE.items() if row.label and name.startswith(section))
    return [(row.label, _number(summary, row.name, row.form)) for row in rows]


def _number(values: Mapping[str, Any], name: str, form: str) -> str:
    return form.format(values[name]) if values.get(name) is not None else ""
