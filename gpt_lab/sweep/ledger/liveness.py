"""Liveness of workers: by /proc on this machine, by heartbeat elsewhere."""

from __future__ import annotations

import os
import platform
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gpt_lab.store.lock import start_time

SILENCE = 60.0
"""Seconds without a heartbeat after which a runner of another machine counts as dead."""
BEAT_EVERY = 15.0
"""Seconds between two heartbeats of a runner that writes nothing else."""
LISTEN_EVERY = 5.0
"""Seconds between two looks at whether workers have been asked to stop."""


@dataclass(frozen=True)
class Owner:
    """A runner. `start` tells it from a later process with the same pid, `token` from another sweep of its process."""

    host: str
    pid: int
    start: int | None
    token: str

    @classmethod
    def this(cls) -> Owner:
        """This process, for one sweep."""
        return cls(process_table(), os.getpid(), start_time(os.getpid()), secrets.token_hex(4))

    @property
    def id(self) -> str:
        return f"{self.host}/{self.pid}/{self.start}/{self.token}"

    @property
    def machine(self) -> str:
        """The name that a person knows the machine by."""
        return self.host.split("/")[0]


def process_table() -> str:
    """Names what one table of processes covers: machine, boot and pid namespace (containers may share a name)."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()[:8]
        namespace = os.readlink("/proc/self/ns/pid").strip("pid:[]")
    except OSError:
        boot, namespace = "-", "-"
    return f"{platform.node()}/{boot}/{namespace}"


class OwnerWatch:
    """Tells dead owners from living ones. Only this process's own clock is used: machines disagree about the time.

    Args:
        silence: seconds without a heartbeat that mean death, for other machines.
        clock: seconds that only grow.
    """

    def __init__(self, silence: float = SILENCE, clock: Callable[[], float] = time.monotonic) -> None:
        self.silence = silence
        self.clock = clock
        self._here = process_table()
        self._heard: dict[str, tuple[int, float]] = {}

    def dead(self, owner: Owner, beat: int) -> bool:
        """Whether an owner is gone, whose heartbeat counter now stands at `beat`."""
        if owner.host == self._here and owner.start is not None:
            return has_ended(owner.pid, owner.start)
        known = self._heard.get(owner.id)
        if known is None or known[0] != beat:
            self._heard[owner.id] = (beat, self.clock())
            return False
        return self.clock() - known[1] >= self.silence


def has_ended(pid: int, start: int) -> bool:
    """Whether a process of this machine that began at `start` has ended, be it that its parent has yet to notice."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return True
    return start_time(pid) != start or stat.rpartition(")")[2].split()[0] in ("Z", "X")
