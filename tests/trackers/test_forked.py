"""Trackers in processes forked from one that has imported torch, as trials of a local sweep are: several at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gpt_lab.frame.sources import wandb_offline
from gpt_lab.schema import RunConfig
from gpt_lab.store import Run
from gpt_lab.trackers import build_tracker
from tests.train.helpers import fork, status

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
    parts = [wandb_offline.read(path) for path in wandb_offline.files(tmp_path / "runs")]
    assert sorted(part.name for part in parts) == [run.name for run in runs]
    assert len({part.id for part in parts}) == TRIALS
    for part in parts:
        assert (part.group, part.exit_code, part.summary["val/bpb"]) == (cfg.study, 0, 2.0)
        assert [row["step"] for row in part.history] == list(range(1, 21))
