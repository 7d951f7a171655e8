"""Wrong input to `train`: one line with the way out, exit code 2, nothing written."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from gpt_lab.cli import train

BEFORE_TORCH = {
    "misspelled group": (["optm=muon"], "did you mean 'optim'"),
    "misspelled option": (["optim=mouon"], "did you mean 'muon'"),
    "misspelled key": (["optim.lrr=0.1"], "did you mean 'lr'"),
    "misspelled section key": (["budget.step=10"], "did you mean 'steps'"),
    "wrong type": (["optim.lr=fast"], "optim.lr must be a number"),
    "wrong type of a whole number": (["scale.depth=2.5"], "scale.depth must be a whole number"),
    "truth value for a number": (["scale.depth=true"], "scale.depth must be a whole number"),
    "scalar for a group": (["optim=5"], "unknown optim '5'"),
    "tree for a group": (["optim={lr: 1}"], "unknown optim"),
    "list for a group": (["attention=[mha,gqa]"], "unknown attention"),
    "name of a group": (["optim.name=lion"], "optim=lion"),
    "scalar for a section": (["budget=5"], "budget.steps"),
    "negative width": (["scale.width=-64"], "scale.width must be a whole number >= 1"),
    "heads that do not divide": (["scale.heads=5"], "heads that do: "),
    "key heads that do not divide": (["attention=gqa", "attention.kv_heads=3"], "does not divide scale.heads=4"),
    "window larger than context": (["attention=sliding", "attention.window=4096"], "larger than scale.context"),
    "unknown kernel": (["kernel=flash"], "did you mean 'flash_attn'"),
    "two budgets": (["budget.steps=5", "budget.tokens=1e6"], "exactly one of budget.steps"),
    "no budget": (["budget.steps=null"], "exactly one of budget.steps"),
    "negative seed": (["seed=-1"], "seed must be a whole number >= 0"),
    "several values": (["seed=1,2"], "grids are for"),
    "added key": (["+colour=red"], "keys cannot be added"),
    "deleted group": (["~optim"], "key=value"),
    "deleted key": (["~optim.lr=1"], "nothing can be deleted"),
    "impossible dropout": (["model.dropout=1.5"], "in [0, 1)"),
    "rows that do not divide": (["batch.micro=5"], "nearest that do: 1, 2, 4, 8, 16"),
    "batch that does not fit the context": (["batch.tokens=1000"], "not a multiple of scale.context"),
    "unknown experiment": (["+experiment=nope"], "unknown experiment 'nope'"),
    "unknown flag": (["--fast"], "unknown flag"),
    "no setting": (["muon"], "key=value"),
    "study outside the runs": (["study=../elsewhere"], "plain folder name"),
    "text without a path": (["data=text"], "data.path"),
    "unknown device": (["device=tpu"], "allowed: auto, cpu, cuda, mps"),
    "infinite learning rate": (["optim.lr=inf"], "finite"),
    "folder without a name": (["runs_dir="], "runs_dir must be text of 1 to 1,000 characters"),
    "a study with an endless name": (["study=" + "x" * 3000], "(3,000 characters)"),
    "a value with an endless name": (["norm=" + "x" * 3000], "(3,000 characters)"),
    "thousands of digits": (["seed=" + "9" * 5000], "cannot read 'seed=999"),
    "beyond 64 bits": (["seed=" + "9" * 20], "below 2^63"),
    "a whole number with an exponent": (["scale.depth=1e8"], "without a point or an exponent, 100000000"),
    "endless divisors": (["scale.width=10000000000001", "scale.heads=10"], "heads that do: 1"),
    "Hydra's own": (["hydra.run.dir=elsewhere"], "runs_dir=... and study=..."),
    "two values": (["optim.lr=0.1", "seed=1", "optim.lr=0.2"], "optim.lr is given twice"),
    "two parts": (["optim=lion", "optim=muon"], "optim is given twice"),
    "a tokenizer for data without text": (["data=synthetic", "tokenizer=bpe"], "tokenizer would change nothing"),
    "its option": (["data=synthetic", "tokenizer.vocab_size=300"], "tokenizer.vocab_size would change nothing"),
    "a split beside validation text": (
        ["data=text", "data.path=a", "data.val_path=b", "data.val_fraction=0.3"],
        "data.val_fraction would change nothing: data.val_path names the validation text",
    ),
    "a decay for what never decays": (
        ["optim=schedule_free", "schedule.final=0.1"],
        "schedule.final would change nothing: optim=schedule_free takes the warm-up alone",
    ),
    "misspelled section": (["bugdet.steps=5"], "did you mean 'budget.steps'"),
    "another program's name": (["learning_rate=0.1"], "did you mean 'optim.lr'"),
    "another program's flag": (["--max-steps=100"], "did you mean budget.steps=...?"),
    "another program's option": (["scale.n_layer=2"], "did you mean 'scale.depth'"),
    "a bare name": (["dropout=0.1"], "did you mean 'model.dropout' or 'attention.dropout'"),
    "option of another part": (
        ["attention.kv_heads=2"],
        "attention=sliding, attention=value_residual have it",
    ),
    "unreadable override": (["optim.lr=[1"], "cannot read"),
}
WITH_TORCH = {
    "missing data file": (["data=text", "data.path=missing.txt"], "missing.txt"),
    "kernel without keyed dropout": (["kernel=sdpa", "attention.dropout=0.1", "tokenizer=byte"], "math"),
    "kernel that cannot train here": (["kernel=flex", "device=cpu", "tokenizer=byte"], "flex"),
    "precision of another device": (["precision=tf32", "device=cpu", "tokenizer=byte"], "tf32"),
    "precision of newer hardware": (["precision=fp8", "device=cpu", "tokenizer=byte"], "capability 8.9"),
    "an average of few bits": (
        ["precision=bf16_sr", "optim=schedule_free", "device=cpu", "tokenizer=byte"],
        "which precision=bf16_sr would round: use precision=bf16 or precision=fp32",
    ),
    "two gradients of few bits": (
        ["precision=int8_weights", "optim=adahessian", "device=cpu", "tokenizer=byte"],
        "products of precision=int8_weights cannot be",
    ),
    "odd head for rotary positions": (["scale.width=12", "scale.heads=4", "tokenizer=byte"], "position=none"),
    "a cooldown that leaves no room": (
        ["schedule=wsd", "schedule.warmup=1.0", "tokenizer=byte"],
        "schedule.warmup=1 and schedule.cooldown=0.2 exceed the budget",
    ),
    "too deep": (["scale.depth=100000000"], "lower scale.depth (now 100000000)"),
    "too large a batch": (["batch.tokens=10240000000000"], "lower batch.tokens (now 10240000000000)"),
    "too large a padding": (["model.vocab_multiple=1000000000000"], "lower model.vocab_multiple (now"),
    "too large a vocabulary": (["tokenizer.vocab_size=10000000000"], "lower tokenizer.vocab_size (now"),
    "a vocabulary that no text fills": (
        ["tokenizer.vocab_size=3000000", "batch.micro=1", "optim=sgd", "scale.context=8"],
        "tokenizer.vocab_size=3000000 is more than 5,",
    ),
    "too large to match": (["mlp=gelu", "match=params", "scale.depth=100000000"], "lower scale.depth (now"),
    "unknown encoding": (["tokenizer=tiktoken", "tokenizer.encoding=nope"], "nope"),
}


def _refused(args: list[str], way_out: str, capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    sys.argv = ["train", *args]
    with pytest.raises(SystemExit) as leaving:
        train.main()
    lines = capsys.readouterr().err.strip().splitlines()
    assert leaving.value.code == 2
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    assert way_out in lines[0]
    assert list(folder.iterdir()) == []


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train"])
    return tmp_path


@pytest.mark.parametrize("case", BEFORE_TORCH)
def test_refused_in_one_line(case: str, capsys: pytest.CaptureFixture[str], empty_folder: Path) -> None:
    args, way_out = BEFORE_TORCH[case]
    _refused(args, way_out, capsys, empty_folder)


@pytest.mark.parametrize("case", WITH_TORCH)
def test_refused_by_the_part(case: str, capsys: pytest.CaptureFixture[str], empty_folder: Path) -> None:
    args, way_out = WITH_TORCH[case]
    _refused(args, way_out, capsys, empty_folder)


@pytest.mark.skipif(importlib.util.find_spec("flash_attn") is not None, reason="flash-attn is installed here")
def test_kernel_not_installed(capsys: pytest.CaptureFixture[str], empty_folder: Path) -> None:
    _refused(["kernel=flash_attn", "tokenizer=byte"], "uv sync --extra cuda", capsys, empty_folder)


def test_bf16_on_a_machine_without_it(
    capsys: pytest.CaptureFixture[str], empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gpt_lab.train import precision

    monkeypatch.setattr(precision, "cpu_native_bf16", lambda: None)
    _refused(["precision=bf16", "device=cpu", "tokenizer=byte"], "precision=fp32", capsys, empty_folder)


def test_cuda_on_a_machine_without_it(
    capsys: pytest.CaptureFixture[str], empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    _refused(["device=cuda", "tokenizer=byte"], "device=cpu", capsys, empty_folder)


def test_a_refusal_never_imports_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from gpt_lab.cli import train; sys.argv = ['train', 'optim.lrr=1']\n"
        "try:\n    train.main()\nexcept SystemExit as e:\n    assert e.code == 2\n"
        "heavy = {'torch', 'wandb', 'pandas', 'datasets'} & set(sys.modules)\nassert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "did you mean 'lr'" in done.stderr
