"""Distillation through the trainer: which teachers are taken, what they cost, what the record says of them."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from gpt_lab.config.schema import RunConfig
from gpt_lab.data.dataset import open_dataset
from gpt_lab.errors import ConfigError, LabError
from gpt_lab.infer.trained_model import load_run
from gpt_lab.interchange.convert import to_hf
from gpt_lab.store import Run
from gpt_lab.train import start
from gpt_lab.train.precision import resolve as precision
from gpt_lab.train.resolve_auto import resolve
from tests.helpers import tiny_config
from tests.train.test_resume import interrupted
from tests.train.train_helpers import assert_same, quiet, said, train

Make = Callable[..., RunConfig]
BPE = {"tokenizer": {"name": "bpe", "vocab_size": 270}}


@pytest.fixture(scope="module")
def teacher(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wider run on the corpus, whose tokenizer has a file."""
    folder = tmp_path_factory.mktemp("teacher")
    cfg = tiny_config(
        data={"name": "text", "path": str(corpus)},
        runs_dir=str(folder),
        study="taught",
        **BPE,
        **{"scale.width": 48, "budget.steps": 30, "optim.lr": 0.01, "schedule.warmup": 0.1},
    )
    return train(cfg).path


def student(make: Make, teacher: Path | str, **settings: Any) -> RunConfig:
    return make(objective={"name": "distill", "teacher": str(teacher), "alpha": 0.7}, **{**BPE, **settings})


def plan(cfg: RunConfig) -> Any:
    return resolve(cfg, open_dataset(cfg))


def test_its_forward_pass_is_counted_and_shown_and_resuming_changes_nothing(
    make: Make, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"budget.steps": 12, "eval.every": 6}
    console = quiet()
    result = start.run_training(student(make, teacher, **settings), console, "train")
    run, theirs = Run.open(result.path), Run.open(teacher)
    alone = plan(make(**BPE)).cost.train_flops_per_token
    forward = theirs.record["train_flops_per_token"] // 3
    assert run.record["train_flops_per_token"] == alone + forward
    assert run.summary["teacher/flops"] == run.summary["tokens"] * forward
    assert run.summary["teacher/train_flops"] == theirs.summary["flops"]
    assert run.record["teacher"]["name"] == f"taught/{theirs.name}" and "seen" not in run.record["text"]
    assert f"its forward pass is {forward / (alone + forward):.0%} of the training FLOPs" in said(console)
    assert "of these the teacher's" in said(console)
    cfg = student(make, teacher, study="again", **settings)
    interrupted(cfg, 9, monkeypatch)
    assert_same(train(cfg).path, result.path)


def test_its_weights_are_part_of_the_runs_identity(make: Make, teacher: Path, tmp_path: Path) -> None:
    cfg = student(make, teacher)
    other = tmp_path / "other"
    shutil.copytree(teacher, other, symlinks=True)
    first = cfg.signature(plan(cfg).resolved)
    copied = dataclasses.replace(cfg, objective={**cfg.objective, "teacher": str(other)})
    assert plan(copied).resolved == plan(cfg).resolved, "the same weights elsewhere"
    again = train(dataclasses.replace(cfg, objective=make().objective, runs_dir=str(tmp_path / "new"))).path
    changed = plan(student(make, again)).resolved
    assert changed["teacher"] != plan(cfg).resolved["teacher"]
    assert cfg.signature(changed) != first


def test_who_may_have_seen_the_validation_text_is_said_and_withholds(make: Make, teacher: Path, tmp_path: Path) -> None:
    """Another split of the same text holds it; a student of such a teacher hands it on."""
    settings = {"data.val_fraction": 0.3, "budget.steps": 2}
    cfg = student(make, train(make(**BPE, **settings, study="split")).path, **{"budget.steps": 2})
    tokenizer = {"name": "hf", "path": str(teacher / "tokenizer" / "tokenizer.json")}
    with pytest.raises(ConfigError, match="has another tokenizer than this run"):
        plan(cfg)  # fitted on another split, its merges differ
    same = dataclasses.replace(cfg, tokenizer=make(tokenizer=tokenizer).tokenizer)
    source = train(make(tokenizer=tokenizer, **settings, study="same tokens".replace(" ", "-"))).path
    made = dataclasses.replace(same, objective={**cfg.objective, "teacher": str(source)})
    text = plan(made).text
    assert "trained on other data" in str(text["seen"])
    console = quiet()
    pupil = start.run_training(made, console, "train").path
    assert "no verdict will rest on this run" in said(console)
    assert Run.open(pupil).record["text"]["seen"] == text["seen"]
    heir = dataclasses.replace(same, objective={**cfg.objective, "teacher": str(pupil)})
    assert "learnt from another" in str(plan(heir).text["seen"])


def test_a_folder_of_hugging_faces(make: Make, teacher: Path, tmp_path: Path) -> None:
    """The run's own weights in that form predict the same, to the bit, and nobody knows what they were trained on."""
    trained = load_run(Run.open(teacher), "last")
    config, weights = to_hf(trained.model, trained.cfg)
    folder = tmp_path / "released"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, folder / "model.safetensors")
    cfg = student(make, folder, tokenizer={"name": "hf", "path": str(folder)})
    with pytest.raises(LabError, match=r"has no tokenizer\.json"):
        plan(student(make, folder))
    shutil.copy(teacher / "tokenizer" / "tokenizer.json", folder)
    made = plan(cfg)
    assert "nobody here knows what teacher released was trained on" in str(made.text["seen"])
    loaded = made.teacher.load("cpu", precision("fp32", "cpu"), documents=False)
    tokens_BT = torch.randint(250, (2, 16))
    torch.testing.assert_close(loaded(tokens_BT), trained.model(tokens_BT), rtol=1e-5, atol=1e-5)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"tokenizer": "byte"}, "has another tokenizer than this run"),
        ({"scale.context": 32}, "was trained with scale.context=16, less than 32"),
        ({"match": "params", "match_to": 1}, "non-embedding parameters"),
    ],
)
def test_what_does_not_fit_is_refused(make: Make, teacher: Path, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        plan(student(make, teacher, **settings))


def test_the_control_has_no_teacher(make: Make) -> None:
    """At alpha 0 it is the run of cross-entropy, at its cost."""
    settings = {**BPE, "budget.steps": 3}
    alone = train(make(study="alone", **settings))
    control = train(make(objective={"name": "distill", "teacher": "nobody", "alpha": 0.0}, **settings))
    assert_same(control.path, alone.path)
    assert "teacher/flops" not in control.summary and "teacher" not in Run.open(control.path).record


def test_no_such_teacher_or_none_of_next_tokens(make: Make, teacher: Path) -> None:
    with pytest.raises(LabError, match=r"objective\.teacher=nobody: no runs in .* a folder of Hugging Face's has"):
        plan(student(make, "nobody"))
    bert = train(make(objective="mlm", study="bert", **BPE, **{"budget.steps": 2})).path
    with pytest.raises(ConfigError, match="was trained with objective=mlm: it predicts no next token"):
        plan(student(make, bert))
    with pytest.raises(ConfigError, match="match=flops makes models equal and leaves a teacher out"):
        student(make, teacher, match="flops", match_to=1)
