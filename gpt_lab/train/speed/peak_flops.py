"""Peak FLOP/s of the device: the denominator of MFU (its numerator: cost/flops.py)."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import NamedTuple

import torch


class Peaks(NamedTuple):
    """Dense tensor-core and plain fp32 peaks, in TFLOP/s; None: the format is missing."""

    bf16: float | None
    fp16: float
    tf32: float | None
    fp32: float


GPUS = {
    "b200": Peaks(2250, 2250, 1125, 75),
    "h200 nvl": Peaks(835, 835, 417, 60),
    "h200": Peaks(989, 989, 494, 67),
    "gh200": Peaks(989, 989, 494, 67),
    "h100 nvl": Peaks(835, 835, 417, 60),
    "h100 pcie": Peaks(756, 756, 378, 51),
    "h100": Peaks(989, 989, 494, 67),
    "h800": Peaks(989, 989, 494, 67),
    "a100": Peaks(312, 312, 156, 19.5),
    "a800": Peaks(312, 312, 156, 19.5),
    "a30": Peaks(165, 165, 82, 10.3),
    "a40": Peaks(149.7, 149.7, 74.8, 37.4),
    "a10g": Peaks(70, 70, 35, 35),
    "a10": Peaks(125, 125, 62.5, 31.2),
    "rtx a6000": Peaks(154.8, 154.8, 77.4, 38.7),
    "l40s": Peaks(362, 362, 183, 91.6),
    "l40": Peaks(181, 181, 90.5, 90.5),
    "l4": Peaks(121, 121, 60, 30.3),
    "rtx 6000 ada": Peaks(364, 364, 182, 91.1),
    "rtx 5090": Peaks(209.5, 209.5, 104.8, 104.8),
    "rtx 4090": Peaks(165.2, 165.2, 82.6, 82.6),
    "rtx 4080": Peaks(97.5, 97.5, 48.7, 48.7),
    "rtx 3090": Peaks(71, 71, 35.6, 35.6),
    "rtx 3080": Peaks(59.5, 59.5, 29.8, 29.8),
    "t4": Peaks(None, 65, None, 8.1),
    "v100": Peaks(None, 125, None, 15.7),
}
"""NVIDIA's data sheets, without sparsity; GeForce with fp32 accumulation, which is how PyTorch multiplies."""

OTHER_CHIPS = {"laptop", "ti", "super", "max"}
"""Words that make a product name that of a chip with other peaks."""


SIZES = (512, 1024, 2048, 4096)
"""Of the products that are timed on a CPU: matrix units and many threads need large ones."""
LONGEST = 0.05
"""Seconds: a larger product that would take longer is left out."""
_found: dict[tuple[str, int], float] = {}
"""FLOP/s of this machine's CPU by precision and number of threads, as measured so far."""


def mfu(tokens_per_s: float, mfu_flops_per_token: float, peak: float | None) -> float | None:
    """Model FLOPs utilization, 0 to 1; None where the peak is not known.

    A share above 1 says that the peak was measured too low, as beside other work it may be: then it is not known.
    """
    if not peak:
        return None
    share = tokens_per_s * mfu_flops_per_token / peak
    return share if 0 <= share <= 1 else None


def peak_flops(device: str, precision: str) -> float | None:
    """FLOP/s of this machine's GPU or CPU in a precision; None where it is not known.

    A CUDA device's is looked up by name, Apple's are not known. A CPU's is that of the fastest matrix product in the
    number format, on as many threads as torch has now: measured in about 0.2 s, unless it is known already.
    """
    if device == "cuda":
        return gpu_peak(torch.cuda.get_device_name(), precision)
    if device == "mps":
        return None
    threads = torch.get_num_threads()
    if (precision, threads) not in _found:
        _found[precision, threads] = _measured(precision)
    return _found[precision, threads]


def known() -> list[tuple[str, int, float]]:
    """What has been measured on this CPU: precision, threads, FLOP/s."""
    return [(*key, flops) for key, flops in _found.items()]


def know(measured: Iterable[tuple[str, int, float]]) -> None:
    """Takes what other processes have measured on this CPU, as `known` gives it."""
    _found.update({(precision, threads): flops for precision, threads, flops in measured})


def gpu_peak(name: str, precision: str) -> float | None:
    """FLOP/s of the GPU with this product name."""
    words = f" {name.lower().replace('-', ' ').replace('geforce', '').replace('nvidia', '')} "
    words = " ".join(words.split())
    if OTHER_CHIPS & set(words.split()):
        return None
    for key in sorted(GPUS, key=len, reverse=True):
        if f" {key} " in f" {words} ":
            tflops: float | None = getattr(GPUS[key], precision)
            return None if tflops is None else tflops * 1e12
    return None


def _measured(precision: str) -> float:
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)
    fastest = 0.0
    for size in SIZES:
        flops = 2 * size**3
        if fastest and flops / fastest > LONGEST:
            break
        a, b = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
        end, tries = time.perf_counter() + LONGEST, 0
        while time.perf_counter() < end or tries < 5:  # a busy machine may give the first ones next to no time
            tries += 1
            start = time.perf_counter()
            torch.mm(a, b)
            fastest = max(fastest, flops / (time.perf_counter() - start))
    return fastest
