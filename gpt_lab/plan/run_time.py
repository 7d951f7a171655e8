"""Run time prediction: from runs of the same settings on this machine, else from a few timed steps."""

from __future__ import annotations

import heapq
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from gpt_lab.config.schema import RunConfig
from gpt_lab.plan import paces
from gpt_lab.plan.paces import Machine
from gpt_lab.study.build import tuned

if TYPE_CHECKING:
    from gpt_lab.store import Run
    from gpt_lab.train.resolve_auto import ResolvedRun
    from gpt_lab.train.speed.pace import Pace

MIRROR = {"auto": 2.0, "wandb": 2.0, "tensorboard": 0.5}
"""Seconds that a tracker costs a run: its client is imported while the run trains, on the same cores."""


@dataclass(frozen=True)
class Times:
    """Seconds of runs to come.

    Fields:
        runs: of each from its start to its end, evaluations and checkpoints included; None where nothing tells.
        start: until the first run of a sweep can begin.
        basis: where the numbers come from, in words.
    """

    runs: tuple[float | None, ...]
    start: float
    basis: str


def times(
    configs: Sequence[RunConfig], plans: Sequence[ResolvedRun], val_tokens: Sequence[int], machine: Machine
) -> Times:
    """How long a run of each config takes; what no earlier run tells is measured.

    Args:
        val_tokens: of each config's validation split.
    """
    from gpt_lab.store import all_runs

    ended = [run for run in all_runs(configs[0].runs_dir) if run.state == "finished"] if configs else []
    walls = [_earlier(ended, cfg, plan, machine) for cfg, plan in zip(configs, plans, strict=True)]
    unknown = [i for i, found in enumerate(walls) if not found]
    measured = paces.find([(configs[i], plans[i]) for i in unknown], machine)
    seconds: list[float | None] = [statistics.median(found) if found else None for found in walls]
    for i, pace in zip(unknown, measured.paces, strict=True):
        seconds[i] = None if pace is None else run_seconds(configs[i], plans[i], val_tokens[i], pace)
    told = sum(map(len, walls))
    basis = [f"as {told} earlier run{'s' * (told > 1)} took"] if told else []
    basis += [measured.basis] if unknown else []
    return Times(tuple(seconds), measured.start, "; ".join(basis) or "no run to estimate")


def run_seconds(cfg: RunConfig, plan: ResolvedRun, val_tokens: int, pace: Pace) -> float:
    """Seconds of one run: its start, its steps, and what it does beside them."""
    every, saving = cfg.eval.every, cfg.checkpoint.every or cfg.eval.every
    if plan.budget.seconds is not None:
        training = plan.budget.seconds
        steps = int(training / pace.step)
    else:
        assert plan.budget.steps is not None
        steps = plan.budget.steps
        training = pace.step * cfg.tokens_after(steps) / cfg.tokens_per_step
    between = min(cfg.eval.tokens or val_tokens, val_tokens)
    ends_between = steps % every > 0
    validated = steps // every * between
    if cfg.eval.tokens is not None or ends_between:
        validated += val_tokens
    if plan.longer:
        validated += val_tokens  # once more in windows of one context, to compare the others with
    longer = sum(val_tokens * pace.validation[multiple] for multiple in plan.longer)
    saves = (
        steps // every + steps // saving - steps // math.lcm(every, saving) + 1
    )  # each evaluation is the best so far
    samples = steps // every + ends_between
    beside = validated * pace.validation[1] + longer + saves * pace.save + samples * pace.sample
    return pace.start + pace.compile + training + beside + MIRROR.get(cfg.tracker["name"], 0.0)


def together(seconds: Sequence[float], jobs: int) -> float:
    """Seconds of all runs, `jobs` at a time, each begun as soon as there is a place for it."""
    ends = [0.0] * max(1, min(jobs, len(seconds)))
    for one in seconds:
        heapq.heapreplace(ends, ends[0] + one)
    return max(ends)


def sweep_seconds(arms: Sequence[tuple[float | None, Sequence[float]]], jobs: int, start: float) -> float | None:
    """Seconds of a sweep; None where those of one of its runs are not known.

    Args:
        arms: seconds of a run, and for each run that is left how much of one it is.
        start: until the first begins.
    """
    if any(seconds is None and shares for seconds, shares in arms):
        return None
    left = [seconds * share for seconds, shares in arms if seconds is not None for share in shares]
    return together(left, jobs) + start if left else 0.0


def _earlier(runs: Sequence[Run], cfg: RunConfig, plan: ResolvedRun, machine: Machine) -> list[float]:
    """Seconds from start to end of the runs that were made as this one would be, but for their seeds."""
    from gpt_lab.store.record import machine as hardware

    cpu, settings = hardware()["cpu"], _timed(cfg.flat())
    found = []
    for run in runs:
        record = run.record
        made, resolved = record.get("hardware") or {}, record.get("resolved") or {}
        alike = (
            made.get("cpu") == cpu
            and (plan.device != "cpu" or made.get("threads") == machine.threads)
            and all(resolved.get(key) == value for key, value in plan.resolved.items())
            and not (record.get("forked") or record.get("resumed"))
            and _timed(record.get("config") or {}) == settings
        )
        if alike and (wall := _wall(record)) is not None:
            found.append(wall)
    return found


def _timed(flat: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in flat.items() if key.split(".")[0] not in paces.FREE and not tuned(key, value)}


def _wall(record: Mapping[str, Any]) -> float | None:
    try:
        begun, ended = (datetime.fromisoformat(str(record[key])) for key in ("started", "finished"))
        return max((ended - begun).total_seconds(), float(record["summary"]["seconds"]))
    except (KeyError, TypeError, ValueError):
        return None


def shown(value: float) -> str:
    """A duration: 42 s, 3 min 20 s, 2 h 5 min."""
    seconds = max(1, round(value))
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s" if seconds % 60 else f"{seconds // 60} min"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"
