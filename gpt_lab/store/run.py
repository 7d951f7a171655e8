"""The folder of a run: create, open, log, record, finish."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from gpt_lab import yamlfile
from gpt_lab.errors import ConfigError, DataError, LabError, unknown
from gpt_lab.store import fork
from gpt_lab.store.atomic_files import (
    Lines,
    parse,
    read_json,
    sync_folder,
    write_atomic,
    write_json,
    writing,
)
from gpt_lab.store.known_settings import Checked
from gpt_lab.store.lock import Lock
from gpt_lab.store.metric_lines import SIMPLE, plain, read_lines, shorten, shown, usable

EVALUATED = "evaluate"
"""Folder of what tasks made of a run's model (gpt_lab/evaluate), one JSON file each."""
PROBED = "probe.jsonl"
"""What `probe=light` saw at each evaluation (train/probe), in a run's folder."""
STATES = ("running", "finished", "stopped", "failed", "diverged")
"""running: training, or killed while it was (then nobody holds its lock); stopped: by a signal, can be resumed."""
MAPPINGS = ("summary", "config", "git", "hardware", "packages", "resolved", "reasons", "forked", "wandb")
"""Keys of run.json that hold an object or null, where they are there at all."""


def read_record(folder: str | os.PathLike[str], parse: Callable[[bytes], Any] = parse) -> tuple[dict[str, Any], str]:
    """What run.json says; and one sentence on values of its summary that are no numbers and were left out, or "".

    Args:
        parse: as read_json takes it; KnownSettings.parse for many records that are alike.

    Raises:
        DataError: it cannot be read, is not as it was written, or is not that of a run.
    """
    path = os.path.join(folder, "run.json")
    record = read_json(path, parse=parse)

    def refuse(key: str, value: Any) -> DataError:
        return DataError(f"{path} is not that of a run: its {key} is {shown(value)}")

    for key in MAPPINGS:
        values = record.get(key)
        if values is None:
            continue
        if not isinstance(values, dict):
            raise refuse(key, values)
        if key == "summary" or isinstance(values, Checked) or SIMPLE.issuperset(map(type, values.values())):
            continue
        for name in [name for name, value in values.items() if type(value) not in SIMPLE and not plain(value)]:
            value = values[name]
            nested = (key, name) == ("wandb", "sweep") and isinstance(value, dict) and all(map(plain, value.values()))
            if not nested and not (key == "config" and isinstance(value, list)):
                raise refuse(f"{key}.{shorten(name)}", value)
    if record.get("state") not in STATES:
        raise refuse("state", record.get("state"))
    if record.get("forked") and type(record["forked"].get("step")) is not int:
        raise refuse("forked.step", record["forked"].get("step"))
    summary = record.get("summary") or {}
    numbers, wrong = usable({name: value for name, value in summary.items() if value is not None})
    kept = [name for name, value in summary.items() if value is None or name in numbers]
    record["summary"] = dict(zip(kept, map(numbers.get, kept), strict=True))
    return record, f"{path}: {'; '.join(wrong)}: left out of its summary" if wrong else ""


