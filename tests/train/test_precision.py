"""Number formats: what each device offers, what is refused, and that formats learn alike."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gpt_lab import registry
from gpt_lab.errors import ConfigError
from gpt_lab.train import precision
from gpt_lab.train.precision import Precision, cpu_native_bf16, resolve

has_bf16 = pytest.mark.skipif(cpu_native_bf16() is None, reason="the CPU has no native bf16")


@pytest.fixture(autouse=True)
def matmul_precision() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


def cpu(monkeypatch: pytest.MonkeyPatch, folder: Path, amx: bool, avx512_bf16: bool, flags: str = "") -> None:
    """A CPU with these instructions."""
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16, raising=False)
    monkeypatch.setattr(precision, "CPUINFO", folder / "cpuinfo")
    if flags:
        (folder / "cpuinfo").write_text(f"processor : 0\nflags : fpu {flags}\n")


def gpu(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int]) -> None:
    """An NVIDIA GPU of this capability."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: capability >= (8, 0))


@pytest.mark.parametrize(
    ("amx", "avx512_bf16", "flags", "name", "word"),
    [
        (True, True, "", "bf16", "AMX"),
        (False, True, "", "bf16", "AVX512-BF16"),
        (False, False, "avx512_bf16 fma", "bf16", "AVX512-BF16"),
        (False, False, "asimd bf16", "bf16", "Arm BF16"),
        (False, False, "avx2 fma", "fp32", "no native bf16"),
        (False, False, "", "fp32", "no native bf16"),
    ],
)
def test_auto_on_cpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, amx: bool, avx512_bf16: bool, flags: str, name: str, word: str
) -> None:
    cpu(monkeypatch, tmp_path, amx, avx512_bf16, flags)
    found = resolve("auto", "cpu")
    assert found.name == name and word in found.reason and found.scaler is None
    if name == "fp32":
        with pytest.raises(ConfigError, match="precision=fp32"):
            resolve("bf16", "cpu")


def test_a_torch_without_the_questions_reads_the_flags(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cpu(monkeypatch, tmp_path, False, False, "amx_bf16")
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported")
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported")
    assert cpu_native_bf16() == "AMX"


@pytest.mark.parametrize(("capability", "name"), [((7, 5), "fp32"), ((8, 0), "bf16"), ((9, 0), "bf16")])
def test_auto_on_cuda(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], name: str) -> None:
    gpu(monkeypatch, capability)
    assert resolve("auto", "cuda").name == name


@pytest.mark.parametrize("name", ["bf16", "tf32"])
def test_an_old_gpu_is_told_so(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    gpu(monkeypatch, (7, 5))
    with pytest.raises(ConfigError, match=r"precision=fp"):
        resolve(name, "cuda")


def test_tf32_and_fp32_say_how_cuda_multiplies(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu(monkeypatch, (8, 0))
    assert resolve("tf32", "cuda:0").name == "tf32"
    assert torch.get_float32_matmul_precision() == "high"
    assert resolve("fp32", torch.device("cuda")).name == "fp32"
    assert torch.get_float32_matmul_precision() == "highest"


def test_the_cpu_keeps_full_fp32() -> None:
    before = torch.get_float32_matmul_precision()
    resolve("fp16", "cpu")
    resolve({"name": "fp32"}, "cpu")
    assert torch.get_float32_matmul_precision() == before


def test_tf32_needs_cuda() -> None:
    with pytest.raises(ConfigError, match="use precision=fp32"):
        resolve("tf32", "cpu")


@pytest.mark.parametrize("capability", [None, (8, 0), (8, 6), (8, 9), (9, 0)])
def test_fp8_where_the_hardware_has_it(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int] | None) -> None:
    if capability is not None:
        gpu(monkeypatch, capability)
    if capability is not None and capability >= (8, 9):
        found = resolve("fp8", "cuda")
        assert (found.name, found.products, found.dtype) == ("fp8", "bf16", torch.bfloat16)
        return
    with pytest.raises(ConfigError, match=r"capability 8\.9 or later \(Ada, Hopper\): use precision=auto"):
        resolve("fp8", "cpu" if capability is None else "cuda")


@pytest.mark.parametrize(("native", "products"), [(None, "fp32"), ("AMX", "bf16")])
def test_weights_of_few_bits_are_multiplied_as_auto_says(
    monkeypatch: pytest.MonkeyPatch, native: str | None, products: str
) -> None:
    """The name has both, so that runs of machines that multiply otherwise are not the same run."""
    monkeypatch.setattr(precision, "cpu_native_bf16", lambda: native)
    for name in ("bf16_sr", "int8_weights"):
        found = resolve(name, "cpu")
        assert (found.name, found.products) == (f"{name}+{products}", products)
        assert found.kept is not None and not found.differentiates_twice


def test_an_unknown_format_is_told_the_closest() -> None:
    with pytest.raises(
        ConfigError, match=r"did you mean 'bf16'.*auto, bf16, bf16_sr, fp16, fp32, fp8, int8_weights, tf32"
    ):
        resolve("bf61", "cpu")


def train(found: Precision, steps: int = 60) -> list[float]:
    """Loss of a small classifier, with scaler and clipping as a trainer has them."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 8))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)
    x = torch.randn(64, 16, generator=generator)
    y = x[:, :8].argmax(1)
    losses = []
    for _ in range(steps):
        with found.autocast():
            logits = model(x)
            loss = nn.functional.cross_entropy(logits, y)
        assert logits.dtype == found.dtype
        losses.append(loss.item())
        optimizer.zero_grad()
        if found.scaler is None:
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        else:
            found.scaler.scale(loss).backward()
            found.scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            found.scaler.step(optimizer)
            found.scaler.update()
    assert all(p.dtype == torch.float32 for p in model.parameters())
    return losses


@pytest.mark.parametrize("name", [pytest.param("bf16", marks=has_bf16), "fp16"])
def test_the_loss_curve_is_fp32s(name: str) -> None:
    exact, lowered = train(resolve("fp32", "cpu")), train(resolve(name, "cpu"))
    assert exact[-1] < 0.5 * exact[0]
    assert lowered == pytest.approx(exact, abs=0.02)
    assert lowered != exact


def test_each_run_has_its_own_scaler() -> None:
    one, other = resolve("fp16", "cpu").scaler, resolve("fp16", "cpu").scaler
    assert one is not None and other is not None and one is not other


@pytest.mark.parametrize("name", ["lion", "muon", "adam", "sgd"])
def test_a_scaler_skips_the_step_of_a_bad_gradient(name: str) -> None:
    from gpt_lab.optim.groups import Group

    weight = nn.Parameter(torch.ones(4, 4))
    optimizer = registry.build("optim", {"name": name}).build([Group("matrix", [("up_proj.weight", weight)])])
    scaler: Any = resolve("fp16", "cpu").scaler
    scaler.scale((weight * float("inf")).sum()).backward()
    scaler.unscale_(optimizer)
    with contextlib.suppress(RuntimeError):
        scaler.step(optimizer)
    scaler.update()
    assert torch.equal(weight, torch.ones(4, 4)) and scaler.get_scale() == 2.0**15


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("name", ["tf32", "bf16", "fp16"])
def test_formats_on_cuda(name: str) -> None:
    found = resolve(name, "cuda")
    x = torch.randn(256, 256, device="cuda", generator=torch.Generator("cuda").manual_seed(0))
    with found.autocast():
        y = x @ x
    assert y.dtype == found.dtype
    assert not torch.equal(y.double(), x.double() @ x.double())
    torch.testing.assert_close(y.double(), x.double() @ x.double(), rtol=0.02, atol=0.5)
