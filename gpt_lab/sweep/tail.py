"""Incremental reading of a run's metrics.jsonl while it is written."""

from __future__ import annotations

import math
from pathlib import Path

from gpt_lab.store.metric_lines import read_line


class MetricsTail:
    """The latest values of a run and the curve of one metric.

    A resumed run's file is replaced by a shorter one: then everything is read again.

    Fields:
        step, seconds, values: of the last line and of all lines so far. curve: (step, value) of `metric`.
    """

    def __init__(self, path: Path, metric: str) -> None:
        self.path = path
        self.metric = metric
        self.forget()

    def forget(self) -> None:
        self.step = 0
        self.seconds = 0.0
        self.values: dict[str, float] = {}
        self.curve: list[tuple[int, float]] = []
        self._file: tuple[int, int] | None = None
        self._at = 0

    def poll(self) -> bool:
        """Reads what is new; returns whether there was anything."""
        try:
            with open(self.path, "rb") as file:
                stat = self.path.stat()
                if self._file != (stat.st_dev, stat.st_ino) or stat.st_size < self._at:
                    self.forget()
                    self._file = (stat.st_dev, stat.st_ino)
                if stat.st_size == self._at:
                    return False
                file.seek(self._at)
                data = file.read()
        except OSError:  # not there yet
            return False
        whole = data[: data.rfind(b"\n") + 1]
        self._at += len(whole)
        for line in whole.splitlines():
            self._take(line)
        return bool(whole)

    def _take(self, line: bytes) -> None:
        row, _ = read_line(line)  # the run's own resume and the report say what was left out
        if row is None:
            return
        step = self.step = row.pop("step")
        self.seconds = row.get("seconds", self.seconds)
        self.values.update(row)
        value = row.get(self.metric)
        if value is not None:
            self.curve = [point for point in self.curve if point[0] < step]
            self.curve.append((step, value if math.isfinite(value) else math.inf))
