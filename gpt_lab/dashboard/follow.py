"""Following of runs on disk: new folders, new lines, lines that a resume took back, runs that began anew.

Every poll compares what lies there with what was seen; nothing is asked of the runs themselves, so it does not
matter who trains them, or whether anybody does.
"""

from __future__ import annotations

import difflib
import json
import math
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

from gpt_lab.console.invocation import prefix
from gpt_lab.errors import DataError, LabError
from gpt_lab.store.find import folders
from gpt_lab.store.metric_lines import read_line
from gpt_lab.store.run import read_record
from gpt_lab.sweep.ledger import ledger

CLOCKS = ("tokens", "flops", "seconds")
"""Keys of a line that measure progress: kept whatever metrics are chosen, they are what curves are drawn against."""
FACTS = ("parameters", "parameters_non_embedding", "train_flops_per_token")
"""What of run.json joins the settings: runs are grouped and compared by it."""

EPOCH = "1970-01-01T00:00:00Z"


@dataclass(frozen=True)
class StepRow:
    """One step of a run: its lines in metrics.jsonl as one, the last value of each name kept.

    Fields:
        key: names the last of its lines in its place: offset in bytes and checksum.
        values: finite or not, by name; the step is not among them.
        replaces: key of the row that was handed out before this step had its last line; "" if none was.
    """

    key: str
    step: int
    values: dict[str, float]
    replaces: str = ""


@dataclass(frozen=True)
class Seen:
    """A run as it was read last.

    Fields:
        path: its folder, resolved. name: its folder's name, with the store's in front where two studies share a name.
        record: what run.json holds. arm: of its sweep; else what its command line changed, but for the seed.
    """

    path: Path
    name: str
    record: dict[str, Any]
    arm: str = ""

    @property
    def study(self) -> str:
        return self.path.parent.name

    @property
    def state(self) -> str:
        return str(self.record.get("state"))

    @property
    def id(self) -> str:
        """Changes when the run begins anew; two copies of a folder differ."""
        text = f"{self.path}\0{self.record.get('id')}"
        return f"{zlib.crc32(text.encode()):08x}-{self.record.get('id')}"

    def when(self, seconds: float = 0.0) -> datetime:
        """Its start, and what it had trained by then; 1970 for what is no time."""
        try:
            started = datetime.fromisoformat(str(self.record.get("started") or EPOCH))
            return started + timedelta(seconds=seconds if math.isfinite(seconds) else 0)
        except (ValueError, OverflowError):
            return datetime.fromisoformat(EPOCH)

    @property
    def settings(self) -> dict[str, Any]:
        """The flat config as plain scalars, with the run's state and facts: all that runs can be grouped by."""
        facts = {key: self.record[key] for key in FACTS if key in self.record}
        every = {"state": self.state, "arm": self.arm, **(self.record.get("config") or {}), **facts}
        return {key: _scalar(value) for key, value in every.items()}


class Sink(Protocol):
    """Where rows go. Every call takes over the run's record too, and may be repeated without writing rows twice."""

    def replace(self, run: Seen, rows: Sequence[StepRow]) -> None:
        """Makes these the rows of the run, all of them."""

    def append(self, run: Seen, rows: Sequence[StepRow]) -> None:
        """Adds rows to those of the run."""

    def describe(self, run: Seen) -> None:
        """Takes over a changed record: the state, the final values."""

    def keep(self, runs: Iterable[Seen]) -> None:
        """Forgets every run but these."""


def check_targets(texts: Sequence[str]) -> list[Path]:
    """The folders that a user names: a store of studies, a study, a run, or a study's name in ./runs.

    Raises:
        DataError: there is no such folder; the line offers the closest names.
    """
    found = []
    for text in texts:
        places = [path for path in (Path(text), Path("runs", text)) if path.is_dir()]
        if not places:
            raise DataError(_missing(text))
        found.append(places[0].resolve())
    return list(dict.fromkeys(found))


