"""Number formats of training. Weights and optimizer state stay fp32; autocast lowers matrix products.

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

from gpt_lab import registry
from gpt_lab.errors import ConfigError
from gpt_lab.registry import register

CPUINFO = Path("/proc/cpuinfo")
CPU_BF16_FLAGS = {"amx_bf16": "AMX", "avx512_bf16": "AVX512-BF16", "bf16": "Arm BF16"}
"""Names in /proc/cpuinfo -> what a user calls them; the fastest first."""


@dataclass(frozen=True)
class Precision:
    """A number format, decided.

    Fields:
        name: fp32, tf32, bf16 or fp16.
        reason: why, in words for the run's record.
        device: cpu or cuda.
        scaler: of the loss, so that fp16 gradients do not vanish; None where none is needed.
    """

    name: str
    reason: str
    device: str
    scaler: torch.amp.GradScaler | None = None

    @property
    def dtype(self) -> torch.dtype:
        """Of matrix products and what follows them."""
        return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.name, torch.float32)

    def autocast(self) -> AbstractContextManager[Any]:
        """Around forward pass and loss, once per micro-batch: it keeps lowered weights until it is left."""
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device, dtype=self.dtype)


def resolve(choice: str | Mapping[str, Any], device: str | torch.device) -> Precision:
    """The number format that a setting means on a device; on CUDA also sets how fp32 products are computed.

    Args:
        choice: the name of an option of `precision`, or its settings.
        device: cpu or cuda.

    Raises:
        ConfigError: unknown name, or a format that the device does not have.
    """
    settings = {"name": choice} if isinstance(choice, str) else choice
    kind = torch.device(device).type
    precision: Precision = registry.build("precision", settings).on(kind)
    if kind == "cuda":  # under a lower format the few products left in fp32 may be tf32 too
        torch.set_float32_matmul_precision("highest" if precision.name == "fp32" else "high")
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
            raise ConfigError("precision=tf32 needs a CUDA device: use precision=fp32 or precision=auto on the CPU")
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
        reason = "asked for" if device == "cuda" else "asked for (most CPUs emulate it: for tests, not for speed)"
        return Precision("fp16", reason, device, torch.amp.GradScaler(device))
