"""Budgets, what auto comes to, and the peaks of devices."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from gpt_lab.config.schema import RunConfig
from gpt_lab.data.dataset import open_dataset
from gpt_lab.errors import ConfigError
from gpt_lab.store import Run
from gpt_lab.train import resolve_auto
from gpt_lab.train.budget import Clock, TrainingLimit
from gpt_lab.train.resolve_auto import ResolvedRun, resolve
from gpt_lab.train.speed import peak_flops
from tests.train.train_helpers import train

Make = Callable[..., RunConfig]


def planned(cfg: RunConfig) -> ResolvedRun:
    return resolve(cfg, open_dataset(cfg))


def test_budgets_in_steps_tokens_and_flops(make: Make) -> None:
    assert planned(make(**{"budget.steps": 17})).budget == TrainingLimit(17, None)
    assert planned(make(**{"budget.tokens": 64 * 5 + 63.0})).budget == TrainingLimit(5, None), (
        "never more than was given"
    )
    price = 64 * planned(make()).cost.train_flops_per_token
    assert planned(make(**{"budget.flops": price * 8.5})).budget == TrainingLimit(8, None)
    assert planned(make(**{"budget.seconds": 9.0})).budget == TrainingLimit(None, 9.0)


@pytest.mark.parametrize("key, value", [("budget.tokens", 63.0), ("budget.flops", 1000.0)])
def test_a_budget_below_one_step_is_refused(make: Make, key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"{key}={value:g} does not pay for one step"):
        planned(make(**{key: value}))


def test_runs_follow_their_budget(make: Make) -> None:
    assert train(make(**{"budget.tokens": 640.0})).summary["steps"] == 10
    result = train(make(**{"budget.seconds": 0.3, "seed": 1}))
    assert 0.3 <= result.summary["seconds"] < 2


def test_progress_of_steps_lies_inside_the_open_interval() -> None:
    limit = TrainingLimit(4, None)
    assert [limit.progress(step, 99.0) for step in range(4)] == [0.2, 0.4, 0.6, 0.8]
    assert not limit.spent(3, 99.0)
    assert limit.spent(4, 0.0)


def test_progress_of_seconds() -> None:
    limit = TrainingLimit(None, 10.0)
    assert limit.progress(0, 0.0) > 0
    assert limit.progress(5, 5.0) == 0.5
    assert limit.progress(5, 11.0) == 1.0
    assert not limit.spent(10**9, 9.99)
    assert limit.spent(0, 10.0)


def test_the_clock_stands_still_while_paused() -> None:
    clock = Clock(100.0)
    assert clock.seconds == 100.0
    clock.start()
    time.sleep(0.02)
    with clock.paused():
        before = clock.seconds
        time.sleep(0.02)
        assert clock.seconds == before
    assert 100.02 <= before < 101
    time.sleep(0.001)
    assert clock.seconds > before
    clock.pause()
    with clock.paused():
        pass
    assert clock.seconds == clock.seconds, "a clock that stood still before still does"


def test_compile_auto_is_a_pure_function_of_the_config(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolve_auto, "_compiler", lambda: "g++")
    short = planned(make(compile="auto"))
    assert not short.compile
    assert "do not repay" in short.reasons["compile"]
    long = planned(make(compile="auto", **{"budget.flops": 1e15}))
    assert long.compile
    assert long.resolved["compile"] == "on"
    assert planned(make(compile="auto", **{"budget.seconds": 3600.0})).compile
    assert not planned(make(compile="off", **{"budget.seconds": 3600.0})).compile
    assert planned(make(compile="on")).compile


def test_compile_needs_a_compiler(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolve_auto.shutil, "which", lambda name: None)
    assert not planned(make(compile="auto", **{"budget.flops": 1e15})).compile
    with pytest.raises(ConfigError, match="compile=off"):
        planned(make(compile="on"))


def test_a_chunked_loss_trains_as_a_whole_one(make: Make) -> None:
    """The same run to rounding, under another signature: the last bits may differ."""
    whole, chunked = (train(make(chunked_loss=way, **{"budget.steps": 4})) for way in ("auto", "on"))
    records = [Run.open(result.path).record["resolved"] for result in (whole, chunked)]
    assert records[1] == records[0] | {"loss": "chunked"}
    assert chunked.path != whole.path
    assert chunked.summary["val/loss"] == pytest.approx(whole.summary["val/loss"], rel=1e-5)


def test_every_choice_has_its_reason(make: Make) -> None:
    found = planned(make(kernel="auto", precision="auto", compile="auto"))
    assert set(found.reasons) == {"device", "precision", "kernel", "compile", "loss"}
    assert all(found.reasons.values())
    assert "auto" not in found.resolved.values()


@pytest.mark.parametrize(
    "name, precision, tflops",
    [
        ("NVIDIA H100 80GB HBM3", "bf16", 989),
        ("NVIDIA H100 PCIe", "bf16", 756),
        ("NVIDIA H200", "tf32", 494),
        ("NVIDIA H100 NVL", "fp16", 835),
        ("NVIDIA A100-SXM4-40GB", "bf16", 312),
        ("NVIDIA A10G", "bf16", 70),
        ("NVIDIA A10", "bf16", 125),
        ("NVIDIA GeForce RTX 4090", "bf16", 165.2),
        ("NVIDIA GeForce RTX 3090", "fp32", 35.6),
        ("NVIDIA L4", "bf16", 121),
        ("NVIDIA L40S", "bf16", 362),
        ("Tesla T4", "fp16", 65),
        ("Tesla T4", "bf16", None),
        ("Tesla V100-SXM2-16GB", "fp16", 125),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "bf16", None),
        ("AMD Instinct MI300X", "bf16", None),
    ],
)
def test_peaks_of_gpus_by_product_name(name: str, precision: str, tflops: float | None) -> None:
    assert peak_flops.gpu_peak(name, precision) == (None if tflops is None else pytest.approx(tflops * 1e12))


def test_the_peak_of_a_cpu_is_measured_once_for_each_format_and_number_of_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is that of the fastest product: a unit that a small one leaves idle counts."""
    formats: list[tuple[object, int]] = []
    real = peak_flops.torch.mm

    def product(a: Any, b: Any) -> Any:
        formats.append((a.dtype, len(a)))
        clock[0] += 1e-6 if len(a) >= 1024 else 1e-5  # the larger one is 80 times as fast
        return real(a[:8, :8], b[:8, :8])

    clock = [0.0]
    monkeypatch.setattr(peak_flops.torch, "mm", product)
    monkeypatch.setattr(peak_flops.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(peak_flops, "SIZES", (512, 1024))
    monkeypatch.setattr(peak_flops, "LONGEST", 1e-3)
    monkeypatch.setattr(peak_flops, "_found", {})
    assert peak_flops.peak_flops("cpu", "bf16") == pytest.approx(2 * 1024**3 / 1e-6)
    assert set(formats) == {(peak_flops.torch.bfloat16, 512), (peak_flops.torch.bfloat16, 1024)}
    formats.clear()
    peak_flops.peak_flops("cpu", "bf16")
    assert not formats, "once"
    peak_flops.peak_flops("cpu", "fp32")
    assert {dtype for dtype, _ in formats} == {peak_flops.torch.float32}
    formats.clear()
    monkeypatch.setattr(peak_flops.torch, "get_num_threads", lambda: 2)
    peak_flops.peak_flops("cpu", "fp32")
    assert formats
    assert peak_flops.known()[-1][:2] == ("fp32", 2)
    peak_flops.know([("fp32", 3, 5e9)])
    monkeypatch.setattr(peak_flops.torch, "get_num_threads", lambda: 3)
    assert peak_flops.peak_flops("cpu", "fp32") == 5e9, "another process has measured it"


def test_mfu_is_a_share_or_not_known() -> None:
    assert peak_flops.mfu(1e3, 1e9, 4e12) == 0.25
    assert peak_flops.mfu(1e4, 1e9, 4e12) is None, "more than the peak: that was measured beside other work"
    assert peak_flops.mfu(1e3, 1e9, None) is None


def test_out_of_range_devices(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolve_auto.torch, "cuda", SimpleNamespace(is_available=lambda: False))
    with pytest.raises(ConfigError, match=r"device=cuda.*device=auto"):
        planned(make(device="cuda"))
    assert planned(make(device="auto")).device == "cpu"