def find(target: Path) -> Iterator[Path]:
    """Every run folder that is the target, lies in it, or in a folder of it; in order of their names."""
    if (target / "run.json").exists():
        yield target
        return
    for child in folders(target):
        if (child / "run.json").exists():
            yield child
        else:
            yield from (run for run in folders(child) if (run / "run.json").exists())


@dataclass
class FileTail:
    """The end of one metrics.jsonl.

    Fields:
        left_out: what of the lines so far cannot be used, in words; "" if all can.
    """

    path: Path
    metrics: frozenset[str] | None = None
    left_out: str = ""
    _place: tuple[int, int] | None = None
    _stamp: tuple[int, int] = (-1, -1)
    _offset: int = 0
    _last: bytes = b""
    _row: StepRow | None = None

    def read(self) -> tuple[bool, list[StepRow]]:
        """Whether what was read before is void, and the rows since (all rows, if it is).

        A line that is not yet whole waits for its end; one that cannot be used is skipped.

        Raises:
            DataError: the file is there but cannot be read.
        """
        try:
            with open(self.path, "rb") as file:
                return self._read(file)
        except FileNotFoundError:
            fresh = self._place is not None
            self._forget()
            return fresh, []
        except OSError as error:
            raise DataError(f"cannot read {self.path}: {error.strerror}") from error

    def _read(self, file: Any) -> tuple[bool, list[StepRow]]:
        status = os.fstat(file.fileno())
        place, stamp = (status.st_dev, status.st_ino), (status.st_size, status.st_mtime_ns)
        if (place, stamp) == (self._place, self._stamp):
            return False, []
        # A resume replaces the file by a shorter one, in a new inode; the last line tells should its number be reused.
        fresh = place != self._place or status.st_size < self._offset or not self._continues(file)
        if fresh:
            self._forget()
        file.seek(self._offset)
        data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        rows = list(self._rows(whole))
        self._place, self._stamp = place, stamp
        if whole:
            self._offset += len(whole)
            self._last = whole.splitlines(keepends=True)[-1]
        return fresh, rows

    def _continues(self, file: Any) -> bool:
        file.seek(self._offset - len(self._last))
        return bool(file.read(len(self._last)) == self._last)

    def _forget(self) -> None:
        self._place, self._stamp, self._offset, self._last, self._row = None, (-1, -1), 0, b"", None
        self.left_out = ""

    def _rows(self, data: bytes) -> Iterator[StepRow]:
        """Joins the lines of a step, also those that came with an earlier read."""
        offset, row, given = self._offset, self._row, True
        for line in data.splitlines(keepends=True):
            start, offset = offset, offset + len(line)
            values, why = read_line(line)
            if why and not self.left_out:
                self.left_out = f"{self.path}: left out what is no step or number (first, at byte {start}: {why})"
            if values is None:
                continue
            step = values.pop("step")
            numbers = {key: float(value) for key, value in values.items() if self._wanted(key)}
            key = f"{start}:{zlib.crc32(line):08x}"
            if row is not None and row.step == step:
                row = StepRow(key, step, {**row.values, **numbers}, row.key if given else row.replaces)
            else:
                if row is not None and not given:
                    yield row
                row = StepRow(key, step, numbers)
            given = False
        if row is not None and not given:
            yield row
        self._row = row

    def _wanted(self, key: str) -> bool:
        return self.metrics is None or key in self.metrics or key in CLOCKS


@dataclass
class _Known:
    run: Seen
    stamp: tuple[int, int, int]
    tail: FileTail
    said: str
    rows: bool = False


