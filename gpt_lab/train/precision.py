"""Number formats of training. Autocast lowers matrix products; weights stay fp32 but where a format says otherwise.

`auto` takes bf16 where the hardware multiplies it natively: elsewhere it is emulated, slower than fp32.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gpt_lab import registry
from gpt_lab.errors import ConfigError
from gpt_lab.registry import register
from gpt_lab.train.few_bits import float8, kept_weights
from gpt_lab.train.few_bits.formats import Format, KeptBF16, KeptInt8

CPUINFO = Path("/proc/cpuinfo")
CPU_BF16_FLAGS = {"amx_bf16": "AMX", "avx512_bf16": "AVX512-BF16", "bf16": "Arm BF16"}
"""Names in /proc/cpuinfo -> what a user calls them; the fastest first."""


@dataclass(frozen=True)
class Precision:
    """A number format, decided.

    Fields:
        name: fp32, tf32, bf16, fp16 or fp8; or that of what weights are kept in, + and that of products.
        reason: why, in words for the run's record.
        device: cpu, cuda or mps.
        scaler: of the loss, so that fp16 gradients do not vanish; None where none is needed.
        products: fp32, tf32, bf16 or fp16: of matrix products, but those that fp8 multiplies; "": as the name says.
        kept: what weights are kept in between steps; None: fp32.
    """

    name: str
    reason: str
    device: str
    scaler: torch.amp.GradScaler | None = None
    products: str = ""
    kept: Format | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "products", self.products or self.name)

    @property
    def dtype(self) -> torch.dtype:
        """Of matrix products and what follows them."""
        return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.products, torch.float32)

    @property
    def differentiates_twice(self) -> bool:
        """Whether the gradient of a gradient is what it is in fp32: own products know one only."""
        return self.kept is None and self.name != "fp8"

    def lower(self, model: nn.Module) -> None:
        """Gives a model the layers that multiply in this format; touches no weight.

        Raises:
            ConfigError: it has none that could.
        """
        if self.name == "fp8":
            float8.convert(model)

    def keep(self, model: nn.Module) -> None:
        """Keeps a model's weights in this format from now on; on the device that it stays on."""
        if self.kept is not None:
            kept_weights.keep(model, self.kept)

    def autocast(self) -> AbstractContextManager[Any]:
        """Around forward pass and loss, once per micro-batch: it keeps lowered weights until it is left."""
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device, dtype=self.dtype)


def resolve(choice: str | Mapping[str, Any], device: str | torch.device) -> Precision:
    """The number format that a setting means on a device; on CUDA also sets how fp32 products are computed.

    Args:
        choice: the name of an option of `precision`, or its settings.
        device: cpu, cuda or mps.

    Raises:
        ConfigError: unknown name, or a format that the device does not have.
    """
    settings = {"name": choice} if isinstance(choice, str) else choice
    kind = torch.device(device).type
    precision: Precision = registry.build("precision", settings).on(kind)
    if kind == "cuda":  # under a lower format the few products left in fp32 may be tf32 too
        torch.set_float32_matmul_precision("highest" if precision.products == "fp32" else "high")
    return precision


def cpu_native_bf16() -> str | None:
    """The CPU's instructions that multiply bf16, by name; None if it has none."""
    asked = {"_is_amx_tile_supported": "AMX", "_is_avx512_bf16_supported": "AVX512-BF16"}
    for function, name in asked.items():
        if getattr(torch.cpu, function, lambda: False)():
            return name
    with contextlib.suppress(OSError):  # there is none but on Linux
        flags = set(CPUINFO.read_text(encoding="utf-8", errors="replace").split())
        return next((name for flag, name in CPU_BF16_FLAGS.items() if flag in flags), None)
    return None


def _capability() -> tuple[int, int] | None:
    """Of the current CUDA device; None on hardware that has no such number (ROCm) or where there is no device."""
    if not torch.cuda.is_available() or torch.version.hip:
        return None
    return torch.cuda.get_device_capability()


def _cuda_native_bf16() -> bool:
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)


@register("precision", "auto")
class AutoPrecision:
    """bf16 where the hardware multiplies it natively, else fp32.

    Reference: benchmarks/README.md, what bf16 gains on CPU and CUDA
    """

    def on(self, device: str) -> Precision:
        """The choice for cpu or cuda."""
        if device == "cuda":
            if _cuda_native_bf16():
                return Precision("bf16", "the GPU multiplies bf16 natively", device)
            return Precision("fp32", "the GPU has no native bf16", device)
        if device == "mps":
            return Precision("fp32", "nobody has measured what bf16 gains on Apple's GPU", device)
        found = cpu_native_bf16()
        if found:
            return Precision("bf16", f"the CPU multiplies bf16 natively ({found})", device)
        return Precision("fp32", "the CPU has no native bf16 (AMX, AVX512-BF16)", device)


