"""Linux process control: to end with the parent, and to be single-threaded before a fork."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from pathlib import Path

from gpt_lab.errors import LabError

PR_SET_PDEATHSIG = 1
PATIENCE = 120.0
"""Seconds in which processes that are to meet must have begun."""


def end_with(parent: int, number: int = signal.SIGKILL) -> None:
    """Has the kernel send this process a signal when its parent ends, however that is; ends it if it already has."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def threads() -> int | None:
    """Threads of this process; None where the system does not say."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return None


def close_all_but(kept: set[int]) -> None:
    """Closes every open file but these and the three standard ones."""
    for name in os.listdir("/proc/self/fd") if Path("/proc/self/fd").exists() else ():
        number = int(name)
        if number > 2 and number not in kept:
            try:
                os.close(number)
            except OSError:  # that of the listing itself
                continue


def meet(folder: str, count: int) -> None:
    """Waits until `count` processes have come here.

    Raises:
        LabError: they did not.
    """
    (Path(folder) / str(os.getpid())).touch()
    end = time.monotonic() + PATIENCE
    while len(os.listdir(folder)) < count:
        if time.monotonic() > end:
            raise LabError(f"{count} processes were to begin together, and not all have come within {PATIENCE:.0f} s")
        time.sleep(0.002)
