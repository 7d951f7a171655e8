"""Several ranks train what one process trains: the same losses to 1e-5, wherever it is resumed and on how many."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from gpt_lab.config.schema import RunConfig
from gpt_lab.store import Run, all_runs
from gpt_lab.train import trainer
from gpt_lab.train.learner import Learner
from gpt_lab.train.parallel.launch import LOST
from tests.train.parallel.rank_helpers import run_alone, run_ranks
from tests.train.train_helpers import curve

Make = Callable[..., RunConfig]
pytestmark = [pytest.mark.forks, pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")]
SETTINGS: dict[str, Any] = {
    "budget.steps": 50,
    "eval.every": 25,
    "eval.tokens": 64,
    "log.every": 1,
    "batch.tokens": 8 * 16,
    "model.dropout": 0.1,
    "precision": "fp32",
    "sample.tokens": 3,
}
CLOSE = 1e-5


def dying(step: Callable[..., Any], rank: int, at: int) -> Callable[..., Any]:
    """A step that kills its process at one rank."""

    def patched(self: Learner, number: int, *more: Any) -> Any:
        if self.ranks.rank == rank and number == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, number, *more)

    return patched


def stopping(step: Callable[..., Any], at: int) -> Callable[..., Any]:
    """A step that is asked to be the last."""

    def patched(self: trainer.Trainer) -> None:
        step(self)
        if self.state.step == at:
            self.asked.caught = signal.SIGTERM

    return patched


def only(cfg: RunConfig) -> Run:
    (run,) = all_runs(cfg.runs_dir, cfg.study)
    return run


def assert_close(one: RunConfig, other: RunConfig, most: float = CLOSE) -> None:
    """Every line of both curves, and the final summary, but for what depends on the clock."""
    mine, theirs = (curve(only(cfg).path) for cfg in (one, other))
    assert len(mine) == len(theirs)
    for a, b in zip(mine, theirs, strict=True):
        for key in a.keys() & b.keys():
            if not key.startswith("perf/"):
                assert a[key] == pytest.approx(b[key], abs=most, rel=most), (a["step"], key)


@pytest.mark.slow
def test_as_one_process(make: Make) -> None:
    """Whatever divides the rows: micro-batches, ranks, or both."""
    alone = make(study="alone", **SETTINGS)
    assert run_alone(alone) == 0
    for number, parallel, more in (
        (2, "ddp", {"batch.micro": 2}),
        (4, "ddp", {}),
        (2, "fsdp", {"batch.micro": 2}),
        (4, "fsdp", {}),
    ):
        study = f"{parallel}-{number}"
        cfg = make(study=study, gpus_per_trial=number, **{**SETTINGS, "parallel": parallel, **more})
        assert run_ranks(cfg) == [0] * number
        assert_close(alone, cfg)
        record = only(cfg).record
        assert record["ranks"] == [{"from": 0, "parallel": parallel, "number": number}]
        assert record["summary"]["perf/total_memory_gb"] > record["summary"]["perf/peak_memory_gb"]


@pytest.mark.slow
def test_muon_shares_its_matrices(make: Make) -> None:
    """Three ranks, so that a fused weight's matrices lie across them, and not all have as many rows of a step.

    Experts are a stack of matrices, with a loss that they leave for the end and counts of their own.
    """
    muon = {**SETTINGS, "budget.steps": 6, "optim": {"name": "muon", "ns_dtype": "fp32"}, "optim.lr": 0.02}
    moe = {**muon, "mlp": {"name": "moe", "bias_rate": 0.01}}
    for name, settings, micro, shared in (
        ("dense", muon, None, (("ddp", 3), ("fsdp", 3))),
        ("experts", moe, 4, (("fsdp", 2),)),
    ):
        alone = make(study=name, **settings, **{"batch.micro": micro})
        assert run_alone(alone) == 0
        for parallel, number in shared:
            cfg = make(study=f"{name}-{parallel}", gpus_per_trial=number, parallel=parallel, **settings)
            assert run_ranks(cfg) == [0] * number
            assert_close(alone, cfg)


@pytest.mark.slow
def test_goes_on_with_any_number_of_ranks(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of four one is killed, which ends all; one process goes on, then two, then four."""
    common = {**SETTINGS, "budget.steps": 20, "eval.every": 10, "checkpoint.every": 5, "batch.micro": 1}
    alone = make(study="alone", **common)
    sharded = {"name": "fsdp", "accumulate": "sharded"}
    four = make(study="several", gpus_per_trial=4, **common, parallel=sharded)
    two = make(study="several", gpus_per_trial=2, **common, parallel="ddp")
    one = make(study="several", **common)
    assert run_alone(alone) == 0

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "step", dying(Learner.step, rank=2, at=7))
        assert sorted(run_ranks(four)) == [-signal.SIGKILL, LOST, LOST, LOST]
    run = only(four)
    assert (run.state, run.record["error"][:8]) == ("failed", "RankLost")
    for cfg, at in ((one, 9), (two, 13), (four, 16)):
        with monkeypatch.context() as patch:
            patch.setattr(trainer.Trainer, "step", stopping(trainer.Trainer.step, at))
            assert (run_alone(cfg) if cfg is one else run_ranks(cfg)[0]) == 128 + signal.SIGTERM
    assert run_alone(one) == 0
    assert_close(alone, one)
    numbers = [(part["from"], part["number"]) for part in only(one).record["ranks"]]
    assert numbers == [(0, 4), (5, 1), (9, 2), (13, 4), (16, 1)]
