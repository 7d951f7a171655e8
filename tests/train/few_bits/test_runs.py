"""Runs in few bits: they learn, resume bit for bit, and are read as any other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from gpt_lab.config.schema import RunConfig
from gpt_lab.data.dataset import open_dataset
from gpt_lab.infer.trained_model import load_run
from gpt_lab.store import Run, all_runs
from gpt_lab.train import precision, resolve_auto, trainer
from gpt_lab.train.precision import Precision
from tests.train.train_helpers import assert_same, curve, train, weights

FILES = {"fp8": torch.float32, "bf16_sr": torch.bfloat16, "int8_weights": torch.float32}
"""Each format, and the type of a matrix in its checkpoints."""


@pytest.fixture(autouse=True)
def fp8_on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU has the arithmetic, if not the speed."""
    found = Precision("fp8", "for the test", "cpu", products="bf16")
    monkeypatch.setattr(precision.FP8, "on", lambda self, device: found)


@pytest.mark.parametrize("name", FILES)
def test_it_learns_resumes_and_is_read(
    name: str, make: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """20 steps; killed after 13 of them the run goes on from its checkpoint at 12 as if nothing had been."""
    settings: dict[str, Any] = {"precision": name, "scale.depth": 1, "eval.every": 12, "eval.tokens": 256}
    whole = train(make(**settings))
    rows = [row for row in curve(whole.path) if "train/loss" in row]
    assert len(rows) == 20 and rows[-1]["train/loss"] < 0.7 * rows[0]["train/loss"]
    assert all(0 < row["train/grad_norm"] < 100 for row in rows)

    step = trainer.Trainer.step

    def dying(self: trainer.Trainer) -> None:
        if self.state.step == 13:
            raise KeyboardInterrupt
        step(self)

    cfg = make(**settings, study="killed")
    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "step", dying)
        with pytest.raises(KeyboardInterrupt):
            train(cfg)
    (left,) = all_runs(cfg.runs_dir, cfg.study)
    assert left.summary.get("step", 0) < 20
    assert_same(train(cfg).path, whole.path)

    matrix = weights(whole.path)["blocks.0.attention.qkv.weight"]
    assert matrix.dtype == FILES[name]
    trained = load_run(Run.open(whole.path), "last")
    assert torch.equal(trained.model.get_parameter("blocks.0.attention.qkv.weight"), matrix.float())
    logits = trained.model(torch.tensor([list(b"to be or not")]))
    assert logits.isfinite().all() and logits.dtype == torch.float32


def test_runs_of_other_optimizers_move_what_is_kept(make: Callable[..., RunConfig]) -> None:
    """An optimizer of matrices whose attention limits its scores in place, and one that asks for the curvature."""
    for optim in ({"name": "muon", "qk_clip": 0.01}, {"name": "sophia"}, {"name": "prodigy", "lr": 3.0}):
        cfg = make(precision="int8_weights", optim=optim, **{"scale.depth": 1, "budget.steps": 12, "eval.every": 12})
        rows = [row["train/loss"] for row in curve(train(cfg).path) if "train/loss" in row]
        assert rows[-1] < rows[0], optim


def test_the_plan_says_the_bytes_of_weights(make: Callable[..., RunConfig]) -> None:
    found = {}
    for name in ("fp32", "bf16_sr", "int8_weights"):
        cfg = make(precision=name)
        plan = resolve_auto.resolve(cfg, open_dataset(cfg))
        found[name] = plan.weight_bytes / plan.cost.parameters
        assert plan.state_bytes is not None and 8 <= plan.state_bytes / plan.cost.parameters < 8.1
    assert found["fp32"] == 4
    assert 2 < found["bf16_sr"] < 2.05, "gains stay fp32"
    assert found["bf16_sr"] > found["int8_weights"] - 1 > 0.5, "the embedding of 256 bytes stays fp32"
