"""Every preset, as it is composed: reads in pieces, generates, has gradients, trains. Their originals: tests/parity."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from gpt_lab.config import composition, setting_names
from gpt_lab.model.gpt import GPT, initialize
from gpt_lab.train.start import run_training
from tests.parts import decoding

PRESETS = setting_names.choices("model")
DEEPEST = 6
"""Layers after which every pattern has come to each of its letters."""
SIZES = [f"scale.depth={DEEPEST}", "scale.width=32", "scale.heads=4", "scale.context=64"]


def test_presets_decode_and_have_gradients() -> None:
    """Prompt and steps give the logits of the whole text, beside other rows and after other documents as alone."""
    for name in PRESETS:
        cfg = composition.compose([f"model={name}", *SIZES, "model.dropout=0"])
        model = GPT(cfg, decoding.VOCAB).eval()
        initialize(model, cfg)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.mul_(3.0)
        model.choose_kernels("cpu", "fp32")
        try:
            decoding.check(model)
            decoding.check_trains(model)
        except AssertionError as error:
            pytest.fail(f"model={name}: {error}")


def test_presets_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three steps of the command line that a newcomer types, on made-up data."""
    monkeypatch.setattr("gpt_lab.train.leak_probe.causality.check", lambda *args: None)  # tests/train/leak_probe
    for name in PRESETS:
        words = [f"model={name}", "scale=nano", "data=synthetic", "budget.steps=3", "batch.tokens=128"]
        words += ["eval.every=3", "eval.tokens=64", "data.val_sequences=2", f"runs_dir={tmp_path}"]
        words += ["device=cpu", "compile=off", "log.every=1", "tracker=none"]
        result = run_training(composition.compose(words))
        rows = [json.loads(line) for line in (Path(result.path) / "metrics.jsonl").read_text().splitlines()]
        losses = [row["train/loss"] for row in rows if "train/loss" in row]
        assert result.state == "finished" and len(losses) == 3, name
        assert all(0 < loss < 20 for loss in losses), (name, losses)
