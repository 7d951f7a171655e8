"""The table of an evaluation in the terminal."""

from __future__ import annotations

from typing import TextIO

from gpt_lab.console.lines import print_lines
from gpt_lab.evaluate.task import Task, TaskResult
from gpt_lab.evaluate.task_runs import ONE_MODEL

WIDTHS = (28, 10, 10, 7)


class ResultTable:
    """Prints one row a task as it is measured, its further numbers below it."""

    def __init__(self, file: TextIO) -> None:
        self.file = file
        self._begun = False

    def add(self, name: str, task: Task, result: TaskResult) -> None:
        """The rows of a task."""
        self.add_row(f"{name} ({task.shown})", result.score, result.stderr, result.items)
        for key, value in result.values.items():
            self.add_row(f"  {key}", value)

    def add_row(self, name: str, value: float, stderr: float | None = None, items: int | None = None) -> None:
        """One number, with its standard error and the number of items where it has them."""
        if not self._begun:
            self._line("task", "value", "± stderr", "items")
            self._begun = True
        shown = "" if stderr is None else f"± {stderr:.4f}"
        self._line(name, f"{value:.4f}", shown, "" if items is None else f"{items:,}")

    def close(self) -> None:
        """Says what the error is of."""
        print_lines(f"± stderr: {ONE_MODEL}", file=self.file)

    def _line(self, name: str, *cells: str) -> None:
        ends = (cell.rjust(width) for cell, width in zip(cells, WIDTHS[1:], strict=True))
        print_lines(f"{name.ljust(WIDTHS[0])}{''.join(ends)}".rstrip(), file=self.file)
