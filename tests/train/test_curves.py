"""What a lower precision does to a loss curve."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gpt_lab.config.schema import RunConfig
from gpt_lab.train import precision
from tests.train.train_helpers import curve, train


def test_bf16_follows_the_loss_curve_of_fp32(make: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "cpu_native_bf16", lambda: "emulated for the test")
    losses = {}
    for name in ("fp32", "bf16"):
        result = train(
            make(precision=name, compile="off", **{"budget.steps": 60, "scale.width": 64, "optim.lr": 0.005})
        )
        losses[name] = [row["train/loss"] for row in curve(result.path) if "train/loss" in row]
    assert len(losses["fp32"]) == len(losses["bf16"]) == 60
    assert losses["fp32"][-1] < 0.8 * losses["fp32"][0]
    gaps = [abs(a - b) for a, b in zip(losses["fp32"], losses["bf16"], strict=True)]
    assert 0 < max(gaps) < 0.05
