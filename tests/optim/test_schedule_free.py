"""Schedule-free: which weights are where, and what it makes of a schedule."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from gpt_lab.data.dataset import open_dataset
from gpt_lab.model.gpt import GPT
from gpt_lab.optim.adaptive.schedule_free import ScheduleFree
from gpt_lab.parts.objective.ce import CrossEntropy
from gpt_lab.train.precision import resolve
from gpt_lab.train.start import run_training
from gpt_lab.train.validation.evaluate import evaluate
from tests.helpers import tiny_config
from tests.optim.problems import as_groups, problem, run


def test_averages_are_shown_and_taken_back_to_the_bit() -> None:
    params, loss = problem(torch.float32)
    optimizer: Any = ScheduleFree(lr=0.05).build(as_groups(params))
    with optimizer.averaged():
        pass  # before the first step there is one set of weights
    run(optimizer, loss, steps=5)
    before = [p.detach().clone() for p in params]
    with optimizer.averaged():
        shown = [p.detach().clone() for p in params]
        with optimizer.averaged():
            assert all(torch.equal(p, x) for p, x in zip(params, shown, strict=True)), "they are already there"
        assert all(torch.equal(p, x) for p, x in zip(params, shown, strict=True))
    for p, y, x in zip(params, before, shown, strict=True):
        assert torch.equal(p, y)
        # y = 0.1 z + 0.9 x
        torch.testing.assert_close(0.1 * optimizer.state[p]["z"] + 0.9 * x, y, rtol=1e-5, atol=1e-5)
        assert not torch.equal(x, y) and "y" not in optimizer.state[p]


def test_weights_come_back_when_something_fails() -> None:
    params, loss = problem(torch.float32)
    optimizer: Any = ScheduleFree(lr=0.05).build(as_groups(params))
    run(optimizer, loss, steps=2)
    before = [p.detach().clone() for p in params]
    with pytest.raises(KeyboardInterrupt), optimizer.averaged():
        raise KeyboardInterrupt
    assert all(torch.equal(p, y) for p, y in zip(params, before, strict=True))


def test_the_rate_rises_with_the_schedule_and_stays() -> None:
    params, _ = problem()
    optimizer: Any = ScheduleFree().build(as_groups(params))
    assert [optimizer.rate(m) for m in (0.2, 0.6, 1.0, 0.7, 0.1)] == [0.2, 0.6, 1.0, 1.0, 1.0]
    resumed: Any = ScheduleFree().build(as_groups(params))
    resumed.load_state_dict(optimizer.state_dict())
    assert resumed.rate(0.3) == 1.0


def test_a_run_validates_and_keeps_the_averages(tmp_path: Path) -> None:
    """The weights in its checkpoint give its validation loss; those that gradients were taken at do not."""
    cfg = tiny_config(
        optim="schedule_free",
        device="cpu",
        runs_dir=str(tmp_path),
        **{
            "data.val_fraction": 0.002,
            "budget.steps": 12,
            "eval.every": 6,
            "schedule.warmup": 0.3,
            "schedule.final": 0.0,
        },
    )
    result = run_training(cfg)
    run_folder = Path(result.path)
    rows = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
    rates = [row["train/lr"] for row in rows if "train/lr" in row]
    assert rates == sorted(rates) and rates[-1] > 0.9 * 0.004, "what is logged is what was applied"
    dataset = open_dataset(cfg)
    found = {}
    saved = run_folder / "checkpoints" / "step-12"
    points = load_file(saved / "training.safetensors")
    names = json.loads((saved / "state.json").read_text())
    assert sum(name.endswith(".y") for name in points) == len(list(GPT(cfg, dataset.vocab_size).parameters()))
    for which in ("averages", "points"):
        model = GPT(cfg, dataset.vocab_size)
        model.load_state_dict(load_file(saved / "model.safetensors"))
        if which == "points":
            with torch.no_grad():
                for p, y in zip(model.parameters(), _in_order(names, points, model), strict=True):
                    p.copy_(y)
        values = evaluate(model, CrossEntropy(), resolve("fp32", "cpu"), dataset, rows=64)
        assert values is not None
        found[which] = values["val/loss"]
    assert found["averages"] == pytest.approx(result.summary["val/loss"], rel=1e-5)
    assert abs(found["points"] - found["averages"]) > 1e-3


def _in_order(state: dict[str, Any], tensors: dict[str, torch.Tensor], model: GPT) -> list[torch.Tensor]:
    """The points y of a checkpoint in the order of the model's parameters: groups are told apart by size."""
    by_shape: dict[tuple[int, ...], list[torch.Tensor]] = {}
    numbers = sorted(int(name.split(".")[2]) for name in tensors if name.endswith(".y"))
    for number in numbers:
        y = tensors[f"optimizer.state.{number}.y"]
        by_shape.setdefault(tuple(y.shape), []).append(y)
    return [by_shape[tuple(p.shape)].pop(0) for p in model.parameters()]