@dataclass
class Follower:
    """Hands to a sink whatever is new under some folders, poll by poll.

    Fields:
        left_out: by run folder, what of it cannot be used, as the last poll found it.
    """

    targets: Sequence[Path]
    sink: Sink
    metrics: frozenset[str] | None = None
    left_out: dict[Path, str] = field(default_factory=dict)
    _known: dict[Path, _Known] = field(default_factory=dict)
    _kept: frozenset[str] | None = None
    _arms: dict[Path, dict[str, str]] = field(default_factory=dict)

    @property
    def runs(self) -> list[Seen]:
        """The runs that the last poll saw."""
        return [known.run for known in self._known.values()]

    def poll(self) -> None:
        """Looks at every run once. After an exception the next poll begins anew, and compares all there is.

        Raises:
            DataError: a folder or a file cannot be read.
        """
        try:
            self._poll()
        except BaseException:
            self._known.clear()
            self._kept = None
            raise

    def _poll(self) -> None:
        self.left_out.clear()
        paths = list(dict.fromkeys(path for target in self.targets for path in find(target)))
        studies: dict[str, set[Path]] = {}
        for path in paths:
            studies.setdefault(path.parent.name, set()).add(path.parent)
        for gone in self._known.keys() - set(paths):
            del self._known[gone]
        for path in paths:
            shared = len(studies[path.parent.name]) > 1
            self._look(path, f"{path.parent.parent.name}:{path.name}" if shared else path.name)
        ids = frozenset(known.run.id for known in self._known.values())
        if ids != self._kept:
            self.sink.keep(self.runs)
            self._kept = ids

    def _look(self, path: Path, name: str) -> None:
        """The record first, then the lines: a run that says it has finished has written them all."""
        known = self._known.get(path)
        try:
            status = os.stat(path / "run.json")
            stamp = (status.st_ino, status.st_size, status.st_mtime_ns)
            changed = known is None or known.stamp != stamp or known.run.name != name
            record, said = read_record(path) if known is None or changed else (known.run.record, known.said)
            run = self._seen(path, name, record) if known is None or changed else known.run
        except FileNotFoundError:  # removed
            self._known.pop(path, None)
            return
        except (OSError, DataError) as error:  # damaged or half copied: a later poll may see it whole
            self._known.pop(path, None)
            self.left_out[path] = f"{error}: the run is left out"
            return
        if known is None or known.run.id != run.id or known.run.name != name:
            known = self._known[path] = _Known(run, stamp, FileTail(path / "metrics.jsonl", self.metrics), said)
            _, rows = known.tail.read()
            fresh = True
        else:
            known.run, known.stamp, known.said = run, stamp, said
            fresh, rows = known.tail.read()
        if lines := [line for line in (known.said, known.tail.left_out) if line]:
            self.left_out[path] = "; ".join(lines)
        if fresh or (rows and not known.rows):
            self.sink.replace(run, rows)
            known.rows = bool(rows)
        elif rows:
            self.sink.append(run, rows)
        elif changed:
            self.sink.describe(run)

    def _seen(self, path: Path, name: str, record: dict[str, Any]) -> Seen:
        """A run as it is now. The ledger is read again for runs that it did not know before."""
        study = path.parent
        if path.name not in self._arms.get(study, {}):
            self._arms[study] = _arms(study)
        arm = self._arms[study].get(path.name) or (record.get("config") or {}).get("label") or "default"
        return Seen(path, name, record, str(arm))


def _arms(study: Path) -> dict[str, str]:
    """Arm of each run that a sweep's ledger knows."""
    try:
        return {entry.run: entry.arm for entry in ledger.entries(study) if entry.run and entry.arm}
    except LabError:  # of another version, or busy: the runs say enough of themselves
        return {}


def _scalar(value: Any) -> Any:
    """What pages can group by: None, which they leave out, as the word that the command line takes; lists as text."""
    if value is None:
        return "null"
    return value if isinstance(value, bool | int | float | str) else json.dumps(value)


def _missing(text: str) -> str:
    if text == "runs":
        return f"no folder runs here yet: `{prefix()}train` makes one, or name another folder"
    parent = Path(text).parent
    names = [str(parent / path.name) for path in folders(parent)] + [path.name for path in folders(Path("runs"))]
    close = difflib.get_close_matches(text.rstrip("/"), sorted(set(names)), n=3, cutoff=0.5)
    offer = f"did you mean {', '.join(close)}?" if close else "name a folder of studies, a study or a run"
    return f"no folder {text!r}: {offer}"
