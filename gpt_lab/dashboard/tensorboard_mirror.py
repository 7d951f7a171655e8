"""TensorBoard mirror: one event file per run, its curves, and its settings for the HPARAMS page.

Beside each event file lies a note of how far the run had been mirrored: a dashboard that is started again goes on
there, in the same file, which a TensorBoard that is already open keeps reading. What a resume took back is hidden
by a mark of a new session at that step, TensorBoard's own way (SessionLog.START).
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import shutil
import time
import urllib.request
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from gpt_lab import metrics
from gpt_lab.console.invocation import prefix
from gpt_lab.dashboard.follow import CLOCKS, Seen, StepRow
from gpt_lab.errors import ConfigError, DataError
from gpt_lab.store.atomic_files import read_json

EVENTS = "events.out.tfevents.mirror"
NOTE = "mirrored.json"
PATIENCE = 20.0
"""Seconds that TensorBoard gets to read what there is before its address is told."""


@dataclass
class Note:
    """How far a run has been mirrored.

    Fields:
        id: of the run. rows: how many. checksum: of their keys. size: bytes of the event file that hold them.
    """

    id: str = ""
    rows: int = 0
    checksum: int = 0
    size: int = 0


class TensorBoardMirror:
    """Rows into event files in `folder`/<study>/<run>."""

    def __init__(self, folder: Path) -> None:
        from gpt_lab.trackers import event_file

        self._make = event_file
        self.folder = folder
        self.logs = folder / "logs"
        self._notes: dict[Path, Note] = {}
        self._keys: dict[Path, list[str]] = {}
        self._server: Any = None

    def replace(self, run: Seen, rows: Sequence[StepRow]) -> None:
        place = self._place(run)
        note, keys = self._read_note(place), [row.key for row in rows]
        events: list[Any] = []
        if note.id != run.id or note.size == 0 or _checksum(keys[: note.rows]) != note.checksum:
            start = run.when().timestamp()
            events += [self._make.restart(start, 0)] if note.size else self._make.begin(start, 0)
            if note.id != run.id:  # not the state: TensorBoard keeps the first value that it reads
                settings = {key: value for key, value in run.settings.items() if key != "state"}
                events.append(self._make.settings(start, f"{run.study}/{run.name}", settings))
            note = Note(run.id, size=note.size)
        events += [self._row(run, row) for row in rows[note.rows :]]
        self._keys[place] = keys
        self._write(run, place, note, events)

    def append(self, run: Seen, rows: Sequence[StepRow]) -> None:
        place = self._place(run)
        keys = self._keys[place]
        events: list[Any] = []
        for row in rows:
            if row.replaces and keys and keys[-1] == row.replaces:
                keys.pop()
                events.append(self._make.restart(run.when().timestamp(), row.step))
            keys.append(row.key)
            events.append(self._row(run, row))
        self._write(run, place, self._notes[place], events)

    def describe(self, run: Seen) -> None:
        place = self._place(run)
        self._write(run, place, self._notes[place], [])

    def keep(self, runs: Iterable[Seen]) -> None:
        kept = {self._place(run) for run in runs}
        for note in sorted(self.logs.glob(f"*/*/{NOTE}")):
            if note.parent not in kept:
                shutil.rmtree(note.parent)
                self._notes.pop(note.parent, None)
                with contextlib.suppress(OSError):  # other runs of the study are in it
                    note.parent.parent.rmdir()

    def serve(self, port: int | None, runs: Iterable[Seen] = ()) -> str:
        """Starts TensorBoard in a thread of this process, on 127.0.0.1 alone, and gives its address.

        Raises:
            ConfigError: the port is taken.
        """
        from tensorboard import default, program

        self.logs.mkdir(exist_ok=True)
        for name in ("tensorboard", "werkzeug"):
            logging.getLogger(name).setLevel(logging.ERROR)
        server = program.TensorBoard(plugins=default.get_plugins())
        # The faster loader is a process of its own, which would outlive a dashboard that is killed.
        options = ["--load_fast=false", "--reload_interval=1", "--reload_multifile=false", "--host=127.0.0.1"]
        server.configure(["tensorboard", f"--logdir={self.logs}", f"--port={port or 0}", *options])
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                url = str(server.launch())
        except (program.TensorBoardServerException, OSError) as error:
            raise ConfigError(f"port {port} is taken: choose another with --port") from error
        self._server = server
        self._wait(url)
        pinned = json.dumps([{"plugin": "scalars", "tag": tag} for tag in metrics.FIRST])
        return f"{url}?smoothing=0&pinnedCards={quote(pinned)}#timeseries"  # smoothed, they would be no run's numbers

    def _wait(self, url: str) -> None:
        """Until the page has what the event files hold: it asks once, when it opens."""
        end = time.monotonic() + PATIENCE
        there = {str(path.parent.relative_to(self.logs)) for path in self.logs.glob(f"*/*/{EVENTS}")}
        while there and time.monotonic() < end:
            with (
                contextlib.suppress(OSError, ValueError),
                urllib.request.urlopen(f"{url}data/runs", timeout=5) as answer,
            ):
                if there <= set(json.load(answer)):
                    return
            time.sleep(0.1)

    def close(self) -> None:
        """Nothing to stop: the page is a thread that ends with this process, and every file is closed."""

    def how_to_look(self) -> str:
        """The command that shows the mirror without us."""
        return f"{prefix()}tensorboard --logdir {self.logs}"

    def _place(self, run: Seen) -> Path:
        return self.logs / run.study / run.name

    def _read_note(self, place: Path) -> Note:
        """The note, where the event file still holds all that it speaks of; what was written after it is cut off."""
        try:
            note = Note(**read_json(place / NOTE))
            with open(place / EVENTS, "r+b") as file:
                if file.seek(0, io.SEEK_END) < note.size:
                    return Note()
                file.truncate(note.size)
        except (DataError, OSError, TypeError):
            return Note()
        return note

    def _keep_note(self, place: Path, note: Note) -> None:
        """Without waiting for the disk: a mirror that a power cut spoils is made anew."""
        temporary = place / f".{NOTE}.tmp"
        temporary.write_text(json.dumps(asdict(note)), encoding="utf-8")
        os.replace(temporary, place / NOTE)

    def _write(self, run: Seen, place: Path, note: Note, events: Sequence[Any]) -> None:
        place.mkdir(parents=True, exist_ok=True)
        with open(place / EVENTS, "r+b" if note.size else "wb") as file:
            file.seek(note.size)
            self._make.write(file, events)
            size = file.tell()
        keys = self._keys[place]
        new = Note(run.id, len(keys), _checksum(keys), size)
        if new != note:
            self._keep_note(place, new)
        self._notes[place] = new

    def _row(self, run: Seen, row: StepRow) -> Any:
        """Metrics alone: TensorBoard draws against steps or time, and has no use for the other clocks."""
        values = {name: value for name, value in row.values.items() if name not in CLOCKS}
        return self._make.scalars(run.when(row.values.get("seconds", 0.0)).timestamp(), row.step, values)


def _checksum(keys: Sequence[str]) -> int:
    return zlib.crc32("\n".join(keys).encode())
