"""What tests of training share: curves, weights, processes that die."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from gpt_lab import trackers
from gpt_lab.config.schema import RunConfig
from gpt_lab.store import Run
from gpt_lab.trackers.base import Background, Event
from gpt_lab.train.start import run_training
from gpt_lab.train.trainer import Result

CLOCKED = ("seconds", "perf/tokens_per_s", "perf/mfu", "perf/peak_memory_gb")
"""What two runs of the same numbers differ in."""


class Mirror(Background):
    """As W&B: it takes each step once, so that what an earlier process has mirrored of a step is all there will be."""

    def __init__(self, run: Run, kept: dict[int, dict[str, Any]]) -> None:
        super().__init__(run)
        self.kept, self.closed = kept, max(kept, default=-1)

    def write(self, event: Event) -> None:
        if event.op == "log" and event.step is not None and event.step > self.closed:
            self.kept.setdefault(event.step, {}).update(event.data)
        elif event.op == "finish":
            self.kept.pop(event.data["open_step"], None)


def mirrored(patch: pytest.MonkeyPatch) -> dict[int, dict[str, Any]]:
    """What a mirror of the runs to come has, by step."""
    kept: dict[int, dict[str, Any]] = {}
    patch.setattr(trackers, "build_tracker", lambda _, run, __: Mirror(run, kept))
    return kept


def assert_mirrored(kept: dict[int, dict[str, Any]], path: Path) -> None:
    """Every row of metrics.jsonl, each once and with all that it holds; what depends on the clock may be older."""
    for a, b in zip([{"step": step, **_unclocked(kept[step])} for step in kept], curve(path), strict=True):
        assert a == b, (a, b)


def quiet() -> Console:
    """A console that is no terminal and whose text can be read back with `said`."""
    return Console(file=io.StringIO(), width=200, force_terminal=False)


def said(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


class Silent(Console):
    """Lays nothing out, which is a seventh of a short run."""

    def print(self, *objects: Any, **options: Any) -> None:
        pass


def train(cfg: RunConfig) -> Result:
    """A run whose text nobody reads."""
    return run_training(cfg, Silent(file=io.StringIO()), "train")


def curve(path: Path) -> list[dict[str, Any]]:
    """The metrics of a run, without those that depend on the clock."""
    return [_unclocked(row) for row in Run.open(path).metrics()]


def _unclocked(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in CLOCKED}


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
