"""The probe refuses every planted leak by name, passes what only comes near and all that ships, and leaves no trace."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gpt_lab import registry
from gpt_lab.cli import train as command
from gpt_lab.config import composition, setting_names
from gpt_lab.config.schema import RunConfig
from gpt_lab.errors import ConfigError
from gpt_lab.study import build, sweep_file
from gpt_lab.study.cells import cells, configs
from gpt_lab.train.leak_probe import causality
from gpt_lab.train.precision import Precision
from tests.helpers import tiny_config
from tests.train.leak_probe import leaky
from tests.train.train_helpers import assert_same, train

VOCAB = 61
MODEL_KINDS = ("attention", "position", "norm", "mlp", "residual", "init", "objective")
SHIPPED = [pytest.param({kind: name}, id=f"{kind}={name}") for kind in MODEL_KINDS for name in registry.index()[kind]]
OPTIONS = [
    pytest.param(settings, id="-".join(map(str, settings.values())))
    for settings in (
        {"attention.qk_norm": "head"},
        {"attention.qk_norm": "full"},
        {"attention.qk_norm": "unit"},
        {"attention.softcap": 5.0},
        {"attention.dropout": 0.3, "model.dropout": 0.3},
        {"attention": "sliding", "attention.window": 3, "attention.pattern": "S"},
        {"position.partial": 0.5},
        {"residual": "parallel", "residual.shared_norm": False},
        {"model.embed_norm": True, "model.tied": False, "model.bias": True},
        {"model.vocab_multiple": 64},
        {"objective.label_smoothing": 0.3, "objective.z_loss": 0.1},
        {"kernel": "sdpa"},
        {"batch.micro": 1},
        {"scale.context": 2},
        {"norm": "none", "mlp": "relu2", "scale.depth": 12},
    )
]
LEAKS: dict[str, tuple[dict[str, Any], str]] = {
    "roll": ({"attention": "roll"}, "attention=roll sees the future"),
    "the next token": ({"attention": "distant"}, "attention=distant sees the future"),
    "a token far ahead": ({"attention": {"name": "distant", "by": 15}}, "attention=distant sees the future"),
    "a faint leak": ({"attention": "faint"}, "attention=faint sees the future"),
    "in training": ({"attention": "trained"}, "attention=trained sees the future.*in training only"),
    "in evaluation": ({"attention": "evaluated"}, "attention=evaluated sees the future"),
    "a closed gate": ({"attention": "gated"}, "attention=gated sees the future"),
    "a soft mask": ({"attention": "soft_mask"}, "attention=soft_mask sees the future"),
    "a chunk": ({"attention": "chunked"}, "attention=chunked sees the future"),
    "the first token": ({"attention": "first"}, "attention=first sees the future"),
    "the last token": ({"attention": "last"}, "attention=last sees the future"),
    "not a number": ({"attention": "nan"}, "attention=nan sees the future"),
    "embeddings": ({"position": "late"}, "position=late sees the future"),
    "keys": ({"position": "late_keys"}, "position=late_keys sees the future"),
    "statistics over time": ({"norm": "over_time"}, "norm=over_time sees the future"),
    "an mlp": ({"mlp": "mixing"}, "mlp=mixing sees the future"),
    "a block": ({"residual": "ahead"}, "residual=ahead sees the future"),
    "two parts": ({"attention": "roll", "mlp": "mixing"}, "attention=roll and mlp=mixing see the future"),
    "one row at a time": ({"attention": "roll", "batch.micro": 1}, "attention=roll sees the future"),
    "under dropout": ({"attention": "distant", "model.dropout": 0.5}, "attention=distant sees the future"),
    "under a document mask": ({"attention": "roll", "batch.document_mask": True}, "attention=roll sees the future"),
    "rows": ({"norm": "over_rows"}, "norm=over_rows mixes the rows"),
    "rows in training": ({"norm": "batch"}, "norm=batch mixes the rows.*in training only"),
    "documents": (
        {"attention": "one_document", "batch.document_mask": True},
        "attention=one_document sees other documents, although batch.document_mask=true",
    ),
    "shifted twice": ({"objective": "twice"}, "objective=twice reports .* over 30 targets, where .* over 36"),
    "shifted back": ({"objective": "back"}, "objective=back reports"),
    "shifted back in silence": ({"objective": "back_unsaid"}, "objective=back_unsaid trains a token on another"),
    "the token just read too": ({"objective": "both"}, "objective=both trains a token on another"),
    "a number of its own": ({"objective": "flattering"}, "objective=flattering reports"),
    "exact, reading both ways": ({"objective": "unread"}, "objective=unread says that its score is the exact"),
    "a score of its own": ({"objective": "self_scored"}, "objective=self_scored says that its score is the exact"),
    "hidden tokens that show": ({"objective": "shown"}, "objective=shown shows the model tokens"),
    "no bound": ({"objective": "few_hidden"}, "objective=few_hidden says that its score is the upper bound"),
    "less than logits cost": ({"objective": "praising"}, "objective=praising reports .* in training"),
    "rows, reading both ways": ({"objective": "mlm", "norm": "over_rows"}, "norm=over_rows mixes the rows"),
}
HONEST: list[dict[str, Any]] = [
    {"attention": "fourier"},
    {"attention": "sums"},
    {"attention": "hard_mask"},
    {"attention": "one_document"},
    {"mlp": "stateful"},
    {"norm": "root"},
    {"norm": "over_rows", "batch.micro": 1},
    {"objective": "weighted"},
    {"objective": "sampled"},
    {"objective": "unlikely"},
]


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The parts of leaky.py, as if a package announced them."""
    for part in registry._scan("tests.train.leak_probe.leaky", Path(leaky.__file__)):
        monkeypatch.setitem(registry.index()[part.kind], part.name, part)  # type: ignore[arg-type]


