"""Standard streams that survive a closed pipe or a full disk: further output is dropped, the work goes on.

A reader leaves (`| head`), a disk is full, a terminal hangs up, a stream was closed before the start (`>&-`). None of
that is a reason to lose a run; whether it is one to fail is for the command to say, which finds it in `output_error`.
"""

from __future__ import annotations

import errno
import io
import os
import select
import sys
import time
from typing import TYPE_CHECKING, Any, TextIO

from gpt_lab.console import signals

if TYPE_CHECKING:
    from typing_extensions import Buffer

STALLED = 1.0
"""Seconds that a write has waited for its reader, after which a process that is asked to leave waits no longer."""


class Stream(io.FileIO):
    """A file descriptor to write to, and never an error.

    Args:
        there: whether it was open when this process began.

    Fields:
        lost: why something that was written went nowhere; None: nothing did.
    """

    def __init__(self, number: int, there: bool = True) -> None:
        super().__init__(number, "w", closefd=False)
        self.lost: OSError | None = None
        self._there = there
        self._since: float | None = None

    def write(self, data: Buffer) -> int:
        """Writes some of the bytes, or gives up; returns how many are dealt with."""
        self._since = time.monotonic()
        try:
            if not self._there and self.lost is None:
                raise OSError(errno.EBADF, "it is closed")
            while (written := super().write(data)) is None:
                select.select([], [self], [])  # a descriptor that others have made non-blocking
            return int(written)
        except OSError as error:
            self.let_go(error)
            return memoryview(data).nbytes
        finally:
            self._since = None

    def let_go(self, reason: OSError) -> None:
        """Writes nowhere from now on, a write that is under way included."""
        self.lost = self.lost or reason
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self.fileno())
        os.close(null)

    @property
    def stalled(self) -> bool:
        """Whether a write waits for a reader that does not read."""
        return self._since is not None and time.monotonic() - self._since >= STALLED


def install() -> None:
    """Makes this process's standard streams such streams. Where something else stands in for one, as in tests and
    notebooks, it stays."""
    closed = [number for number in (0, 1, 2) if not _open(number)]
    for _ in closed:  # else the next file that is opened, a run's metrics say, would be standard output
        os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    made = []
    for number, name in ((1, "stdout"), (2, "stderr")):
        text: Any = getattr(sys, name)
        if text is getattr(sys, f"__{name}__"):
            made.append(Stream(number, number not in closed))
            by_lines = number == 2 or made[-1].isatty() or getattr(text, "write_through", False)
            setattr(sys, name, wrapped(made[-1], getattr(text, "encoding", None), by_lines))
    signals.when_asked(lambda: _release(made))


def wrapped(stream: Stream, encoding: str | None = None, by_lines: bool = True) -> TextIO:
    """Text for a stream; what the encoding lacks becomes "?"."""
    binary = io.BufferedWriter(stream)
    return io.TextIOWrapper(binary, encoding=encoding or "utf-8", errors="replace", line_buffering=by_lines)


def output_error(text: TextIO | None) -> OSError | None:
    """Why what is written to a standard stream arrives nowhere; None: it arrives, or this cannot be known."""
    stream = getattr(getattr(text, "buffer", None), "raw", None)
    return stream.lost if isinstance(stream, Stream) else None


def _release(streams: list[Stream]) -> None:
    if any(stream.stalled for stream in streams):
        for stream in streams:  # the last words would wait for the same reader
            stream.let_go(OSError(errno.ETIMEDOUT, "nobody reads it"))


def _open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True
