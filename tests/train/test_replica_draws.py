"""A replica trains on the same batches in the same order, with initial values and dropout of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from gpt_lab.config.schema import RunConfig
from gpt_lab.model.gpt import initialize
from gpt_lab.train.begin_from import first_weights
from tests.train.train_helpers import curve, train


@pytest.fixture
def equal_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every replica begins with the values of the first."""
    monkeypatch.setattr(first_weights, "initialize", lambda model, cfg: initialize(model, replace(cfg, replica=0)))


def curves(make: Callable[..., RunConfig], **settings: float) -> list[list[dict[str, float]]]:
    return [curve(train(make(replica=replica, **{"budget.steps": 6, **settings})).path) for replica in (0, 1)]


def test_initial_values_make_the_difference(make: Callable[..., RunConfig]) -> None:
    first, second = curves(make)
    assert first[0]["train/loss"] != second[0]["train/loss"]


@pytest.mark.usefixtures("equal_starts")
def test_the_data_are_the_same(make: Callable[..., RunConfig]) -> None:
    """From equal values and without dropout, the whole curve is the same, bit for bit."""
    first, second = curves(make)
    assert first == second


@pytest.mark.usefixtures("equal_starts")
def test_dropout_is_another_draw(make: Callable[..., RunConfig]) -> None:
    first, second = curves(make, **{"model.dropout": 0.3})
    assert first[0]["train/loss"] != second[0]["train/loss"]
