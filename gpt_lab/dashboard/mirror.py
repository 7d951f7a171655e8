"""The mirror's folder, its single writer, and the loop that keeps it up to date.

A mirror belongs to what it shows: the same folders and the same choices share one, whoever looks. One process writes
it, the others only show it; when the writer ends, however it ends, another takes over.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import sys
import time
import webbrowser
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from gpt_lab.dashboard.follow import CLOCKS, FileTail, Follower, Seen, Sink, find
from gpt_lab.errors import ConfigError, LabError, unknown
from gpt_lab.store.lock import Lock

PERIOD = 1.0
"""Seconds between two looks at the store: trackio's page asks for news as often."""

REST = 4
"""Times as long as a look took it rests: 10,000 runs take 0.6 s, and training needs the processor more."""
FORMAT = 2
"""Counts up when mirrors hold other things than before: then old ones are left and new ones made."""


@dataclass(frozen=True)
class MirrorOptions:
    """What the command line may set.

    Fields:
        targets: resolved folders. project: one trackio project for all studies; None: one each.
        metrics: the only ones to mirror; None: all. port: None: the first free one.
    """

    targets: tuple[Path, ...]
    project: str | None = None
    metrics: frozenset[str] | None = None
    port: int | None = None
    tensorboard: bool = False
    once: bool = False
    browser: bool = True


class Backend(Sink, Protocol):
    """A sink with a page."""

    def serve(self, port: int | None, runs: Iterable[Seen]) -> str:
        """Starts the page on 127.0.0.1 and gives its address."""

    def close(self) -> None:
        """Stops the page."""

    def how_to_look(self) -> str:
        """The command that shows the mirror without us."""


def folder(options: MirrorOptions) -> Path:
    """The folder of the mirror, in the lab's cache: stores may be read-only, or shared by machines."""
    named = os.environ.get("GPT_LAB_CACHE")
    cache = Path(named).expanduser() if named else Path.home() / ".cache" / "gpt_lab"
    kind = "tensorboard" if options.tensorboard else "trackio"
    what = [FORMAT, sorted(map(str, options.targets)), options.project, sorted(options.metrics or ())]
    return cache / "dashboard" / f"{kind}-{hashlib.sha256(json.dumps(what).encode()).hexdigest()[:12]}"


def check_metrics(options: MirrorOptions) -> None:
    """Refuses a metric that no run has, if any run has metrics.

    Raises:
        ConfigError: one line with the closest name.
        DataError: a run cannot be read.
    """
    missing = set(options.metrics or ())
    names: set[str] = set()
    for run in (run for target in options.targets for run in find(target)):
        if not missing:
            return
        _, rows = FileTail(run / "metrics.jsonl").read()
        names |= {name for row in rows for name in row.values}
        missing -= names
    if missing and names:
        raise ConfigError(unknown("metric", min(missing), names - set(CLOCKS)))


def show(options: MirrorOptions, say: Callable[[str], None]) -> int:
    """Mirrors the store and shows it until Ctrl-C (or another signal), or once without showing it; exit status 0.

    Raises:
        ConfigError: the backend's package is missing, the port is taken, an unknown metric.
        LabError: the mirror cannot be written.
    """
    _check_backend(options)
    check_metrics(options)
    place = folder(options)
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LabError(
            f"cannot write {place}: {error.strerror}: set GPT_LAB_CACHE=FOLDER to keep it elsewhere"
        ) from error
    backend = _backend(options, place)
    writer = Writer(Follower(options.targets, backend, options.metrics), Lock(place / "lock"), say)
    try:
        return _once(writer, backend, place, say) if options.once else _serve(writer, backend, options, say)
    except KeyboardInterrupt:
        return 0
    finally:
        backend.close()
        writer.lock.release()


def _check_backend(options: MirrorOptions) -> None:
    from gpt_lab.dashboard import trackio_mirror
    from gpt_lab.trackers import tensorboard

    if options.tensorboard:
        tensorboard.require("--tensorboard")
    else:
        trackio_mirror.check(options.project)


def _backend(options: MirrorOptions, place: Path) -> Backend:
    from gpt_lab.dashboard import tensorboard_mirror, trackio_mirror

    return (
        tensorboard_mirror.TensorBoardMirror(place)
        if options.tensorboard
        else trackio_mirror.TrackioMirror(place, options.project)
    )


class Writer:
    """The follower, for as long as no other process mirrors the same: then it waits to take over."""

    def __init__(self, follower: Follower, lock: Lock, say: Callable[[str], None]) -> None:
        self.follower = follower
        self.lock = lock
        self._say = say
        self._writes = False
        self._trouble = ""
        self._said: set[str] = set()

    def take(self) -> bool:
        """Whether this process writes the mirror now."""
        if not self._writes:
            try:
                self.lock.acquire()
                self._writes = True
            except LabError:
                if self.lock.holder() is None:  # not taken: it cannot be written
                    raise
        return self._writes

    def poll(self) -> None:
        """One poll; what cannot be used is said, each thing once."""
        self.follower.poll()
        for line in self.follower.left_out.values():
            if line not in self._said:
                self._said.add(line)
                self._say(line)

    def look(self) -> bool:
        """One poll, if it is ours to do; a store that is busy or half there is said once and tried again."""
        try:
            if self.take():
                self.poll()
                self._trouble = ""
            return self._writes
        except (LabError, OSError, sqlite3.Error) as error:
            if str(error) != self._trouble:
                self._trouble = str(error)
                self._say(f"cannot mirror for now: {' '.join(str(error).split())}; trying again")
            return False


def _once(writer: Writer, backend: Backend, place: Path, say: Callable[[str], None]) -> int:
    if not writer.take():
        holder = writer.lock.holder() or {}
        say(f"process {holder.get('pid')} keeps this mirror up to date: {place}")
        return 0
    try:
        writer.poll()
    except (OSError, sqlite3.Error) as error:
        raise LabError(f"cannot write {place}: {error}") from error
    say(f"mirrored {counted(writer.follower.runs)} into {place}")
    say(f"look at it: {backend.how_to_look()}")
    return 0


def _serve(writer: Writer, backend: Backend, options: MirrorOptions, say: Callable[[str], None]) -> int:
    present = [Seen(run, run.name, {}) for target in options.targets for run in find(target)]
    writes = writer.look()  # before the page: it shows what there is when it opens
    url = backend.serve(options.port, present)
    say(f"{url} (Ctrl-C ends it)")
    if writes:
        say(f"{counted(writer.follower.runs)}; new ones and new lines appear as they come")
    elif (holder := writer.lock.holder()) is not None:
        say(f"process {holder.get('pid')} keeps this mirror up to date; when it ends, this one goes on")
    if options.browser and _has_desktop():
        webbrowser.open(url)
    spent = 0.0
    while True:
        time.sleep(max(PERIOD, REST * spent))
        began = time.monotonic()
        writer.look()
        spent = time.monotonic() - began


def counted(runs: Sequence[Seen]) -> str:
    """ "12 runs of 2 studies"."""
    studies = len({run.path.parent for run in runs})
    return f"{len(runs)} run{'s' * (len(runs) != 1)} of {studies} {'study' if studies == 1 else 'studies'}"


def _has_desktop() -> bool:
    """A text browser in this terminal would be in the way."""
    return sys.platform != "linux" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
