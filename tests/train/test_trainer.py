"""A run from beginning to end, in this process."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from safetensors.torch import load_file

from gpt_lab.config.schema import RunConfig
from gpt_lab.data.dataset import open_dataset
from gpt_lab.errors import ConfigError, LabError
from gpt_lab.store import Run, all_runs
from gpt_lab.train import checkpoint, learner, start, trainer
from gpt_lab.train.resolve_auto import resolve
from gpt_lab.train.step import Stepper
from tests.train.train_helpers import (
    assert_mirrored,
    curve,
    mirrored,
    quiet,
    said,
    train,
    weights,
)

Make = Callable[..., RunConfig]
ROOT = Path(__file__).parent.parent.parent


def test_the_run_folder_holds_the_story(make: Make) -> None:
    cfg = make(**{"budget.steps": 25, "eval.every": 10, "log.every": 5, "sample.tokens": 8})
    console = quiet()
    result = start.run_training(cfg, console, "train optim=adamw seed=0")
    assert (result.state, result.exit_code, result.done) == ("finished", 0, False)
    run = Run.open(result.path)
    assert run.state == "finished"
    assert run.record["config"] == cfg.flat()
    assert run.record["resolved"]["precision"] == "fp32"
    rows = run.metrics()
    assert [row["step"] for row in rows] == [5, 10, 15, 20, 25]
    assert [row["step"] for row in rows if "val/loss" in row] == [10, 20, 25]
    for row in rows:
        assert row["tokens"] == row["step"] * 64
        assert row["flops"] == row["tokens"] * run.record["train_flops_per_token"]
        assert {"train/loss", "train/lr", "train/grad_norm", "perf/tokens_per_s", "perf/peak_memory_gb"} <= row.keys()
    assert rows[-1]["train/loss"] < rows[0]["train/loss"]
    final = rows[-1]
    assert run.summary["val/bpb"] == final["val/bpb"] == result.summary["val/bpb"]
    assert math.isclose(final["val/ppl"], math.exp(final["val/loss"]))
    assert sorted(path.name for path in run.samples.iterdir()) == [f"step_{n:08d}.txt" for n in (10, 20, 25)]
    text = said(console)
    assert "counting" in text or "below every n-gram floor" in text
    opening = open_dataset(cfg).opening
    assert len(opening.split()) > 4 and run.record["prompt"] == opening
    assert f"uv run generate run={result.path} 'prompt={opening}'" in text
    assert all(path.read_text("utf-8").startswith(opening) for path in run.samples.iterdir())
    assert "uv run train optim=adamw seed=1" in text


def test_the_learning_rate_of_each_step(make: Make) -> None:
    """The first step of four is a fifth on the way, so that none has a rate of 0."""
    settings = {"budget.steps": 4, "log.every": 1, "optim.lr": 0.01}
    result = train(make(schedule={"name": "linear", "warmup": 0.0, "final": 0.0}, **settings))
    rates = [row["train/lr"] for row in curve(result.path) if "train/lr" in row]
    assert rates == pytest.approx([0.008, 0.006, 0.004, 0.002])


def test_lost_text_is_said_and_has_no_bits_per_byte(make: Make, tmp_path: Path) -> None:
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel({"e": 0, " ": 1, "<unk>": 2}, unk_token="<unk>"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    inner.decoder = tokenizers.decoders.Fuse()
    inner.save(str(tmp_path / "lossy.json"))
    cfg = make(tokenizer={"name": "hf", "path": str(tmp_path / "lossy.json")}, **{"budget.steps": 2, "eval.every": 1})
    console = quiet()
    run = Run.open(start.run_training(cfg, console, "train").path)
    loses = "tokenizer=hf loses text: at least "
    assert run.record["text"]["lossy"].startswith(loses)
    assert run.record["text"]["ends"] is True
    keys = {key for row in run.metrics() for key in row} | run.summary.keys()
    assert "val/loss" in run.summary
    assert not [key for key in keys if "bpb" in key or key.startswith(("floor/", "val/accuracy"))]
    lines = said(console).splitlines()
    assert lines.index(next(line for line in lines if line.startswith(f"warning: {loses}"))) < lines.index(
        next(line for line in lines if line.startswith("training "))
    )
    assert f"no bits per byte: {run.record['text']['lossy']}" in lines
    assert any(line.startswith("continue a text:") for line in lines)


def test_final_weights_are_saved_and_are_those_validated(make: Make) -> None:
    from gpt_lab import registry
    from gpt_lab.data.dataset import open_dataset
    from gpt_lab.infer.trained_model import load_run
    from gpt_lab.train import precision
    from gpt_lab.train.validation.evaluate import evaluate

    cfg = make(**{"budget.steps": 7, "eval.tokens": 100, "eval.every": 3})
    result = train(cfg)
    model = load_run(Run.open(result.path), "last").model
    values = evaluate(
        model, registry.build("objective", cfg.objective), precision.resolve("fp32", "cpu"), open_dataset(cfg), rows=4
    )
    assert values is not None
    assert math.isclose(values["val/loss"], result.summary["val/loss"], rel_tol=1e-6)
    assert checkpoint.read_state(result.path / "checkpoints" / "last")["step"] == 7


def test_the_best_checkpoint_has_the_lowest_loss(make: Make) -> None:
    # a rate this high lets the loss rise again
    cfg = make(
        **{
            "budget.steps": 30,
            "eval.every": 3,
            "checkpoint.every": 30,
            "optim.lr": 0.05,
            "optim.clip": 0.0,
            "schedule": "constant",
        }
    )
    result = train(cfg)
    losses = {row["step"]: row["val/loss"] for row in curve(result.path) if "val/loss" in row}
    best = min(losses, key=lambda step: losses[step])
    assert best != 30, "the test needs a curve that turns"
    folder = result.path / "checkpoints"
    assert (folder / "best").resolve().name == f"step-{best}"
    assert sorted(p.name for p in folder.iterdir()) == sorted({"best", "last", f"step-{best}", "step-30"})
    assert result.summary["best/step"] == best


def test_a_finished_run_is_not_trained_again(make: Make) -> None:
    cfg = make()
    first = train(cfg)
    before = {p: p.stat().st_mtime_ns for p in first.path.rglob("*") if p.is_file() and p.name != "lock"}
    console = quiet()
    again = start.run_training(replace(cfg, tracker={"name": "none"}), console)
    assert again.done
    assert again.path == first.path
    assert again.exit_code == 0
    assert again.summary["val/loss"] == first.summary["val/loss"]
    assert "already done" in said(console)
    assert "force=true" in said(console)
    assert {p: p.stat().st_mtime_ns for p in first.path.rglob("*") if p.is_file() and p.name != "lock"} == before


def test_force_repeats_from_the_beginning(make: Make) -> None:
    cfg = make()
    first = train(cfg)
    rows, tensors = curve(first.path), weights(first.path)
    again = train(replace(cfg, force=True))
    assert not again.done
    assert again.path == first.path
    assert curve(again.path) == rows
    assert all(torch.equal(tensors[name], tensor) for name, tensor in weights(again.path).items())
    assert len(all_runs(cfg.runs_dir)) == 1


def test_other_settings_are_other_runs(make: Make) -> None:
    paths = {train(make(**{"budget.steps": 2}, **other)).path for other in ({}, {"seed": 1}, {"model.dropout": 0.1})}
    assert len(paths) == 3


def test_where_a_run_is_kept_does_not_make_it_another(make: Make) -> None:
    cfg = make(**{"budget.steps": 2})
    train(cfg)
    assert train(make(**{"budget.steps": 2, "log.every": 2, "checkpoint.every": 1, "sample.tokens": 3})).done


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
@pytest.mark.parametrize("method, words", [("step", "at step 7, whose"), ("resume", "before the first step")])
def test_a_signal_saves_and_leaves(
    make: Make, monkeypatch: pytest.MonkeyPatch, number: int, code: int, method: str, words: str
) -> None:
    """However many processes pass it on."""
    whole = train(make(**{"log.every": 4}))
    cfg = make(**{"log.every": 4}, study="stopped")
    usual = getattr(trainer.Trainer, method)

    def signalled(self: trainer.Trainer) -> None:
        usual(self)
        if self.state.step in (0, 7):
            for copy in (number, signal.SIGTERM, number):
                os.kill(os.getpid(), copy)

    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, method, signalled)
        console = quiet()
        stopped = start.run_training(cfg, console)
    assert (stopped.state, stopped.exit_code) == ("stopped", code)
    assert f"stopped by {signal.Signals(number).name} {words}" in said(console)
    assert Run.open(stopped.path).state == "stopped"
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    kept = [path.name for path in stopped.path.glob("checkpoints/step-*")]
    assert kept == (["step-7"] if method == "step" else [])
    resumed = train(cfg)
    assert resumed.path == stopped.path
    assert curve(resumed.path) == curve(whole.path)


def test_a_signal_during_evaluation(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The evaluation is cut short; the resumed run makes up for it."""
    whole = train(make())
    cfg, kept = make(study="stopped"), mirrored(monkeypatch)
    evaluate = trainer.Trainer.evaluate

    def signalled(self: trainer.Trainer, limit: int | None) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(self, limit)

    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "evaluate", signalled)
        stopped = train(cfg)
    assert stopped.state == "stopped"
    assert not any("val/loss" in row for row in curve(stopped.path))
    resumed = train(cfg)
    assert curve(resumed.path) == curve(whole.path)
    assert_mirrored(kept, resumed.path)
    assert (resumed.path / "checkpoints" / "best").exists()


