"""Runs that ended before an agent asked for them."""

from __future__ import annotations

import pytest

from gpt_lab.config.schema import RunConfig
from gpt_lab.store import Run
from gpt_lab.trackers import replay
from tests.trackers.wandb_double import WandbDouble

AUTO = {"name": "auto"}


@pytest.fixture
def done(run: Run) -> Run:
    """A run that finished with another tracker."""
    for step in range(1, 2501):
        run.log(step, {"train/loss": 9.0 - step / 1000}, tokens=64 * step)
    run.log(2500, {"val/bpb": 2.5})
    run.finish("finished", {"val/bpb": 2.5, "steps": 2500})
    return Run.open(run.path)


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "SWEEP_ID": "sweep1",
        "RUN_ID": "asked",
        "SWEEP_PARAM_PATH": "none",
        "PROJECT": "swept",
    }.items():
        monkeypatch.setenv(f"WANDB_{name}", value)


@pytest.mark.slow
@pytest.mark.usefixtures("agent")
def test_the_sweep_gets_the_run(server: WandbDouble, done: Run, cfg: RunConfig) -> None:
    (message,) = replay(AUTO, done, cfg)
    assert message == f"W&B: {server.url}/tester/swept/runs/asked"
    seen = server.runs["asked"]
    assert (seen.sweep, seen.group, seen.exit_code) == ("sweep1", "ablation", 0)
    assert seen.values("train/loss") == [(row["step"], row["train/loss"]) for row in done.metrics()]
    assert seen.values("val/bpb") == [(2500, 2.5)]
    assert (seen.summary["val/bpb"], seen.summary["state"]) == (2.5, "finished")
    assert {key: seen.setting(key) for key in cfg.flat()} == cfg.flat()
    assert replay(AUTO, Run.open(done.path), cfg) == [], "it is there"
    assert (seen.sessions, Run.open(done.path).state) == (1, "finished")


def test_nobody_asked(done: Run, cfg: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    assert replay(AUTO, done, cfg) == []
    for name in ("RUN_ID", "SWEEP_ID"):
        monkeypatch.setenv(f"WANDB_{name}", "asked")
        assert replay(AUTO, done, cfg) == [], "an agent sets more"
    monkeypatch.setenv("WANDB_SWEEP_PARAM_PATH", "none")
    assert replay({"name": "none"}, done, cfg) == []
    assert "wandb" not in Run.open(done.path).record
