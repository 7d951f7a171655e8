"""What tests of training share: curves, weights, processes that die."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from safetensors.torch import load_file

from gpt_lab.schema import RunConfig
from gpt_lab.store import Run
from gpt_lab.train.trainer import Result, run_training

CLOCKED = ("seconds", "perf/tokens_per_s", "perf/mfu", "perf/peak_memory_gb")
"""What two runs of the same numbers differ in."""


def quiet() -> Console:
    """A console that is no terminal and whose text can be read back with `said`."""
    return Console(file=io.StringIO(), width=200, force_terminal=False)


def said(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def train(cfg: RunConfig) -> Result:
    return run_training(cfg, quiet(), "train")


def curve(path: Path) -> list[dict[str, Any]]:
    """The metrics of a run, without those that depend on the clock."""
    rows = Run.open(path).metrics()
    return [{key: value for key, value in row.items() if key not in CLOCKED} for row in rows]


def weights(path: Path, checkpoint: str = "last") -> dict[str, torch.Tensor]:
    return load_file(path / "checkpoints" / checkpoint / "model.safetensors")


def assert_same(path: Path, other: Path) -> None:
    """Two runs with the same curve and the same final weights, bit for bit."""
    assert curve(path) == curve(other)
    mine, theirs = weights(path), weights(other)
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def fork(work: Callable[[], object]) -> int:
    """The pid of a child process that runs `work` and ends with status 0, or 1 if it raised."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return child


def status(child: int, seconds: float = 120) -> int:
    """How a child ended: its exit status, or minus the signal that killed it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pid, code = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(code)
        time.sleep(0.01)
    os.kill(child, 9)
    os.waitpid(child, 0)
    raise TimeoutError(f"process {child} did not end within {seconds} s")
