"""A run that is killed and started again is the run that was never killed, bit for bit."""

from __future__ import annotations

import functools
import json
import os
import random
import resource
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from gpt_lab.config.schema import RunConfig
from gpt_lab.errors import LabError
from gpt_lab.store import Run, all_runs
from gpt_lab.train import budget, checkpoint, start, trainer
from tests.helpers import flip
from tests.train.train_helpers import (
    assert_mirrored,
    assert_same,
    curve,
    fork,
    mirrored,
    quiet,
    said,
    status,
    train,
    weights,
)

Make = Callable[..., RunConfig]
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")


def interrupted(cfg: RunConfig, at: int, patch: pytest.MonkeyPatch) -> Path:
    """Trains up to step `at` and then loses everything since the last checkpoint, as if the process had died."""
    step = trainer.Trainer.step

    class Dead(BaseException):
        pass

    def dying(self: trainer.Trainer) -> None:
        if self.state.step == at:
            raise Dead
        step(self)

    with patch.context() as inner:
        inner.setattr(trainer.Trainer, "step", dying)
        with pytest.raises(Dead):
            train(cfg)
    (run,) = all_runs(cfg.runs_dir, cfg.study)
    return run.path


VARIANTS: dict[str, dict[str, Any]] = {
    **{f"optim={name}": {"optim": name} for name in ("adamw", "sgd", "schedule_free", "sophia", "adahessian")},
    "qk clip": {"optim": {"name": "muon", "qk_clip": 0.01}},
    "8-bit moments": {"optim": {"name": "adamw", "state": "int8"}},
    "dropout": {"model.dropout": 0.2},
    "micro": {"batch.micro": 1, "model.dropout": 0.2},
    "fp16": {"precision": "fp16"},
    "sparse log": {"log.every": 7, "checkpoint.every": 4},
    "untied": {"model.tied": False, "model.bias": True, "norm": "layernorm"},
    "checkpointing": {"model.checkpointing": True, "model.dropout": 0.1},
    "layer drop": {"residual": {"name": "layer_drop", "rate": 0.5}},
    "learned": {"position": "learned"},
    "subset": {"eval.tokens": 200},
    "longer contexts": {"eval.contexts": [1, 2, 4]},
    "packed": {"data": "rows", "batch.packing": "best_fit", "batch.curriculum": 0.5, "batch.document_mask": True},
    "bucketed": {"data": "rows", "batch.packing": "bucketed", "batch.micro": 2, "model.dropout": 0.1},
    "mixture": {"data": "mix", "batch.packing": "bos_aligned", "batch.micro": 1},
    "growing batch, falling decay": {
        "batch.start": 16,
        "batch.ramp": 640,
        "model.dropout": 0.1,
        "schedule.weight_decay": "linear",
        "optim.weight_decay": 0.5,
    },
    "more tokens of a task": {"batch.start": 16, "batch.ramp": 640, "data": "synthetic", "objective": "mtp"},
    "masked diffusion": {"objective": "masked_diffusion", "model.dropout": 0.1},
    "masked language model": {"objective": "mlm", "batch.micro": 1},
}


@pytest.fixture(scope="module")
def documents(corpus: Path) -> dict[str, Any]:
    """The corpus as JSON lines of different lengths, and a mixture of both."""
    path = corpus.with_name("rows.jsonl")
    words = corpus.read_text(encoding="utf-8").split()
    texts = (" ".join(words[i : i + 1 + i % 9]) for i in range(0, 1200, 4))
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    rows = {"name": "jsonl", "path": str(path)}
    sources = {"rows": {**rows, "weight": 2}, "words": {"name": "text", "path": str(corpus)}}
    return {"rows": rows, "mix": {"name": "mix", "sources": sources}}


@pytest.mark.parametrize("name", VARIANTS)
def test_resuming_changes_nothing(
    make: Make, name: str, documents: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"eval.every": 6, "budget.steps": 20, **VARIANTS[name]}
    settings |= {"data": documents[settings["data"]]} if settings.get("data") in documents else {}
    whole = train(make(**settings))
    cfg, kept = make(**settings, study="killed"), mirrored(monkeypatch)
    path = interrupted(cfg, 15, monkeypatch)
    for step in [step for step in kept if step >= 12]:  # as after kill -9: that of the checkpoint never left either
        del kept[step]
    result = train(cfg)
    assert result.path == path
    assert_mirrored(kept, path)
    assert_same(result.path, whole.path)
    lines = [(one / "metrics.jsonl").read_text("utf-8").count("\n") for one in (path, whole.path)]
    assert lines[0] == lines[1], "what the dead process logged beyond its checkpoint is gone"
    assert weights(result.path, "best").keys() == weights(whole.path, "best").keys()


