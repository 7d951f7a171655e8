"""The trainer driven step by step, to be timed or looked at: as a run does between evaluations, without its end."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from gpt_lab.config import composition
from gpt_lab.console.signals import Signals
from gpt_lab.cost import match
from gpt_lab.data.dataset import open_dataset
from gpt_lab.devices import hardware
from gpt_lab.train.claim_run import claim
from gpt_lab.train.resolve_auto import resolve
from gpt_lab.train.trainer import Trainer

LOG_EVERY = 10
"""Steps between lines in the log."""
GPT2_SYMBOLS = 50256
"""GPT-2's vocabulary of 50257 tokens: symbols and a separator."""


class Stepwise:
    """The lab's trainer, step by step; a run of the same settings in the same folder is resumed."""

    def __init__(self, overrides: Sequence[str], folder: Path, command: str = "") -> None:
        fixed = [f"runs_dir={folder}", "tracker=none", f"log.every={LOG_EVERY}", "sample.tokens=0"]
        cfg = match.compose([*fixed, *overrides])
        dataset = open_dataset(cfg)
        self.plan = resolve(cfg, dataset)
        run = claim(cfg, self.plan, command)
        self.trainer = Trainer(cfg, self.plan, dataset, run, Console(quiet=True), Signals())
        start = time.perf_counter()
        self.trainer.resume()
        self.compile_s = time.perf_counter() - start
        self.trainer.clock.start()

    def step(self) -> None:
        """One optimizer step, and a log line when it is due."""
        self.trainer.step()
        if self.trainer.due(LOG_EVERY):
            self.trainer.log()

    def losses(self, steps: int) -> list[float]:
        """Training losses of so many steps, nats per token."""
        for _ in range(steps):
            self.trainer.step()
        self.trainer.history.settle()
        return self.trainer.history.losses[-steps:]

    def loading_ms(self, calls: int, clock: Callable[[], float]) -> float:
        """Time to bring one batch."""
        start = clock()
        for step in range(calls):
            self.trainer.learner.feed.take(step)
        return (clock() - start) / calls * 1e3


def timed(
    step: Callable[[], None],
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
    wait: Callable[[], None] = lambda: None,
) -> float:
    """Milliseconds per step over at least so many seconds, in whole log intervals."""
    wait()
    start, done = clock(), 0
    while done == 0 or clock() - start < seconds:
        for _ in range(LOG_EVERY):
            step()
        done += LOG_EVERY
    wait()
    return (clock() - start) / done * 1e3


class Load(NamedTuple):
    """What is timed: sequences per step and at a time, of a scale's context, in rounds of so many seconds."""

    scale: str
    rows: int
    micro: int
    rounds: int
    seconds: float
    symbols: int = GPT2_SYMBOLS


def kernel_speed(kernel: str, device: str, compiled: bool, load: Load, place: Path) -> dict[str, Any]:
    """Tokens/s and MFU of GPT-2 with one attention kernel, all else as `auto` has it.

    Raises:
        ConfigError: the kernel cannot be used here. torch.OutOfMemoryError: the device is too small.
    """
    overrides = ["data=synthetic", f"data.symbols={load.symbols}", "model=gpt2", "model.vocab_multiple=128"]
    overrides += [
        f"scale={load.scale}",
        f"kernel={kernel}",
        f"compile={'on' if compiled else 'off'}",
        f"device={device}",
    ]
    tokens = load.rows * composition.compose(overrides).scale.context
    hardware.give_back(device)
    hardware.reset_peak(device)
    lab = Stepwise([*overrides, f"batch.tokens={tokens}", f"batch.micro={load.micro}"], place)

    def wait() -> None:
        hardware.wait(device)

    timed(lab.step, load.seconds / 2, wait=wait)
    times = [timed(lab.step, load.seconds, wait=wait) for _ in range(load.rounds)]
    rate = tokens / statistics.median(times) * 1e3
    flops, peak = lab.plan.cost.mfu_flops_per_token, lab.trainer.peak
    return {
        "tokens_per_s": round(rate),
        "mfu": None if peak is None else round(rate * flops / peak, 4),
        "mfu_flops_per_token": flops,
        "ms_per_round": [round(ms, 2) for ms in times],
        "peak_memory_gb": round(hardware.peak_memory_gb(device), 2),
        "chosen": {**lab.plan.resolved, "reasons": dict(lab.plan.reasons)},
        "compile_s": round(lab.compile_s, 1),
    }
