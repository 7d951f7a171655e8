"""The pace of a config, measured: something for all that a run does, and nothing left behind."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from gpt_lab.config.schema import RunConfig
from gpt_lab.data.dataset import open_dataset
from gpt_lab.train.resolve_auto import resolve
from gpt_lab.train.speed import pace

Make = Callable[..., RunConfig]


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "ENOUGH", 0.02)
    monkeypatch.setattr(pace, "GLANCE", 0.01)


def test_all_that_a_run_does_is_timed(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPT_LAB_CACHE", str(tmp_path / "cache"))
    cfg = make(**{"eval.contexts": [1, 2], "sample.tokens": 4, "optim.lr": 1e9, "study": "mine"}, position="alibi")
    found = pace.measure(cfg)
    for value in (found.start, found.step, found.save, found.sample, *found.validation.values()):
        assert 0 < value < math.inf
    assert found.compile == 0.0 and set(found.validation) == {1, 2}
    assert 0 < found.share <= 1.01
    assert not Path(cfg.runs_dir).exists()
    assert not list((tmp_path / "cache").glob(".pace-*"))


def test_a_large_model_is_timed_on_fewer_rows_and_layers(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = make(match=None)
    plan = resolve(cfg, open_dataset(cfg))
    assert pace._small(cfg, plan) == cfg
    each = cfg.scale.context * plan.cost.train_flops_per_token
    monkeypatch.setattr(pace, "MOST", 2.5 * each)
    fewer = pace._small(cfg, plan)
    assert (fewer.rows, fewer.scale.depth) == (2, cfg.scale.depth)
    monkeypatch.setattr(pace, "MOST", 0.6 * each)
    less = pace._small(dataclasses.replace(cfg, batch=dataclasses.replace(cfg.batch, micro=2)), plan)
    assert (less.rows, less.scale.depth, less.batch.micro) == (1, 1, None)
    tied = make(residual={"name": "looped", "loops": 3}, **{"scale.depth": 6}, match=None)
    assert pace._small(tied, resolve(tied, open_dataset(tied))).scale.depth == 3, "1 and 2 are no multiple of 3"
    whole, part = pace._work(cfg, plan), pace._work(less, resolve(less, open_dataset(less)))
    monkeypatch.setattr(pace, "_steps", lambda trainer, ready: (3.0, 1.0, 1.0))
    found = pace.measure(cfg)
    parameters = plan.cost.parameters / resolve(less, open_dataset(less)).cost.parameters
    assert found.step == pytest.approx(2.0 * whole / part + 1.0 * parameters), "by FLOPs, the optimizer by parameters"