class Run:
    """A run's folder. `record` is what run.json holds; change it through `update` only.

    Every method is safe to call from several threads; only the process that holds `lock()` may write.
    """

    def __init__(self, path: Path, record: dict[str, Any]) -> None:
        self.path = path
        self.record = record
        self._lines = Lines(path / "metrics.jsonl")
        self._lock = Lock(path / "lock")
        self._guard = threading.RLock()

    @classmethod
    def create(
        cls,
        runs_dir: str | os.PathLike[str],
        study: str,
        name: str,
        config: Mapping[str, Any],
        record: Mapping[str, Any],
        fill: Callable[[Path], None] | None = None,
    ) -> Run:
        """Makes `runs_dir/study/name` with its config and record, at once and complete.

        A folder of that name with the same signature is opened instead (another process was faster); with another
        signature, the new run's name gets the first free suffix -2, -3, ...

        Args:
            config: the resolved config, nested; becomes config.yaml.
            record: what run.json shall hold beside state, study, name, id and times.
            fill: puts into the new folder what the run begins with.

        Raises:
            ConfigError: the study or the name cannot be a folder's name.
            LabError: the folder cannot be written.
        """
        folder = Path(runs_dir) / _folder_name("study", study)
        _folder_name("run", name)
        signature = record.get("signature")
        now = timestamp()
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".{name}.{os.getpid()}.{secrets.token_hex(3)}.tmp"
        try:
            with writing(folder):
                temporary.mkdir()
                (temporary / "checkpoints").mkdir()
                (temporary / "samples").mkdir()
                if fill is not None:
                    fill(temporary)
            write_atomic(temporary / "config.yaml", yamlfile.text(dict(config)).encode())
            for number in range(1, 10_000):
                final = folder / (name if number == 1 else f"{name}-{number}")
                full = {
                    "state": "running",
                    "study": study,
                    "name": final.name,
                    "id": new_id(signature),
                    "started": now,
                    "updated": now,
                    "finished": None,
                    "summary": {},
                    **record,
                }
                write_json(temporary / "run.json", full)
                with writing(final):
                    try:
                        os.rename(temporary, final)  # fails where a folder with content stands
                    except OSError:
                        if not final.exists():
                            raise
                    else:
                        sync_folder(folder)
                        return cls.open(final)
                other = _try_open(final)
                if other is not None and signature is not None and other.record.get("signature") == signature:
                    return other
            raise LabError(f"{folder} holds too many runs named {name}: choose another study=...")
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Run:
        """The run in a folder.

        Raises:
            DataError: the folder holds no readable run.json.
        """
        folder = Path(path)
        if not (folder / "run.json").exists():
            raise DataError(f"{folder} is not a run folder: it has no run.json")
        return cls(folder, read_record(folder)[0])

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def study(self) -> str:
        return self.path.parent.name

    @property
    def state(self) -> str:
        return str(self.record["state"])

    @property
    def summary(self) -> dict[str, Any]:
        """Final values by metric name; empty before the run has finished."""
        return dict(self.record.get("summary") or {})

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def samples(self) -> Path:
        return self.path / "samples"

    @property
    def config(self) -> dict[str, Any]:
        """The resolved config, nested.

        Raises:
            DataError: config.yaml is missing or not YAML.
        """
        path = self.path / "config.yaml"
        try:
            config = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
            raise DataError(f"cannot read {path}: {getattr(error, 'strerror', None) or 'not valid YAML'}") from error
        if not isinstance(config, dict):
            raise DataError(f"cannot read {path}: it holds {shown(config)} and no settings")
        return config

    def update(self, **changes: Any) -> None:
        """Changes keys of run.json, atomically and on stable storage.

        Raises:
            LabError: it cannot be written; run.json and `record` are as before.
        """
        if changes.get("state", "running") not in STATES:
            raise ConfigError(unknown("state", changes["state"], STATES))
        with self._guard:
            record = {**self.record, **changes, "updated": timestamp()}
            write_json(self.path / "run.json", record)
            self.record = record

    def log(self, step: int, values: Mapping[str, float], **extra: float) -> None:
        """Adds one line to metrics.jsonl and hands it to the operating system at once (about 10 microseconds).

        Args:
            step: optimizer steps done.
            values: metric name to number; NaN and infinity are kept.
            extra: tokens, flops, seconds so far.

        Raises:
            LabError: disk full or read-only; the lines before it are intact.
        """
        with self._guard:
            self._lines.append({"step": step, **extra, **values})

    def metrics(self) -> list[dict[str, Any]]:
        """One dictionary per step, in order: the lines of a step merged, the last value of each key kept."""
        return self.read_metrics()[0]

    def read_metrics(self) -> tuple[list[dict[str, Any]], str]:
        """As `metrics`, and one sentence on lines and values that cannot be used and were left out, or ""."""
        rows, said = read_lines(self._lines.path, self._lines.read())
        merged: dict[int, dict[str, Any]] = {}
        for row in rows:
            merged.setdefault(row["step"], {}).update(row)
        return [merged[step] for step in sorted(merged)], said

    def truncate_after(self, step: int) -> str:
        """Drops the lines after `step`, atomically: what a resume from that step's checkpoint will log again.

        What cannot be used goes too; the result is one sentence on it, or "".
        """
        with self._guard:
            lines = self._lines.read()
            rows, said = read_lines(self._lines.path, lines)
            kept = [row for row in rows if row["step"] <= step]
            if said or len(kept) < len(lines):
                self._lines.replace(kept)
            return said

    def sample(self, step: int, text: str) -> Path:
        """Writes one text of the model as samples/step_<step>.txt."""
        path = self.samples / f"step_{step:08d}.txt"
        with writing(path):
            self.samples.mkdir(exist_ok=True)
        write_atomic(path, text.encode("utf-8", "replace"))
        return path

    def last_sample(self) -> tuple[int, str] | None:
        """The step and the text that the model wrote last; None if it wrote none, or the file cannot be read."""
        try:
            path = max(self.samples.glob("step_*.txt"), key=lambda found: int(found.stem.removeprefix("step_")))
            return int(path.stem.removeprefix("step_")), path.read_text(encoding="utf-8", errors="replace")
        except (OSError, ValueError):
            return None

    def sync(self) -> None:
        """Puts metrics.jsonl on stable storage; call it before a checkpoint, so that none outlives its curve."""
        with self._guard:
            self._lines.sync()

    def finish(self, state: str, summary: Mapping[str, Any]) -> None:
        """Writes the last state and the final values, and closes metrics.jsonl."""
        self.sync()
        self.update(state=state, summary={**self.summary, **summary}, finished=timestamp())
        with self._guard:
            self._lines.close()

    def restart(self, **changes: Any) -> None:
        """Empties the run (metrics, checkpoints, samples) to train it anew under a new id, in the same folder."""
        with self._guard:
            self._lines.replace([])
            for folder in (self.checkpoints, self.samples):
                with writing(folder):
                    shutil.rmtree(folder, ignore_errors=True)
                    folder.mkdir(exist_ok=True)
            for one in (fork.FOLDER, EVALUATED):
                shutil.rmtree(self.path / one, ignore_errors=True)
            (self.path / PROBED).unlink(missing_ok=True)
            self.record = {
                key: value for key, value in self.record.items() if key not in ("wandb", "forked", "resumed")
            }
            fresh: dict[str, Any] = {
                "id": new_id(self.record.get("signature")),
                "started": timestamp(),
                "finished": None,
                "summary": {},
            }
            self.update(state="running", **{**fresh, **changes})

    def lock(self) -> Lock:
        """Takes the run for this process until `release()` or the process ends; usable in a `with` statement.

        Raises:
            LabError: another process trains it; the line names its pid and host.
        """
        return self._lock.acquire()

    def holder(self) -> dict[str, Any] | None:
        """Host and pid of the process that trains the run now; None if nobody does."""
        return self._lock.holder()


def timestamp() -> str:
    """Now, in UTC, with microseconds so that the order of runs is kept: 2026-01-31T12:00:00.000000Z."""
    seconds, fraction = divmod(time.time_ns() // 1000, 1_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{fraction:06d}Z"


def new_id(signature: object) -> str:
    """An id for trackers, unique per run folder: the signature, so that equals are seen, and six random digits."""
    return f"{signature}-{secrets.token_hex(3)}" if signature else secrets.token_hex(8)


def _folder_name(what: str, name: str) -> str:
    if not re.fullmatch(r"[^\x00-\x1f/\\.][^\x00-\x1f/\\]{0,199}", name) or len(name.encode()) > 200:
        raise ConfigError(
            f"{what} name {name!r} cannot be a folder: use 1 to 200 characters without slashes, not starting with a dot"
        )
    return name


def _try_open(path: Path) -> Run | None:
    try:
        return Run.open(path)
    except DataError:
        return None
