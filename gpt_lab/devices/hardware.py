"""What differs between kinds of devices: names, memory, waiting, random states, and what Apple's GPU cannot."""

from __future__ import annotations

import resource
import sys
from typing import Any

import torch
from torch import Tensor

from gpt_lab.errors import LabError


def gpu(kind: str) -> dict[str, Any]:
    """Name and number of the GPUs that a run on this kind of device records; nothing of a CPU."""
    if kind == "cuda":
        return {"gpu": torch.cuda.get_device_name(), "gpus": torch.cuda.device_count()}
    return {"gpu": "Apple GPU", "gpus": 1} if kind == "mps" else {}


def free_memory(kind: str) -> int | None:
    """Bytes that a GPU with memory of its own has left; None of others, whose memory is the machine's."""
    return int(torch.cuda.mem_get_info()[0]) if kind == "cuda" else None


def reset_peak(kind: str) -> None:
    """Begins to look for the peak of memory anew, where the device counts it."""
    if kind == "cuda":
        torch.cuda.reset_peak_memory_stats()


def peak_memory_gb(kind: str) -> float:
    """The most memory held so far, in GB: of the process on a CPU; on MPS what its allocator holds, which it keeps."""
    if kind == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    if kind == "mps":
        return torch.mps.driver_allocated_memory() / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def wait(kind: str) -> None:
    """Until the device has done what it was given."""
    if kind == "cuda":
        torch.cuda.synchronize()
    elif kind == "mps":
        torch.mps.synchronize()


def give_back(kind: str) -> None:
    """Gives memory that nothing uses back to the device."""
    if kind == "cuda":
        torch.cuda.empty_cache()
    elif kind == "mps":
        torch.mps.empty_cache()


def random_state(kind: str) -> Tensor | None:
    """Of the device's own generator; None on a CPU, whose generator is torch's."""
    if kind == "cuda":
        return torch.cuda.get_rng_state()
    return torch.mps.get_rng_state() if kind == "mps" else None


def set_random_state(kind: str, state: Tensor) -> None:
    """What random_state gave."""
    if kind == "cuda":
        torch.cuda.set_rng_state(state)
    else:
        torch.mps.set_rng_state(state)


def seed(kind: str, number: int) -> None:
    """Of the device's own generator."""
    if kind == "cuda":
        torch.cuda.manual_seed(number)
    elif kind == "mps":
        torch.mps.manual_seed(number)


def in_float64(values: Tensor) -> Tensor:
    """The values in float64: on the CPU where their device is Apple's GPU, which has none."""
    return (values.cpu() if values.device.type == "mps" else values).double()


def lack(error: BaseException, kind: str) -> LabError | None:
    """What to say of an error by which Apple's GPU shows that it cannot do something; None of any other."""
    if kind != "mps" or not isinstance(error, NotImplementedError | TypeError | RuntimeError):
        return None
    said = " ".join(str(error).split())
    if "MPS" not in said:
        return None
    return LabError(
        f"Apple's GPU lacks what this run needs ({said[:160]}): use device=cpu, or set PYTORCH_ENABLE_MPS_FALLBACK=1, "
        "which computes some of it on the CPU"
    )
