"""The fork server of a sweep, forked from the runner in place of a new interpreter that imports torch again."""

from __future__ import annotations

import functools
import os
import signal
import socket
import sys
import time
from multiprocessing.process import BaseProcess
from typing import Any

from gpt_lab.console import signals
from gpt_lab.sweep.workers import client, forkserver
from gpt_lab.trackers.wandb_env import ONE_RUN
from tests.processes import commands


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


class Apart:
    """A server that tests/processes has forked, as subprocess.Popen shows one."""

    def __init__(self, process: BaseProcess) -> None:
        self.pid, self._process = process.pid, process

    def wait(self, timeout: float = 60) -> int:
        self._process.join(timeout)
        assert self._process.exitcode is not None
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()


def launch_apart(server: client.ForkServer, number: int) -> Any:
    """In place of ForkServer._launch, in a process of many threads: the server is no child of it."""
    runner = socket.socket(fileno=os.dup(number))
    process = commands.started(functools.partial(_serve, runner, os.getcwd(), list(sys.path), dict(os.environ)))
    runner.close()
    return Apart(process)


def _serve(runner: socket.socket, folder: str, paths: list[str], environment: dict[str, str]) -> None:
    os.setsid()
    os.chdir(folder)
    sys.path[:] = paths
    os.environ.clear()
    os.environ.update({name: value for name, value in environment.items() if name not in ONE_RUN})
    forkserver.Server(runner).serve()


def use() -> None:
    """Lets the runners of this process, and of those that it forks, fork their servers; it must run one thread."""
    client.ForkServer._launch = launch  # type: ignore[method-assign]