def probe(cfg: RunConfig, precision: str = "fp32") -> None:
    causality.check(cfg, VOCAB, "cpu", Precision(precision, "", "cpu"))


@pytest.mark.parametrize("settings", [*SHIPPED, *OPTIONS])
def test_what_ships_passes(settings: dict[str, Any]) -> None:
    probe(tiny_config(**settings))
    probe(tiny_config(**settings, **{"batch.document_mask": True}))


@pytest.mark.parametrize("name", setting_names.choices("model"))
def test_presets_pass(name: str) -> None:
    cfg = composition.compose([f"model={name}", "scale=micro", "scale.depth=4"])
    for precision in ("fp32", "bf16"):
        probe(cfg, precision)


@pytest.mark.parametrize("case", LEAKS)
def test_a_leak_is_refused_by_name(case: str, planted: None) -> None:
    settings, words = LEAKS[case]
    cfg = tiny_config(**settings)
    with pytest.raises(ConfigError, match=words) as caught:
        probe(cfg)
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match=words):
        causality.check_ahead(cfg, VOCAB)


@pytest.mark.parametrize("case", ["roll", "a faint leak", "a closed gate", "statistics over time", "rows"])
def test_a_leak_in_bf16(case: str, planted: None) -> None:
    settings, words = LEAKS[case]
    with pytest.raises(ConfigError, match=words):
        probe(tiny_config(**settings), "bf16")


@pytest.mark.parametrize("settings", HONEST, ids=str)
def test_what_comes_near_passes(settings: dict[str, Any], planted: None) -> None:
    for precision in ("fp32", "bf16"):
        probe(tiny_config(**settings), precision)


def test_a_leak_in_any_layer_and_at_any_context(planted: None) -> None:
    sizes = {"scale.context": 200, "scale.depth": 5, "attention": {"name": "distant", "by": 199}}
    with pytest.raises(ConfigError, match="attention=distant sees the future"):
        probe(tiny_config(**sizes))


def test_it_leaves_no_trace(make: Any, tmp_path: Path, planted: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run with dropout of its own and the lab's is bit for bit what it is without the probe."""
    settings = {"attention": "sums", "model.dropout": 0.2, "precision": "fp32", "device": "cpu", "budget.steps": 6}
    states = torch.get_rng_state(), random.getstate(), str(np.random.get_state())
    probe(tiny_config(**settings))
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), str(np.random.get_state())) == states[1:]
    probed = train(make(**settings, runs_dir=str(tmp_path / "with")))
    monkeypatch.setattr(causality, "check", lambda *args: None)
    bare = train(make(**settings, runs_dir=str(tmp_path / "without")))
    assert_same(probed.path, bare.path)


def test_train_refuses_it_in_one_line(
    tmp_path: Path, planted: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["attention=roll", "data=synthetic", "scale=micro", "device=cpu", "tracker=none", "budget.steps=2"]
    monkeypatch.setattr(sys, "argv", ["train", *words])
    with pytest.raises(SystemExit) as leaving:
        command.main()
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert leaving.value.code == 2
    assert line.startswith("error: attention=roll sees the future") and line.endswith("Nothing was trained")
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_refuses_it_before_the_first_trial(planted: None) -> None:
    parameters = {"attention": {"values": ["mha", "roll"]}, "seed": {"values": [0, 1]}, "data": {"value": "synthetic"}}
    found = cells(sweep_file.read(Path("a.yaml"), {"method": "grid", "parameters": parameters, "gpt_lab": {}}))
    with pytest.raises(ConfigError, match=r"cell 1 \(attention=roll, seed=0\): attention=roll sees the future"):
        build.Builder().check(found, configs(found))