@register("precision", "fp32")
class FP32:
    """32-bit floating point throughout.

    Reference: IEEE 754 binary32
    """

    def on(self, device: str) -> Precision:
        """The format on cpu or cuda."""
        return Precision("fp32", "asked for", device)


@register("precision", "tf32")
class TF32:
    """fp32 whose matrix products round their inputs to 10 bits of mantissa (NVIDIA Ampere or later).

    Paper: Stosic and Micikevicius 2021, https://developer.nvidia.com/blog/accelerating-ai-training-with-tf32-tensor-cores
    """

    def on(self, device: str) -> Precision:
        """The format on cuda."""
        if device != "cuda":
            raise ConfigError("precision=tf32 needs a CUDA device: use precision=fp32 or precision=auto")
        capability = _capability()
        if capability is None or capability < (8, 0):
            raise ConfigError("precision=tf32 needs an NVIDIA GPU of capability 8.0 or later: use precision=fp32")
        return Precision("tf32", "asked for", device)


@register("precision", "bf16")
class BF16:
    """Autocast to bfloat16: fp32's range with 7 bits of mantissa; weights stay fp32.

    Paper: Kalamkar et al. 2019, arXiv:1905.12322
    """

    def on(self, device: str) -> Precision:
        """The format on cpu or cuda."""
        if device == "cuda" and not _cuda_native_bf16():
            raise ConfigError("precision=bf16: this GPU has no native bf16: use precision=fp16 or precision=fp32")
        if device == "mps" and not torch.backends.mps.is_macos_or_newer(14, 0):
            raise ConfigError("precision=bf16 needs macOS 14 or later on Apple's GPU: use precision=fp32")
        if device == "cpu" and cpu_native_bf16() is None:
            raise ConfigError(
                "precision=bf16: this CPU has no native bf16 (AMX, AVX512-BF16) and would run slower than fp32: "
                "use precision=fp32 or precision=auto"
            )
        return Precision("bf16", "asked for", device)


@register("precision", "fp16")
class FP16:
    """Autocast to 16-bit floating point with a scaled loss; weights stay fp32.

    Paper: Micikevicius et al. 2018, arXiv:1710.03740
    """

    def on(self, device: str) -> Precision:
        """The format on cpu or cuda; a scaler belongs to one run."""
        if device == "mps":
            raise ConfigError("precision=fp16 scales its loss in float64, which Apple's GPU lacks: use precision=fp32")
        reason = "asked for" if device == "cuda" else "asked for (most CPUs emulate it: for tests, not for speed)"
        return Precision("fp16", reason, device, torch.amp.GradScaler(device))


@register("precision", "fp8")
class FP8:
    """Linear layers multiply 8-bit floats, each row with its own scale; NVIDIA Ada or later.

    Paper: Micikevicius et al. 2022, arXiv:2209.05433

    As bf16, but for the products, forward and backward, of plain linear layers whose two sizes are multiples of 16;
    embeddings, head, norms and stacked experts stay as there. Values have 3 bits of mantissa (e4m3), gradients 2
    (e5m2). Its arithmetic is tested on the CPU.
    """

    def on(self, device: str) -> Precision:
        """The format on cuda."""
        capability = _capability() if device == "cuda" else None
        if capability is None or capability < (8, 9):
            raise ConfigError(
                "precision=fp8 needs an NVIDIA GPU of capability 8.9 or later (Ada, Hopper): use precision=auto"
            )
        return Precision("fp8", "asked for", device, products="bf16")


class _FewBits:
    """Weights that are kept in few bits; products as precision=auto."""

    kept: Format

    def on(self, device: str) -> Precision:
        """The format on cpu or cuda."""
        if device == "mps":
            name = type(self).part[1]  # type: ignore[attr-defined]
            raise ConfigError(f"precision={name} has no arithmetic for Apple's GPU: use precision=fp32, or device=cpu")
        name, found = type(self).part[1], AutoPrecision().on(device)  # type: ignore[attr-defined]
        return Precision(
            f"{name}+{found.name}", f"asked for; {found.reason}", device, products=found.name, kept=self.kept
        )


@register("precision", "bf16_sr")
class BF16StochasticRounding(_FewBits):
    """Weights kept in bfloat16, each update rounded up or down at random, so that small ones count on average.

    Paper: Zamirai et al. 2020, arXiv:2010.06192

    Matrices of linear layers, embeddings and head; vectors, stacked experts and tables of positions stay fp32, as do
    gradients and optimizer state. Products as precision=auto.
    """

    kept = KeptBF16()


@register("precision", "int8_weights")
class Int8Weights(_FewBits):
    """An experiment: weights kept as 8-bit integers, a scale for each row, each update rounded up or down at random.

    Reference: torchao's prototype of quantized training,
    https://github.com/pytorch/ao/tree/main/torchao/prototype/quantized_training

    Matrices of linear layers; all else stays fp32, as do gradients and optimizer state. Products as precision=auto.
    """

    kept = KeptInt8()
