"""The tracker interface, and the thread that keeps it off the training loop's path."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from gpt_lab.store import Run

SAMPLE = "sample"
"""The name under which texts of the model are mirrored."""


class Event(NamedTuple):
    """One call, on its way to the background thread."""

    op: str
    step: int | None
    data: Any


class Tracker:
    """A mirror of the run folder. This one does nothing.

    No method raises into training, and none but `finish` blocks for more than milliseconds. What a tracker has to
    say (a link, a warning) waits in `messages()`.
    """

    def resume(self) -> None:
        """Says, before `start`, that the run has a past: what the run folder holds of it is mirrored first."""

    def start(self) -> None:
        """Begins to connect, in the background."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Mirrors numbers of one step; several calls for the same step are one row."""

    def text(self, name: str, text: str, step: int) -> None:
        """Mirrors a text, such as a sample of the model."""

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Mirrors a table of plain values."""

    def finish(self, state: str, summary: Mapping[str, Any], open_step: int | None = None) -> None:
        """Hands over the run's last state and final values and waits, for a bounded time, until they have arrived.

        Args:
            open_step: a step whose row a resume will go on with: a mirror that takes each step once leaves it to that.
        """

    def messages(self) -> list[str]:
        """One-line notices for the user since the last call."""
        return []


class Background(Tracker):
    """A tracker whose work happens in one thread, fed by a bounded queue.

    A subclass gives `open`, `write` and `close`; the first exception of any of them ends the mirroring with one
    message. So does a full queue: training never waits, and a mirror that lacks its end can be completed later, one
    that lacks rows in between cannot.
    """

    title = "tracker"
    capacity = 100_000
    """Events: a minute of the fastest training that logs each step, while a server keeps the mirror waiting."""
    patience = 30.0
    """Seconds that `finish` waits."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._events: queue.Queue[Event] = queue.Queue(self.capacity)
        self._past: list[Event] = []
        self._thread: threading.Thread | None = None
        self._finished = False
        self._dropped = 0
        self._notices: queue.SimpleQueue[str] = queue.SimpleQueue()

    def open(self) -> None:
        """Connects; called once, in the thread."""

    def write(self, event: Event) -> None:
        """Mirrors one event; called in the thread."""
        raise NotImplementedError

    def catch_up(self, past: Sequence[Event]) -> None:
        """Mirrors what the run had logged before it was resumed; called in the thread, after `open`."""
        for event in past:
            self.write(event)

    def close(self) -> None:
        """Called in the thread after the last event, and after a failure."""

    def abandon(self) -> None:
        """Called in the caller's thread when `patience` has run out."""

    def resume(self) -> None:
        self._past = logged(self.run)

    def start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=f"{self.title} tracker", daemon=True)
            self._thread.start()

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._put(Event("log", step, dict(values)))

    def text(self, name: str, text: str, step: int) -> None:
        self._put(Event("text", step, {"name": name, "text": text}))

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        self._put(Event("table", None, {"name": name, "columns": list(columns), "rows": [list(row) for row in rows]}))

    def finish(self, state: str, summary: Mapping[str, Any], open_step: int | None = None) -> None:
        if self._thread is None or self._finished:
            return
        self._finished = True
        end = time.monotonic() + self.patience
        with contextlib.suppress(queue.Full):
            last = {"state": state, "summary": dict(summary), "open_step": open_step}
            self._events.put(Event("finish", None, last), timeout=self.patience)
        self._thread.join(max(0.0, end - time.monotonic()))
        if self._thread.is_alive():
            self.abandon()
            self._say(f"{self.title} did not finish within {self.patience:g} s; {self.recovery()}")
        if self._dropped:
            self._say(f"{self.title} was too slow and lacks the last {self._dropped} events; {self.recovery()}")

    def recovery(self) -> str:
        """Where what was not mirrored is."""
        return f"all of it is in {self.run.path / 'metrics.jsonl'}"

    def messages(self) -> list[str]:
        found = []
        while not self._notices.empty():
            found.append(self._notices.get())
        return found

    def _say(self, text: str) -> None:
        self._notices.put(text)

    def _put(self, event: Event) -> None:
        if self._finished:
            return
        try:  # also before `start`: a resume may validate before its first step
            if self._dropped:
                raise queue.Full
            self._events.put_nowait(event)
        except queue.Full:
            self._dropped += 1

    def _work(self) -> None:
        failed = False
        try:
            self.open()
            self.catch_up(self._past)
        except Exception as error:
            failed = self._failed(error)
        while True:
            event = self._events.get()
            if not failed:
                try:
                    self.write(event)
                except Exception as error:
                    failed = self._failed(error)
            if event.op == "finish":
                break
        try:
            self.close()
        except Exception as error:
            if not failed:
                self._failed(error)

    def _failed(self, error: Exception) -> bool:
        line = " ".join(str(error).split()) or type(error).__name__
        self._say(f"{self.title} stopped mirroring ({line}); training goes on, {self.recovery()}")
        return True


def logged(run: Run) -> list[Event]:
    """What a run has logged so far, as the events that once mirrored it: rows, and samples where they were drawn."""
    events = []
    for row in run.metrics():
        step = row.pop("step")
        numbers = {key: value for key, value in row.items() if isinstance(value, int | float)}
        events.append(Event("log", step, numbers))
        sample = run.samples / f"step_{step:08d}.txt"
        with contextlib.suppress(OSError):
            events.append(Event("text", step, {"name": SAMPLE, "text": sample.read_text("utf-8", "replace")}))
    return events
