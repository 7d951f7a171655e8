"""How many trials share a GPU: measured once, by their memory and by what they get done beside each other."""

from __future__ import annotations

import os
import signal
import tempfile
from dataclasses import dataclass
from pathlib import Path

from gpt_lab.config.schema import RunConfig
from gpt_lab.errors import LabError
from gpt_lab.sweep.workers.client import ForkServer

CONTEXT = 0.7e9
"""Bytes of a GPU that a process is taken to need beside its tensors, for a CUDA context and libraries: not measured."""
FILLED = 0.9
"""Share of the free memory that may be filled."""
GAIN = 1.1
"""By so much twice as many trials must get more done together: each of them takes longer."""
MOST = 16


@dataclass(frozen=True)
class Share:
    """How many trials share a GPU, and what was found: steps a second of all, by their number."""

    trials: int
    rates: dict[int, float]

    def line(self) -> str:
        """For the reader."""
        found = ", ".join(f"{count}: {rate:.3g}" for count, rate in self.rates.items())
        how = "at once, through MPS" if mps() else "in turns (at once where nvidia-cuda-mps-control runs)"
        return f"{self.trials} trials a GPU (steps a second of all, by their number: {found}); they compute {how}"


def mps() -> bool:
    """Whether processes of this machine reach a GPU through NVIDIA's Multi-Process Service."""
    return (Path(os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps")) / "control").exists()


def measure(server: ForkServer, cfg: RunConfig, threads: int, gpu: str) -> Share:
    """Doubles the number of processes that train a config's steps, while that gets more done and memory is left.

    Raises:
        ConfigError, LabError: the config cannot be trained there.
    """
    rates: dict[int, float] = {}
    best = count = fits = 1
    while count <= fits:
        with tempfile.TemporaryDirectory() as folder:
            job = {"measure": cfg.to_dict(), "threads": threads, "gpu": gpu, "meet": {"folder": folder, "count": count}}
            jobs = {f"{number} of {count}": job for number in range(count)}
            try:
                said = server.gather(jobs).values()
            except LabError:
                if count == 1:
                    raise
                for name in jobs:
                    server.signal(name, signal.SIGKILL)
                break  # they seemed to fit
        rates[count] = sum(1 / answer["pace"]["step"] for answer in said)
        if count > 1 and rates[count] < GAIN * rates[count // 2]:
            break
        if count == 1:
            (memory,) = (answer["memory"] for answer in said)
            each, free = memory["taken"] + CONTEXT, memory["free"] + CONTEXT
            fits = max(1, min(MOST, int(FILLED * free / each)))
        best, count = count, 2 * count
    return Share(best, rates)
