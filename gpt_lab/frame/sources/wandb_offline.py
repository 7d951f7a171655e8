"""Runs in W&B's offline files, `wandb/offline-run-*/run-ID.wandb`, also those that a killed process left."""

from __future__ import annotations

import json
import struct
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt_lab.errors import DataError
from gpt_lab.frame.sources.source import Source
from gpt_lab.frame.sources.wandb_row import merged, table, wandb_row
from gpt_lab.store.files import decode

if TYPE_CHECKING:
    import pandas as pd

HEADER = b":W&B\xe1\xbe"
"""First bytes of a file; a version byte follows."""
BLOCK = 32768
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4
PATTERNS = ("*.wandb", "*/*.wandb", "*/*/*.wandb", "*/*/*/*.wandb", "*/*/*/*/*.wandb")
"""A file's own folder, `wandb/`, a run folder, a study, a folder of studies."""
SILENCE = 60.0
"""Seconds after the last write of a file without an end from which its run counts as killed: a living one writes the
machine's load every 15 s."""


@dataclass
class Part:
    """What one file holds: a run from its beginning, or from where it was resumed.

    Fields:
        started: seconds since 1970.
        exit_code: None if the file does not tell how the run ended. seconds: how long it was open.
        damaged: whether it holds a record that cannot be; reading ends there. A torn last one is none: that is how a
            killed process leaves it.
    """

    path: Path
    id: str = ""
    name: str = ""
    group: str = ""
    job_type: str = ""
    started: float = 0.0
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    exit_code: int | None = None
    seconds: int = 0
    damaged: bool = False


def load(folder: Path) -> Source:
    """The runs of all `.wandb` files in a folder, in its `wandb/`, or in the run folders below it.

    Several files of one run (a resume makes a new one) are one run.

    Raises:
        DataError: there is no such file, or the folder cannot be read.
    """
    paths = files(folder)
    if not paths:
        raise DataError(f"{folder} holds no offline W&B files (wandb/offline-run-*/run-*.wandb)")
    runs: dict[str, list[Part]] = {}
    notes = []
    for path in paths:
        try:
            part = read(path)
        except DataError as error:
            notes.append(f"{error}: left out")
            continue
        if part.job_type != "report":
            runs.setdefault(part.id, []).append(part)
        if part.damaged:
            notes.append(f"{path} is damaged: only what stands before that place is read")
    rows, lines = [], {}
    for parts in runs.values():
        parts.sort(key=lambda part: part.started)
        run = str(parts[-1].path.parent)
        lines[run] = history(parts)
        rows.append(_row(run, parts, lines[run]))

    def curves(asked: Sequence[str]) -> Mapping[str, pd.DataFrame]:
        return {run: table(lines[run]) for run in asked}

    return Source(rows, curves, notes=notes)


def files(folder: Path) -> list[Path]:
    """The `.wandb` files below a folder, each once (W&B links the latest run's folder), in order of their paths.

    Raises:
        DataError: the folder cannot be read.
    """
    try:
        return sorted({path.resolve() for pattern in PATTERNS for path in folder.glob(pattern)})
    except OSError as error:
        raise DataError(f"cannot read {folder}: {error.strerror}") from error


def read(path: Path) -> Part:
    """One file, up to its end or its first damaged record.

    Raises:
        DataError: unreadable, no W&B file, or it names no run (killed within its first second).
    """
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from wandb.proto import wandb_internal_pb2 as pb

    part = Part(path)
    for body in _records(path, part):
        try:
            record = pb.Record.FromString(body)  # type: ignore[attr-defined]
        except DecodeError:
            part.damaged = True
            break
        _take(part, record)
    if not part.id:
        raise DataError(f"{path} names no run")
    return part


def history(parts: Sequence[Part]) -> list[dict[str, Any]]:
    """The metrics of a run's files in the order of their making, one line per step.

    A resume goes on from a checkpoint: what was logged beyond it before is logged again, and the first file's later
    lines do not count.
    """
    lines: list[dict[str, Any]] = []
    for part in parts:
        new = merged(part.history)
        if new:
            lines = merged([*(line for line in lines if line["step"] <= new[0]["step"]), *new])
    return lines


def _row(run: str, parts: Sequence[Part], lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    last = parts[-1]
    if last.exit_code is None:
        state = "running" if time.time() - last.path.stat().st_mtime < SILENCE else "crashed"
    else:
        state = {0: "finished", 255: "killed"}.get(last.exit_code, "failed")
    summary = {key: value for line in lines for key, value in line.items() if key != "step"}
    for part in parts:
        summary |= part.summary
    if last is not parts[0] and "state" not in last.summary:
        summary.pop("state", None)  # the earlier file's word
    config = {key: value for part in parts for key, value in part.config.items()}
    return wandb_row(
        run,
        "offline",
        last.name or last.id,
        last.group,
        state,
        config,
        summary,
        _iso(parts[0].started),
        None if last.exit_code is None else _iso(last.started + last.seconds),
    )


def _records(path: Path, part: Part) -> Iterator[bytes]:
    """The records of a LevelDB-framed log: blocks of 32 KiB, frames of checksum, length, kind and body."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    if not data.startswith(HEADER):
        raise DataError(f"{path} is no W&B file")
    at, record, inside = len(HEADER) + 1, b"", False
    while at < len(data):
        if BLOCK - at % BLOCK < 7:  # no room for a frame's head: zeros up to the next block
            at += BLOCK - at % BLOCK
            continue
        end = at + 7
        if end > len(data):
            return
        checksum, length, kind = struct.unpack_from("<IHB", data, at)
        body = data[end : end + length]
        if len(body) < length or not any(data[at:]):  # torn, or zeros where a machine lost its power
            return
        follows = kind in (MIDDLE, LAST)
        if zlib.crc32(data[at + 6 : end + length]) != checksum or follows != inside:
            part.damaged = True
            return
        record = record + body if follows else body
        inside = kind in (FIRST, MIDDLE)
        if not inside:
            yield record
        at = end + length


def _take(part: Part, record: Any) -> None:
    """Adds one record to what is known of the run."""
    kind = record.WhichOneof("record_type")
    if kind == "run":
        run = record.run
        part.id, part.name, part.group, part.job_type = run.run_id, run.display_name, run.run_group, run.job_type
        part.started = run.start_time.seconds + run.start_time.nanos / 1e9
        part.config |= _items(run.config.update)
        part.summary |= _items(run.summary.update)
    elif kind == "config":
        part.config |= _items(record.config.update)
        for item in record.config.remove:
            part.config.pop(item.key, None)
    elif kind == "history":
        part.history.append(_items(record.history.item))
    elif kind == "summary":
        part.summary |= _items(record.summary.update)
        for item in record.summary.remove:
            part.summary.pop(item.key, None)
    elif kind == "exit":
        part.exit_code, part.seconds = record.exit.exit_code, record.exit.runtime


def _items(items: Any) -> dict[str, Any]:
    """Values by key, without the members of nested ones: those describe images, tables and texts."""
    keyed = ((item.key or "".join(item.nested_key[:1]), item) for item in items if len(item.nested_key) < 2)
    return {key: _value(item) for key, item in keyed}


def _value(item: Any) -> Any:
    if item.value_json:
        return decode(json.loads(item.value_json))
    kind = item.WhichOneof("value") if "value" in item.DESCRIPTOR.oneofs_by_name else None
    if kind is None or kind == "none":
        return None
    return decode(json.loads(item.json)) if kind == "json" else getattr(item, kind)


def _iso(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