@pytest.mark.parametrize("log_every", [1, 7, 1000])
def test_divergence_names_the_first_bad_step_and_keeps_its_batch(
    make: Make, monkeypatch: pytest.MonkeyPatch, log_every: int
) -> None:
    cfg = make(**{"log.every": log_every, "eval.every": 6, "budget.steps": 30})
    call, calls = Stepper.__call__, 0

    def poisoned(self: Stepper, batch: Any, *factors: float) -> Any:
        nonlocal calls
        calls += 1
        if calls == 10:
            with torch.no_grad():
                next(self.model.parameters()).fill_(math.nan)
        return call(self, batch, *factors)

    monkeypatch.setattr(Stepper, "__call__", poisoned)
    console = quiet()
    result = start.run_training(cfg, console)
    assert (result.state, result.exit_code) == ("diverged", 1)
    path = result.path / "diverged" / "step-10.safetensors"
    assert "the loss is not finite at step 10" in said(console)
    assert str(path) in said(console)
    from gpt_lab.data.dataset import open_dataset

    expected = open_dataset(cfg).batch(9)
    kept = load_file(path)
    assert torch.equal(kept["tokens_BT"], expected.tokens_BT)
    assert torch.equal(kept["targets_BT"], expected.targets_BT)
    for saved in (result.path / "checkpoints").glob("step-*/model.safetensors"):
        assert all(torch.isfinite(tensor).all() for tensor in load_file(saved).values())
    again = start.run_training(cfg, console)
    assert again.done
    assert again.exit_code == 1


