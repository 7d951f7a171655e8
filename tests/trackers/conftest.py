"""Runs to mirror, and the W&B double."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gpt_lab.config import schema
from gpt_lab.store import Run
from gpt_lab.trackers.wandb import Wandb
from tests.trackers.plain import plain_config
from tests.trackers.wandb_double import WandbDouble

PATIENCE = 60.0
"""Seconds for W&B's end of a run, where they are not what is tested."""


@pytest.fixture
def cfg() -> schema.RunConfig:
    return plain_config()


@pytest.fixture
def make_run(tmp_path: Path, cfg: schema.RunConfig) -> Callable[[str], Run]:
    def make(name: str = "run") -> Run:
        record = {"config": cfg.flat(), "signature": cfg.signature({"run": name})}
        return Run.create(tmp_path / "runs", cfg.study, name, cfg.to_dict(), record)

    return make


@pytest.fixture
def run(make_run: Callable[[str], Run]) -> Run:
    return make_run("run")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbDouble]:
    """A W&B server that this process, and the processes it starts, are logged in to; a busy machine has time for it."""
    monkeypatch.setattr(Wandb, "online_patience", PATIENCE)
    with WandbDouble() as double:
        for name, value in double.environment().items():
            monkeypatch.setenv(name, value)
        yield double
