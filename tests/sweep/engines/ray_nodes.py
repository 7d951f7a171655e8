"""A Ray of one's own: a head and one more node on this machine, each with a core, folders and ports of its own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.sweep.engines.slurm import free_ports
from tests.sweep.sweep_helpers import tree, until

PROGRAM = shutil.which("ray", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")


@contextmanager
def cluster() -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Its address, and the process of the second node."""
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as folder:  # a socket's path has 107 characters
        (port,) = free_ports(1)
        address = f"127.0.0.1:{port}"
        begun: list[subprocess.Popen[bytes]] = []
        try:
            for words in (["--head", f"--port={port}", "--include-dashboard=false"], [f"--address={address}"]):
                begun.append(_node(Path(folder), str(len(begun)), words))
            yield address, begun[1]
        finally:
            for node in reversed(begun):
                lose(node)


def lose(node: subprocess.Popen[bytes]) -> None:
    """kill -9 of a node and of all that runs there, as if the machine had lost its power."""
    send(node, signal.SIGKILL)
    node.wait(10)


def send(node: subprocess.Popen[bytes], number: int) -> None:
    """A signal to a node and to all that runs there."""
    for pid in tree(node.pid):
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _node(folder: Path, name: str, words: list[str]) -> subprocess.Popen[bytes]:
    common = ["--num-cpus=1", "--object-store-memory=80000000", "--node-ip-address=127.0.0.1", "--block"]
    out = folder / f"{name}.out"
    with open(out, "wb") as file:
        node = subprocess.Popen(
            [str(PROGRAM), "start", *words, *common, f"--temp-dir={folder / name}"],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
            env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"},
        )
    until(lambda: b"Ray runtime started" in out.read_bytes(), 90)
    return node
