"""Fork server client: starts the server, requests trials, receives their outcomes."""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import Any

from gpt_lab.console import signals
from gpt_lab.errors import ConfigError, LabError
from gpt_lab.store.lock import start_time
from gpt_lab.sweep.ledger.liveness import has_ended
from gpt_lab.sweep.workers.forkserver import lines
from gpt_lab.trackers.wandb_env import ONE_RUN

LAUNCH = "import sys, os; sys.path[:] = sys.argv.pop(1).split(os.pathsep); from gpt_lab.sweep.workers import forkserver"
ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
"""Libraries that start threads at their import start none; each trial sets its own number after the fork."""


class ForkServer:
    """A running fork server and the children that it has.

    Raises:
        LabError: this system cannot fork, or the server cannot be started.
    """

    def __init__(self) -> None:
        if not hasattr(os, "fork"):
            raise LabError("a sweep needs os.fork, which this system lacks: use `wandb agent`, or Linux (WSL will do)")
        self._begin()

    def _begin(self) -> None:
        self.socket, theirs = socket.socketpair()
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - what the server itself says: nothing, unless it breaks
        with theirs:
            self.process = self._launch(theirs.fileno())
        self.pids: dict[str, tuple[int, int | None]] = {}
        """Each job's process and its start time."""
        self.ready = self.gone = False
        self._heard = bytearray()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self.socket, selectors.EVENT_READ)

    def restart(self) -> None:
        """A new server in place of one that has died."""
        self.close()
        self._begin()

    def _launch(self, number: int) -> subprocess.Popen[bytes]:
        """Starts the server's process, which gets the socket with this number."""
        paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
        inherited = {name: value for name, value in os.environ.items() if name not in ONE_RUN}
        with signals.blocked():  # the runner says when it ends, whoever is told to leave
            return subprocess.Popen(
                [sys.executable, "-P", "-c", f"{LAUNCH}; forkserver.main()", paths, str(number), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=self._output,
                pass_fds=[number],
                start_new_session=True,
                env={**inherited, **dict.fromkeys(ONE_THREAD, "1")},
            )

    def start(self, job: str, **settings: Any) -> None:
        """Asks for a child that does a job; `worker` says which settings."""
        self._send({"op": "start", "job": job, **settings})

    def signal(self, job: str, number: int) -> None:
        """Sends a signal to a job's child, if it still runs."""
        self._send({"op": "signal", "job": job, "number": number})

    def events(self, timeout: float) -> list[dict[str, Any]]:
        """What has happened since the last call; waits up to `timeout` seconds for something to happen.

        Raises:
            LabError: the server refuses to fork.
        """
        if self.gone or not self._selector.select(timeout):
            return []
        try:
            data = self.socket.recv(1 << 20)
        except ConnectionError:
            data = b""
        if not data:
            self.gone = True
        found: list[dict[str, Any]] = lines(self._heard, data)
        for event in found:
            self.ready = True
            if event["event"] == "refused":
                raise LabError(f"cannot run trials: {event['error']}")
            if event["event"] == "said" and "pid" in event["message"]:
                pid = event["message"]["pid"]
                self.pids[event["job"]] = (pid, start_time(pid))
            elif event["event"] == "ended":
                self.pids.pop(event["job"], None)
        return found

    def ask(self, job: str, **settings: Any) -> dict[str, Any]:
        """Has a child do a job, and waits for its last message.

        Raises:
            LabError: the child or the server failed.
        """
        return self.gather({job: settings})[job]

    def gather(self, jobs: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
        """Has a child do each job, all at once, and waits for their last messages; the jobs are named by the keys.

        Raises:
            LabError: a child or the server failed.
        """
        for job, settings in jobs.items():
            self.start(job, **settings)
        said: dict[str, dict[str, Any]] = {job: {} for job in jobs}
        left = set(jobs)
        while not self.gone:
            for event in self.events(1.0):
                name = str(event.get("job"))
                if name not in left:
                    continue
                if event["event"] == "said":
                    said[name] = event["message"]
                elif "error" in said[name]:
                    raise (ConfigError if said[name].get("config") else LabError)(said[name]["error"])
                elif event["status"] != 0:
                    raise LabError(f"the check of the trials was {how_ended(event['status'])}")
                else:
                    left.remove(name)
            if not left:
                return said
        raise LabError(f"the fork server ended: {self.last_words()}")

    def wait(self) -> None:
        """Waits until the server can fork.

        Raises:
            LabError: it cannot, or it has died.
        """
        while not self.ready and not self.gone:
            self.events(1.0)
        if self.gone:
            raise LabError(f"the fork server ended: {self.last_words()}")

    def last_words(self) -> str:
        """How a server ended that is gone, in one line."""
        code = self.process.wait()
        self._output.seek(0)
        said = self._output.read().decode("utf-8", "replace").split("\n")
        return next((line.strip() for line in reversed(said) if line.strip()), how_ended(code))

    def close(self, patience: float = 30.0) -> None:
        """Ends the server. Children that still run write their checkpoints, and are killed if they take longer than
        `patience` seconds; no process is left when this returns."""
        self._selector.close()
        self.socket.close()
        self._output.close()
        if not self.ready:  # it would not look up before it has imported torch
            self.process.kill()
        end = time.monotonic() + patience
        try:
            self.process.wait(patience)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for pid, start in self.pids.values():
            while start is not None and not has_ended(pid, start):
                if time.monotonic() >= end:
                    os.kill(pid, signal.SIGKILL)
                    break
                time.sleep(0.01)

    def _send(self, request: Mapping[str, Any]) -> None:
        try:
            self.socket.sendall((json.dumps(request) + "\n").encode())
        except (BrokenPipeError, ConnectionResetError):  # `events` will notice
            return


def how_ended(status: int) -> str:
    """The end of a process without a last word: its exit status, or minus a signal."""
    if status >= 0:
        return f"ended with status {status} and said nothing"
    name = signal.Signals(-status).name
    likely = {
        "SIGKILL": " (out of memory, or killed by hand)",
        "SIGSEGV": " (a crash in compiled code)",
        "SIGBUS": " (disk full, or a file that shrank while it was in use)",
        "SIGABRT": " (a crash in compiled code)",
    }
    return f"killed by {name}{likely.get(name, '')}"
