"""The check of a device, on the CPU and at tiny sizes: every step is tried, and what fails is recorded."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from gpt_lab.cli import doctor
from gpt_lab.device_check import attention, check, training
from gpt_lab.device_check.steps import Place, Step, Wrong, tried
from gpt_lab.devices import gpu_runs
from gpt_lab.errors import ConfigError
from gpt_lab.train.speed.stepwise import Load
from scripts import generate


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setenv("GPT_LAB_CACHE", str(tmp_path / "cache"))
    return Place("cpu", tmp_path, Load("nano", 2, 2, 1, 0.0, 64), (1,), 0.0, "nano", 4, 256, compiled=False)


def test_a_step_that_fails_stops_no_other(place: Place) -> None:
    def refuse(place: Place) -> dict[str, Any]:
        raise ConfigError("precision=fp8 needs an NVIDIA GPU")

    def crash(place: Place) -> dict[str, Any]:
        raise RuntimeError("CUDA error:\n  misaligned address")

    def differ(place: Place) -> dict[str, Any]:
        raise Wrong("the last loss is 3", {"last": 3.0})

    steps = [Step("a", refuse), Step("b", crash), Step("c", differ), Step("d", lambda place: {"x": 1})]
    found = dict(tried(steps, place))
    assert [one["state"] for one in found.values()] == ["refused", "failed", "failed", "ok"]
    assert found["a"]["error"] == "precision=fp8 needs an NVIDIA GPU"
    assert found["b"]["error"] == "RuntimeError: CUDA error: misaligned address"
    assert found["c"]["found"] == {"last": 3.0}
    assert all(one["seconds"] >= 0 for one in found.values())


def test_kernels_are_held_against_plain_products(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    found = attention.kernel_step("sdpa")(place)
    assert found["causal, fp32"] < 1e-5 and found["window, bf16"] < 4e-2
    assert found["softcap, fp32"] is None, "refused"
    with pytest.raises(ConfigError, match="kernel=flex needs a CUDA device"):
        attention.kernel_step("flex")(place)
    monkeypatch.setattr(attention, "LIMIT", {"fp32": 0.0})
    with pytest.raises(Wrong, match="differs from plain products: causal, fp32"):
        attention.kernel_step("sdpa")(place)


def test_a_run_that_was_left_ends_as_one_that_went_through(place: Place) -> None:
    assert training.resumed(place)["bit_for_bit"] is True


def test_losses_that_differ_are_wrong(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    assert training.chunked(place)["apart"] < 1e-3
    falling = [5.0, 4.0, 3.0]
    with pytest.raises(Wrong, match="the last loss is 3.5, and should be 3"):
        training._same([5.0, 4.0, 3.5], falling, 0.1)
    with pytest.raises(Wrong, match="learnt nothing"):
        training._same([5.0, 5.0], [5.0, 5.0], 0.1)
    with pytest.raises(Wrong, match="the last loss is nan"):
        training._same([5.0, 4.0, float("nan")], falling, 0.1)


def test_the_whole_check_is_one_file(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One step of each kind, but for those that start processes and compilers, or have a test of their own."""
    every = {step.name: step for step in check.steps()}
    assert {"precision=bf16", "compile=on", "chunked_loss=on", "resume", "trials"} < every.keys()
    names = ("kernel=sdpa", "kernel=flex", "precision=fp8", "throughput, kernel=auto")
    steps = [every[name] for name in names]
    monkeypatch.setattr(check, "steps", lambda: steps)
    lines: list[str] = []
    cache = os.environ["GPT_LAB_CACHE"]
    found, path = check.check(place, lines.append, tmp_path)
    assert os.environ["GPT_LAB_CACHE"] == cache
    assert path == tmp_path / "device-cpu.json" and json.loads(path.read_text(encoding="utf-8")) == found
    states = {name: outcome["state"] for name, outcome in found["steps"].items()}
    assert states == dict(zip(names, ("ok", "refused", "refused", "ok"), strict=True))
    assert found["steps"]["throughput, kernel=auto"]["found"]["tokens_per_s"] > 0
    assert len(lines) == len(steps)


@pytest.mark.slow
def test_runs_beside_each_other(place: Place) -> None:
    from gpt_lab.device_check import speed

    found = speed.trials(place)
    assert found["1"]["tokens_per_s"] == found["1"]["of_each"] > 0


@pytest.mark.parametrize("flag, device", [("--cuda", "CUDA device"), ("--mps", "Apple GPU")])
def test_without_the_device_it_is_one_line(
    flag: str, device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=f"PyTorch finds no {device}"):
        doctor.run([flag])
    with pytest.raises(ConfigError, match="one of --json, --cuda, --mps"):
        doctor.run([flag, "--json"])
    assert not list(tmp_path.iterdir())


def test_what_ran_is_read_from_committed_checks(tmp_path: Path) -> None:
    folder = tmp_path / generate.CHECKS
    folder.mkdir(parents=True)
    steps = {"kernel=flex": {"state": "ok"}, "precision=fp8": {"state": "failed"}, "trials": {"state": "refused"}}
    for name in ("H200", "A100"):
        checked = {"device": {"gpu": f"NVIDIA {name}"}, "steps": steps}
        (folder / f"device-{name}.json").write_text(json.dumps(checked), encoding="utf-8")
    assert generate.ran_on_gpus(tmp_path) == {"kernel=flex": ["NVIDIA A100", "NVIDIA H200"]}


def test_what_nobody_recorded_is_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_runs, "read", lambda: {"kernel=flex": ["NVIDIA H200"]})
    assert gpu_runs.mark("kernel", "flex") == "On a GPU: has run on NVIDIA H200"
    assert gpu_runs.mark("kernel", "flash_attn") == f"On a GPU: {gpu_runs.NEVER}"
    assert gpu_runs.mark("kernel", "sdpa") == gpu_runs.mark("parallel", "ddp") == f"On a GPU: {gpu_runs.NEVER}"
    assert gpu_runs.mark("kernel", "auto") == gpu_runs.mark("norm", "rmsnorm") == ""
