"""The fork server of a sweep, forked from the runner in place of a new interpreter that imports torch again."""

from __future__ import annotations

import os
import signal
import socket
import time
from typing import Any

from gpt_lab.console import signals
from gpt_lab.sweep.workers import client, forkserver
from gpt_lab.trackers.wandb_env import ONE_RUN


class Forked:
    """A forked server, as subprocess.Popen shows one."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.code: int | None = None

    def wait(self, timeout: float = 60) -> int:
        end = time.monotonic() + timeout
        while self.code is None and time.monotonic() < end:
            done, code = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(code) if done else None
            time.sleep(0.002)
        assert self.code is not None
        return self.code

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)


def launch(server: client.ForkServer, number: int) -> Any:
    """In place of ForkServer._launch: the same server, without importing torch again."""
    parent = os.getpid()
    with signals.blocked():
        pid = os.fork()
        if pid == 0:
            try:
                os.setsid()
                forkserver.process.end_with(parent)
                for standard in (1, 2):
                    os.dup2(server._output.fileno(), standard)
                forkserver.process.close_all_but({number})
                for name in ONE_RUN:
                    os.environ.pop(name, None)
                forkserver.Server(socket.socket(fileno=number)).serve()
            finally:
                os._exit(0)
    return Forked(pid)


def use() -> None:
    """Lets the runners of this process, and of those that it forks, fork their servers; it must run one thread."""
    client.ForkServer._launch = launch  # type: ignore[method-assign]
