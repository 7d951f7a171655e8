"""The fork server: imports torch once and forks a child for each job.

It speaks with the runner over one socket, in lines of JSON. Requests: {"op": "start", "job": id, ...},
{"op": "signal", "job": id, "number": n}. Answers: {"event": "ready"}, {"event": "refused", "error": ...},
{"event": "said", "job": id, "message": ...}, {"event": "ended", "job": id, "status": exit status or minus a signal}.

It stays single-threaded and never touches CUDA: either would make its children hang or fail. Signals that ask a process
to leave are shut out: it ends when its runner has, and its children hear of that as SIGTERM.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import json
import os
import selectors
import signal
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gpt_lab.console import process


@dataclass
class Child:
    """A forked process that has not been waited for, so that its pid is certainly its own."""

    job: str
    pid: int
    pipe: int
    heard: bytearray = field(default_factory=bytearray)


class Server:
    """Forks, listens, waits for children, until the runner is gone."""

    def __init__(self, runner: socket.socket) -> None:
        self.runner = runner
        self.runner_heard = bytearray()
        self.children: dict[int, Child] = {}
        self.selector = selectors.DefaultSelector()
        self.pid = os.getpid()

    def serve(self) -> None:
        """Answers requests until the runner closes the socket; then its children are told to leave."""
        wake_out, wake_in = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(wake_in, warn_on_full_buffer=False)
        self.selector.register(self.runner, selectors.EVENT_READ, self._requests)
        self.selector.register(wake_out, selectors.EVENT_READ, lambda: os.read(wake_out, 4096))
        gc.freeze()  # a collection in a child would copy every page that it marks
        problem = unsafe()
        self.send({"event": "refused", "error": problem} if problem else {"event": "ready"})
        try:
            while True:
                for key, _ in self.selector.select():
                    key.data()
                self._wait_for_children()
        except (EOFError, ConnectionError):
            for pid in self.children:
                os.kill(pid, signal.SIGTERM)
            for pid in self.children:
                os.waitpid(pid, 0)

    def send(self, message: Mapping[str, Any]) -> None:
        self.runner.sendall((json.dumps(message) + "\n").encode())

    def _requests(self) -> None:
        data = self.runner.recv(65536)
        if not data:
            raise EOFError
        for request in lines(self.runner_heard, data):
            if request["op"] == "start":
                if "cells" not in request:
                    complete()
                    join_ranks(request.get("config", {}).get("parallel", {}).get("name", "none"))
                self._fork(request)
                if "cells" in request:  # they are checked on one core while another does this
                    complete()
                    if problem := unsafe():
                        self.send({"event": "refused", "error": problem})
            else:
                for child in self.children.values():
                    if child.job == request["job"]:
                        os.kill(child.pid, request["number"])

    def _fork(self, job: Mapping[str, Any]) -> None:
        problem = unsafe()
        if problem:
            self.send({"event": "refused", "error": problem})
            return
        heard, said = os.pipe2(os.O_CLOEXEC)
        try:
            pid = os.fork()
        except OSError as error:  # no memory, too many processes
            os.close(heard)
            os.close(said)
            reason = f"cannot start a process: {error.strerror}"
            self.send({"event": "said", "job": job["job"], "message": {"error": reason, "busy": False}})
            self.send({"event": "ended", "job": job["job"], "status": 1})
            return
        if pid == 0:
            become_child(job, self.pid, said)
        os.close(said)
        child = Child(job["job"], pid, heard)
        self.children[pid] = child
        self.selector.register(heard, selectors.EVENT_READ, lambda: self._listen(child))
        self.send({"event": "said", "job": job["job"], "message": {"pid": pid}})

    def _listen(self, child: Child) -> None:
        data = os.read(child.pipe, 65536)
        if not data:
            self.selector.unregister(child.pipe)
            os.close(child.pipe)
            child.pipe = -1
        for message in lines(child.heard, data):
            self.send({"event": "said", "job": child.job, "message": message})

    def _wait_for_children(self) -> None:
        for pid, child in list(self.children.items()):
            done, code = os.waitpid(pid, os.WNOHANG)
            if not done:
                continue
            while child.pipe >= 0 and _readable(child.pipe):
                self._listen(child)
            if child.pipe >= 0:  # a process that the child left behind may hold its end
                self.selector.unregister(child.pipe)
                os.close(child.pipe)
            del self.children[pid]
            self.send({"event": "ended", "job": child.job, "status": os.waitstatus_to_exitcode(code)})


def become_child(job: Mapping[str, Any], server: int, said: int) -> None:
    """Runs a job in the process that was just forked, and ends it."""
    status = 1
    try:
        gc.enable()
        process.end_with(server, signal.SIGTERM)
        os.setsid()
        from gpt_lab.sweep.workers import worker

        worker.plain_signals()
        process.close_all_but({said})
        status = worker.run_job(job, worker.speaker(said))
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)  # without the interpreter's exit, which belongs to the server


def lines(buffer: bytearray, data: bytes) -> list[Any]:
    """The messages that are complete once `data` has come; the rest stays in the buffer."""
    buffer += data
    *whole, rest = buffer.split(b"\n")
    buffer[:] = rest
    return [json.loads(line) for line in whole if line]


def unsafe() -> str | None:
    """Why a child of this process might hang or fail; None: it is safe to fork."""
    import torch

    if torch.cuda.is_initialized():
        return (
            "CUDA was initialised in the fork server, by a part of another package at its import: no child could use it"
        )
    number = process.threads()
    if number is not None and number > 1:
        return (
            f"{number} threads run in the fork server, and a fork could hang: a part of another package starts them at "
            "its import (start them at the first use instead)"
        )
    return None


def _readable(fd: int) -> bool:
    with selectors.DefaultSelector() as selector:
        selector.register(fd, selectors.EVENT_READ)
        return bool(selector.select(0))


def prepare() -> None:
    """Imports what runs and the check of their cells need, so that none has to."""
    from gpt_lab.store import code, record
    from gpt_lab.train import start  # noqa: F401
    from gpt_lab.train.speed.eager import spare_compiler

    code()  # what is imported here, whatever becomes of the files while trials run
    record.loaded()
    spare_compiler()


@functools.cache
def complete() -> None:
    """Imports and reads what only runs need, once."""
    import numpy.random  # noqa: F401
    import rich._emoji_codes  # noqa: F401

    from gpt_lab import registry
    from gpt_lab.config import setting_names
    from gpt_lab.data import floors, shards  # noqa: F401
    from gpt_lab.data.tokenizers import library  # noqa: F401
    from gpt_lab.infer import cache, generate  # noqa: F401
    from gpt_lab.store import record

    record.packages()
    setting_names.settings()
    for kind, parts in registry.index().items():
        if kind == "parallel":  # join_ranks, where there are any
            continue
        for name in parts:
            try:
                registry.load(kind, name)
            except Exception:  # a part whose package is missing: the trial that asks for it says so
                continue
    gc.freeze()
    gc.enable()


@functools.cache
def join_ranks(name: str) -> None:
    """Imports what trials need that several devices share, which takes longer than torch itself."""
    from gpt_lab import registry

    with contextlib.suppress(Exception):  # the trial that asks for it says so
        registry.load("parallel", name)
    if name != "none":
        import torch._dynamo  # noqa: F401  # torch does at the first use of either
    gc.freeze()


def main() -> None:
    """Arguments: the number of the socket, the pid of the runner."""
    number, parent = int(sys.argv[1]), int(sys.argv[2])
    process.end_with(parent)
    runner = socket.socket(fileno=number)
    runner.set_inheritable(False)
    gc.disable()  # imports make next to no garbage, and looking for it took an eighth of their time
    prepare()
    Server(runner).serve()
    os._exit(0)  # taking torch down would cost half a second


if __name__ == "__main__":
    main()
