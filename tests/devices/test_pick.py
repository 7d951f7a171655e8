"""The device that auto means, on machines with a CUDA device, with Apple's GPU, and with neither."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from gpt_lab import kernels
from gpt_lab.data.dataset import open_dataset
from gpt_lab.devices import hardware
from gpt_lab.devices.pick import pick
from gpt_lab.errors import ConfigError, LabError
from gpt_lab.train import precision
from gpt_lab.train.resolve_auto import ResolvedRun, resolve
from gpt_lab.train.speed.peak_flops import peak_flops
from tests.helpers import tiny_config

Machine = Callable[[bool, bool], None]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Makes torch say that it reaches a CUDA device, or Apple's GPU."""

    def there(cuda: bool, mps: bool) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return there


@pytest.mark.parametrize(
    "cuda, mps, kind, reason",
    [
        (True, True, "cuda", "a CUDA device is there"),
        (False, True, "mps", "an Apple GPU (MPS) is there"),
        (False, False, "cpu", "no CUDA device, no Apple GPU (MPS)"),
    ],
)
def test_auto(machine: Machine, cuda: bool, mps: bool, kind: str, reason: str) -> None:
    machine(cuda, mps)
    assert pick("auto") == (kind, reason)
    assert pick("cpu") == ("cpu", "asked for")


@pytest.mark.parametrize("name", ["cuda", "mps"])
def test_what_is_not_there_is_refused(machine: Machine, name: str) -> None:
    machine(False, False)
    with pytest.raises(ConfigError, match=f"device={name}, but PyTorch finds no .*: use device=cpu or device=auto"):
        pick(name)


def plan(**settings: str) -> ResolvedRun:
    cfg = tiny_config(data="synthetic", **settings)
    return resolve(cfg, open_dataset(cfg))


def test_a_plan_for_apples_gpu(machine: Machine) -> None:
    machine(False, True)
    found = plan(device="auto", precision="auto", kernel="auto", compile="auto")
    assert found.resolved | {"device": "mps", "precision": "fp32", "kernel": "sdpa", "compile": "off"} == found.resolved
    assert found.reasons["device"] == "an Apple GPU (MPS) is there"
    assert found.reasons["compile"] == "not on Apple's GPU"


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"compile": "on"}, "compile=on needs a CPU or a CUDA device"),
        ({"precision": "tf32"}, "precision=tf32 needs a CUDA device"),
        ({"precision": "fp16"}, "precision=fp16 scales its loss in float64"),
        ({"precision": "fp8"}, "precision=fp8 needs an NVIDIA GPU"),
        ({"precision": "bf16_sr"}, "precision=bf16_sr has no arithmetic for Apple's GPU"),
        ({"precision": "int8_weights"}, "precision=int8_weights has no arithmetic for Apple's GPU"),
        ({"kernel": "flex"}, "kernel=flex needs a CUDA device"),
    ],
    ids=lambda value: next(iter(value.values())) if isinstance(value, dict) else "",
)
def test_what_apples_gpu_lacks_is_refused(machine: Machine, settings: dict[str, str], words: str) -> None:
    machine(False, True)
    with pytest.raises(ConfigError, match=words):
        plan(device="mps", **settings)


@pytest.mark.parametrize("recent", [True, False])
def test_bf16_needs_a_recent_system(monkeypatch: pytest.MonkeyPatch, recent: bool) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_macos_or_newer", lambda *version: recent)
    if recent:
        assert precision.resolve("bf16", "mps").dtype == torch.bfloat16
        return
    with pytest.raises(ConfigError, match="macOS 14"):
        precision.resolve("bf16", "mps")


def test_kernels_of_apples_gpu() -> None:
    asked = kernels.KernelRequest("mps", "fp32", 4, 2, 16, 64)
    assert kernels.choose("auto", asked).name == "sdpa"
    capped = kernels.KernelRequest("mps", "fp32", 4, 4, 16, 64, softcap=30.0)
    assert kernels.choose("auto", capped).name == "math"
    with pytest.raises(ConfigError, match="kernels that can: auto, math, sdpa"):
        kernels.choose("flash_attn", asked)


def test_errors_of_apples_gpu_have_a_way_out() -> None:
    error = NotImplementedError("The operator 'aten::linalg_eigh' is not currently implemented for the MPS device.")
    said = hardware.lack(error, "mps")
    assert isinstance(said, LabError) and "linalg_eigh" in str(said) and "device=cpu" in str(said)
    assert hardware.lack(error, "cuda") is None
    assert hardware.lack(RuntimeError("shapes differ"), "mps") is None


def test_nobody_knows_the_peak_of_apples_gpu() -> None:
    assert peak_flops("mps", "fp32") is None
