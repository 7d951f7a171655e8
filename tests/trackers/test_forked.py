"""Trackers in processes forked from one that has imported torch, as trials of a local sweep are: several at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gpt_lab.config.schema import RunConfig
from gpt_lab.store import Run
from gpt_lab.trackers import build_tracker
from tests.trackers import offline
from tests.train.train_helpers import fork, status

TRIALS = 4


@pytest.mark.slow
@pytest.mark.forks
def test_short_trials(
    make_run: Callable[[str], Run], cfg: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs that end before W&B has begun: each has its own offline file, whole, in the study's group."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert torch.ones(2).sum() == 2
    runs = [make_run(f"trial{number}") for number in range(TRIALS)]

    def trial(run: Run) -> None:
        tracker = build_tracker({"name": "auto"}, run, cfg)
        tracker.start()
        for step in range(1, 21):
            tracker.log({"train/loss": 9.0 - step / 10}, step)
        run.finish("finished", {"val/bpb": 2.0})
        tracker.finish("finished", {"val/bpb": 2.0})
        assert tracker.messages() == []

    children = [fork(lambda run=run: trial(run)) for run in runs]  # type: ignore[misc]
    assert [status(child) for child in children] == [0] * TRIALS
    files = {path.resolve() for path in (tmp_path / "runs").glob("*/*/wandb/offline-run-*/*.wandb")}
    assert len({path.name for path in files}) == TRIALS
    kept = [offline.read(path.parent) for path in files]
    assert sorted(one["name"] for one in kept) == [run.name for run in runs]
    for one in kept:
        assert (one["group"], one["exit_code"], one["summary"]["val/bpb"]) == (cfg.study, 0, 2.0)
        assert [row["step"] for row in one["history"]] == list(range(1, 21))