def test_a_failure_is_recorded_and_resumed(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train(make())
    cfg = make(study="failed")
    step = trainer.Trainer.step

    def broken(self: trainer.Trainer) -> None:
        if self.state.step == 13:
            raise RuntimeError("a bug")
        step(self)

    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "step", broken)
        with pytest.raises(RuntimeError, match="a bug"):
            train(cfg)
    (run,) = all_runs(cfg.runs_dir, "failed")
    assert run.state == "failed"
    assert run.record["error"] == "RuntimeError: a bug"
    assert curve(train(cfg).path) == curve(whole.path)


def test_a_full_gpu_names_the_way_out(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: trainer.Trainer) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(trainer.Trainer, "step", full)
    with pytest.raises(LabError, match=r"out of memory .* lower batch\.micro"):
        train(make())


def test_a_runs_folder_that_is_a_file(make: Make, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LabError, match="runs_dir="):
        train(make(runs_dir=str(tmp_path / "file")))


def test_another_process_trains_it(make: Make) -> None:
    cfg = make()
    result = train(cfg)
    with Run.open(result.path).lock(), pytest.raises(LabError, match=str(os.getpid())):
        train(replace(cfg, force=True))


def test_wrong_devices_and_trackers_write_nothing(make: Make, tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="device=cuda"):
            train(make(device="cuda"))
    assert not (tmp_path / "runs").exists()


def test_a_synthetic_task_reports_accuracy(make: Make) -> None:
    result = train(make(data="synthetic"))
    assert 0 <= result.summary["val/accuracy"] <= 1
    assert "val/bpb" not in result.summary