@pytest.mark.parametrize("name", ["model.safetensors", "training.safetensors", "state.json"])
def test_a_damaged_checkpoint_is_not_resumed_from(make: Make, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """64 flipped bytes in the newest: the one before. In all of them: from the start. The numbers are the same."""
    settings = {"eval.every": 5, "checkpoint.keep": 3}
    whole = train(make(**settings))
    for study, damaged in (("newest", ["step-15"]), ("all", ["step-5", "step-10", "step-15"])):
        cfg = make(**settings, study=study)
        path = interrupted(cfg, 17, monkeypatch)
        for step in damaged:
            flip(path / "checkpoints" / step, name)
        console = quiet()
        assert_same(start.run_training(cfg, console, "train").path, whole.path)
        (line,) = (line for line in said(console).splitlines() if "is damaged" in line)
        first = f"resuming {path} from step 10" if study == "newest" else f"training {path} anew"
        assert line.startswith(f"{first}: step-15 is damaged ({name} is not what was written)")
        assert line.count("is damaged") == len(damaged)
        assert Run.open(path).summary["val/bpb"] == whole.summary["val/bpb"]


BAD_LINES = [
    '{"step": "7", "a": 1}',
    '{"step": [1]}',
    '{"step": null}',
    '{"step": -1}',
    '{"step": "NaN"}',
    '{"step": true}',
]


def test_lines_that_are_none_are_left_out_by_name(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train(make())
    cfg = make(study="lines")
    path = interrupted(cfg, 15, monkeypatch) / "metrics.jsonl"
    lines = path.read_text().splitlines()
    lines[3:3] = [*BAD_LINES, "[" * 200_000, "[]", '{"a": 1}']
    lines.append('{"step": 9, "odd": "text", "none": null, "yes": true, "many": [1], "huge": 1' + "0" * 400 + "}")
    path.write_text("\n".join(lines) + "\n")
    console = quiet()
    assert_same(start.run_training(cfg, console, "train").path, whole.path)
    assert f'{path}: 9 lines and 1 value left out (line 4: step is "7")\n' in said(console)


def test_resuming_twice_and_with_other_cadences_of_checkpoints(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """How often checkpoints are written is not part of the identity, and does not show in the curve."""
    whole = train(make(**{"log.every": 4}))
    cfg = make(**{"log.every": 4, "checkpoint.every": 3}, study="killed")
    interrupted(cfg, 5, monkeypatch)
    path = interrupted(replace(cfg, checkpoint=replace(cfg.checkpoint, every=7)), 16, monkeypatch)
    assert_same(train(cfg).path, whole.path)
    assert Run.open(path).state == "finished"


def test_seconds_count_over_resumes(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that a step moves by 25 ms, and the end of the process by an hour."""
    now, step = [0.0], trainer.Trainer.step

    def timed(self: trainer.Trainer) -> None:
        now[0] += 0.025
        step(self)

    monkeypatch.setattr(trainer.Trainer, "step", timed)
    monkeypatch.setattr(budget, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    cfg = make(**{"budget.seconds": 1.5, "eval.every": 10, "log.every": 5})
    path = interrupted(cfg, 33, monkeypatch)
    assert checkpoint.read_state(path / "checkpoints" / "last")["seconds"] == pytest.approx(30 * 0.025)
    now[0] += 3600
    result = train(cfg)
    assert result.path == path
    assert result.summary["seconds"] == pytest.approx(1.5)
    rows = Run.open(path).metrics()
    assert rows[-1]["step"] == 60
    assert [row["seconds"] for row in rows] == pytest.approx([row["step"] * 0.025 for row in rows])
    lr = [row["train/lr"] for row in rows if "train/lr" in row]
    assert lr[-1] < max(lr), "the schedule follows the seconds"


@pytest.mark.slow
@pytest.mark.forks
def test_kill_9_at_random_moments(make: Make) -> None:
    settings = {"budget.steps": 60, "eval.every": 4, "log.every": 3, "model.dropout": 0.1, "sample.tokens": 4}
    settings |= {"batch.packing": "best_fit", "batch.curriculum": 0.5}
    whole = train(make(**settings))
    cfg = make(**settings, study="killed")
    draw = random.Random(0)
    codes: list[int] = []
    while 0 not in codes:
        reached = saved(cfg)
        child = fork(lambda: train(cfg))
        wait_for_step(cfg, child, reached + draw.randint(1, 9))
        time.sleep(draw.uniform(0, 0.02))
        os.kill(child, signal.SIGKILL)  # a child that has just ended is still there to be waited for
        codes.append(status(child))
        assert codes[-1] in (0, -signal.SIGKILL)
    assert set(codes) == {0, -signal.SIGKILL}
    assert len(codes) > 5
    (run,) = all_runs(cfg.runs_dir, "killed")
    assert run.state == "finished"
    assert_same(run.path, whole.path)


def saved(cfg: RunConfig) -> int:
    """The step from which the next process resumes."""
    for run in all_runs(cfg.runs_dir, cfg.study):
        steps = sorted((int(path.name[5:]) for path in run.checkpoints.glob("step-*")), reverse=True)
        return steps[0] if steps else 0
    return 0


def wait_for_step(cfg: RunConfig, child: int, step: int) -> None:
    """Until the run's log has reached a step or the child has ended."""
    end = time.monotonic() + 60
    while time.monotonic() < end and os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if any(run.metrics()[-1:] and run.metrics()[-1]["step"] >= step for run in all_runs(cfg.runs_dir, cfg.study)):
            return
        time.sleep(0.003)


@pytest.mark.slow
@pytest.mark.forks
def test_death_inside_checkpoints_and_log_lines(make: Make) -> None:
    """The process ends at its n-th write to the file system, over and over; n is drawn anew each time."""
    settings = {"budget.steps": 30, "eval.every": 3, "log.every": 2}
    whole = train(make(**settings))
    cfg = make(**settings, study="killed")
    draw = random.Random(1)

    def doomed(call: int) -> None:
        calls = 0

        def dying(real: Callable[..., Any]) -> Callable[..., Any]:
            def wrapper(*args: Any, **kwargs: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls == call:
                    os._exit(9)
                return real(*args, **kwargs)

            return wrapper

        for name in ("write", "fsync", "rename", "replace", "mkdir", "symlink", "rmdir", "unlink"):
            setattr(os, name, dying(getattr(os, name)))
        train(cfg)

    codes = []
    while not codes or codes[-1] == 9:
        most = 60 + 10 * len(codes)
        call = draw.randint(20, most)
        codes.append(status(fork(functools.partial(doomed, call))))
    assert codes[-1] == 0
    assert len(codes) > 5
    (run,) = all_runs(cfg.runs_dir, "killed")
    assert_same(run.path, whole.path)


def test_a_disk_that_fills_up_keeps_earlier_checkpoints(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit on the size of files stands for a full disk: the second checkpoint cannot be written."""
    whole = train(make())
    cfg = make(study="full")
    save = checkpoint.save
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def filling(path: Path, *args: Any) -> None:
        if path.name == "step-20":
            resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
        save(path, *args)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", filling)
        try:
            with pytest.raises(LabError, match=r"cannot write .*step-20: no space left: free some and repeat") as error:
                train(cfg)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "\n" not in str(error.value)
    (run,) = all_runs(cfg.runs_dir, "full")
    folder = run.path / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["best", "last", "step-10"]
    assert checkpoint.read_state(folder / "last")["step"] == 10
    assert_same(train(cfg).path, whole.path)


def test_a_log_that_cannot_be_written(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = make()
    log = Run.log

    def full(self: Run, step: int, values: Any, **extra: float) -> None:
        if step >= 13:
            before = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
            try:
                log(self, step, values, **extra)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, before)
        log(self, step, values, **extra)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "log", full)
        with pytest.raises(LabError, match=r"cannot write .*metrics.jsonl: no space left"):
            train(cfg)
    (run,) = all_runs(cfg.runs_dir)
    assert run.state == "failed"
    assert [row["step"] for row in run.metrics()] == list(range(1, 13))
    assert train(cfg).state == "finished"
    assert [row["step"] for row in curve(run.path)] == list(range(1, 21))


def test_bf16_resumes_too(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    from gpt_lab.train.precision import cpu_native_bf16

    if cpu_native_bf16() is None:
        pytest.skip("this CPU has no native bf16")
    settings = {"precision": "bf16", "eval.every": 6}
    whole = train(make(**settings))
    cfg = make(**settings, study="killed")
    interrupted(cfg, 15, monkeypatch)
    assert_same(train(cfg).path, whole.path)


def test_the_comparison_can_fail(make: Make) -> None:
    first, second = train(make()), train(make(seed=1))
    assert curve(first.path) != curve(second.path)
    mine, theirs = weights(first.path), weights(second.path)
    assert not all(torch.equal(mine[name], theirs[name]) for name in mine)
