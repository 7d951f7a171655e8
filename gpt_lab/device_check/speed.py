"""Speed of a device: GPT-2 124M with each attention kernel, and small runs beside each other."""

from __future__ import annotations

import multiprocessing
import queue
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from gpt_lab.device_check import training
from gpt_lab.device_check.steps import Place
from gpt_lab.devices import hardware
from gpt_lab.errors import LabError
from gpt_lab.train.speed.stepwise import kernel_speed, timed

PATIENCE = 180.0
"""Seconds that a process may take to begin."""


def throughput_step(kernel: str) -> Callable[[Place], dict[str, Any]]:
    """A step that times training with one kernel."""

    def step(place: Place) -> dict[str, Any]:
        return kernel_speed(kernel, place.device, place.compiled, place.load, place.folder / f"throughput-{kernel}")

    return step


def trials(place: Place) -> dict[str, Any]:
    """Tokens/s of small runs, all together, by how many train at a time: what `sweep --jobs` brings."""
    return {str(number): _beside(place, number) for number in place.trials}


def _beside(place: Place, number: int) -> dict[str, Any]:
    spawn = multiprocessing.get_context("spawn")
    together, answers = spawn.Barrier(number), spawn.Queue()
    processes = [spawn.Process(target=_trial, args=(place, one, together, answers)) for one in range(number)]
    for process in processes:
        process.start()
    try:
        said = [answers.get(timeout=PATIENCE + place.trial_seconds) for _ in processes]
    except queue.Empty:
        raise LabError(f"{number} runs beside each other did not begin within {PATIENCE:.0f} s") from None
    finally:
        for process in processes:
            process.terminate()
            process.join()
    rates = [rate for rate in said if isinstance(rate, float)]
    if len(rates) < number:
        return {"failed": next(str(rate) for rate in said if not isinstance(rate, float))}
    return {"tokens_per_s": round(sum(rates)), "of_each": round(min(rates))}


def _trial(place: Place, number: int, together: Any, answers: Any) -> None:
    """One run in a process of its own: its tokens/s while the others run too."""
    try:
        lab = training.run(replace(place, steps=10**6), f"trials-{number}", "precision=auto")
        lab.losses(2)
        together.wait(PATIENCE)
        ms = timed(lab.step, place.trial_seconds, wait=lambda: hardware.wait(place.device))
        answers.put(lab.trainer.cfg.tokens_per_step / ms * 1e3)
    except BaseException as error:
        together.abort()
        answers.put(f"{type(error).__name__}: {error}")
