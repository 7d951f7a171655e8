"""Run lock: one process per run, released when its holder dies."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

from gpt_lab.errors import LabError
from gpt_lab.store.atomic_files import parse, writing


class Busy(LabError):
    """Another process trains this run."""


class Lock:
    """An exclusive `flock` on a file that names its holder. The kernel frees it however the holder ends.

    The file stays when the lock is free: removing it would let two processes lock two files of the same name.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None

    def acquire(self) -> Lock:
        """Takes the lock; usable in a `with` statement.

        Raises:
            Busy: another process holds it (the line names pid and host). LabError: the file cannot be written.
        """
        with writing(self.path):
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                os.close(fd)
                if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                    raise Busy(self._busy()) from None
                raise
            try:
                os.ftruncate(fd, 0)
                os.write(fd, json.dumps(this_process()).encode())
            except OSError:
                os.close(fd)
                raise
        self._fd = fd
        return self

    def release(self) -> None:
        """Frees the lock; nothing happens if it is not held."""
        if self._fd is not None:
            os.ftruncate(self._fd, 0)
            os.close(self._fd)
            self._fd = None

    def holder(self) -> dict[str, Any] | None:
        """Host, pid, process start time and date of the process that holds the lock now; None if it is free."""
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return None
        except OSError:
            return self._named(os.pread(fd, 4096, 0))
        finally:
            os.close(fd)

    def _named(self, data: bytes) -> dict[str, Any]:
        try:
            named = parse(data)
        except ValueError:  # between its flock and its write
            named = None
        return named if isinstance(named, dict) else {"host": "?", "pid": "?", "since": "just now"}

    def _busy(self) -> str:
        try:
            who = self._named(self.path.read_bytes())
        except OSError:
            who = self._named(b"")
        return (
            f"run {self.path.parent.name} is being trained by process {who.get('pid')} on {who.get('host')} since "
            f"{who.get('since')}: wait for it, stop it with `kill {who.get('pid')}`, or change the seed or the study"
        )

    def __enter__(self) -> Lock:
        return self if self._fd is not None else self.acquire()

    def __exit__(self, *error: object) -> None:
        self.release()


def this_process() -> dict[str, Any]:
    """What tells this process from any other, a later one with the same pid included."""
    return {
        "host": platform.node(),
        "pid": os.getpid(),
        "start_time": start_time(os.getpid()),
        "since": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def start_time(pid: int) -> int | None:
    """When a process of this machine began, in clock ticks since boot; None if it is gone or the system cannot say."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return int(stat.rpartition(")")[2].split()[19])