def test_the_plan_is_part_of_the_identity(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    from gpt_lab.data.dataset import open_dataset

    cfg = make()
    plan = resolve(cfg, open_dataset(cfg))
    assert cfg.signature(plan.resolved) == cfg.signature(resolve(cfg, open_dataset(cfg)).resolved)
    other = replace(plan, fingerprint="another corpus")
    assert cfg.signature(plan.resolved) != cfg.signature(other.resolved)


def test_weights_that_the_last_update_broke_are_divergence(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learner, "evaluate", lambda *_, **__: {"val/loss": math.nan, "val/ppl": math.nan})
    result = train(make(**{"eval.every": 2, "budget.steps": 3, "sample.tokens": 4}))
    assert (result.state, result.exit_code) == ("diverged", 1)
    assert [path.name for path in (result.path / "diverged").iterdir()] == ["step-2.safetensors"]


def test_a_failure_while_building_is_recorded(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any) -> None:
        raise RuntimeError("a bug")

    cfg = make()
    with monkeypatch.context() as patch:
        patch.setattr("gpt_lab.train.begin_from.first_weights.initialize", broken)
        with pytest.raises(RuntimeError, match="a bug"):
            train(cfg)
    (run,) = all_runs(cfg.runs_dir)
    assert (run.state, run.record["error"]) == ("failed", "RuntimeError: a bug")
    assert train(cfg).state == "finished"
    assert Run.open(run.path).record["error"] is None


def test_a_prompt_that_the_vocabulary_lacks_is_no_reason_to_stop(make: Make) -> None:
    result = train(make(tokenizer="char", **{"sample.tokens": 5, "sample.prompt": "ΩΩ", "budget.steps": 2}))
    assert (result.path / "samples" / "step_00000002.txt").read_text()


STARTS = """
import sys
from gpt_lab.train.start import run_training
from gpt_lab.train.trainer import Trainer
from tests.train.train_helpers import quiet
from tests.helpers import tiny_config

text = {"name": "text", "path": sys.argv[1]}
run_training(tiny_config(data=text, runs_dir=sys.argv[2], **{"budget.steps": 2, "log.every": 1}), quiet())
heavy = ("torch._dynamo", "torch._inductor", "sympy", "wandb", "datasets", "pandas", "transformers", "matplotlib")
print(*[name for name in heavy if name in sys.modules])
"""


@pytest.mark.slow
def test_a_run_imports_nothing_that_it_does_not_need(corpus: Path, tmp_path: Path) -> None:
    """torch's compiler alone would take longer to import than torch: a run that does not compile goes without."""
    command = [sys.executable, "-c", STARTS, str(corpus), str(tmp_path / "runs")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, cwd=ROOT)
    assert done.stdout.strip() == ""


def test_a_growing_batch_reads_the_text_in_order_and_says_its_sizes(make: Make) -> None:
    """The same sequences as a constant batch, in the same order; tokens, rates and sizes are those applied."""
    from gpt_lab.data.dataset import open_dataset

    cfg = make(**{"batch.start": 16, "batch.ramp": 192, "schedule.weight_decay": "linear", "budget.tokens": 700.0})
    growing, constant = open_dataset(cfg), open_dataset(make())
    mine = torch.cat([growing.batch(step).tokens_BT for step in range(12)])
    theirs = torch.cat([constant.batch(step).tokens_BT for step in range(12)])
    assert torch.equal(mine, theirs[: len(mine)])
    result = train(cfg)
    rows = [row for row in curve(result.path) if "train/loss" in row]
    sizes = [int(row["train/batch_tokens"]) for row in rows]
    assert sizes[0] == 16 and sizes[-1] == 64 and sizes == sorted(sizes)
    assert [row["tokens"] for row in rows] == [sum(sizes[: i + 1]) for i in range(len(sizes))]
    assert 700 - 64 < result.summary["tokens"] == sum(sizes) <= 700
    steps = len(sizes)
    decays = [cfg.optim["weight_decay"] * (1 - (i + 1) / (steps + 1)) for i in range(steps)]
    assert [row["train/weight_decay"] for row in rows] == pytest.approx(decays)
