"""Step times of models that no run has timed: measured in processes of their own, kept in the lab's cache.

As many processes at once as the sweep will have runs, since they share memory and caches. A measurement beside other
work is used and not kept.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import statistics
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt_lab.config.schema import RunConfig
from gpt_lab.errors import DataError, LabError
from gpt_lab.store.atomic_files import read_json, write_json
from gpt_lab.store.record import cores
from gpt_lab.study.build import tuned

if TYPE_CHECKING:
    from gpt_lab.train.resolve_auto import ResolvedRun
    from gpt_lab.train.speed.pace import Pace

FORMAT = 1
"""Counts up when a pace means another thing than before: then old ones are measured anew."""
FREE = frozenset({"seed", "replica", "study", "runs_dir", "label", "force", "match", "match_to"})
"""Top-level keys that change nothing of how long a run takes."""
BESIDE = FREE | {"budget", "schedule", "eval", "log", "tracker", "checkpoint"}
"""Top-level keys that change nothing of its pace, but for eval.contexts."""
FREE_SHARE = 0.8
"""Share of the processor time that its own runs leave it below which a process was beside other work."""
BYTES = 20
"""Of memory, that a training takes for each parameter at least: weights, gradients, two moments, one copy."""


@dataclass(frozen=True)
class Machine:
    """What the runs of a sweep share: how many at a time, on how many CPU threads each, on which GPUs."""

    jobs: int
    threads: int
    gpus: tuple[str, ...] = ()


@dataclass(frozen=True)
class MeasuredPaces:
    """Paces in the order asked for, None where there is none; seconds until a sweep's first run can begin."""

    paces: tuple[Pace | None, ...]
    start: float
    basis: str


def find(wanted: Sequence[tuple[RunConfig, ResolvedRun]], machine: Machine) -> MeasuredPaces:
    """The pace of each config, from the cache or measured now, in about two seconds for each that is new."""
    keys = [_key(cfg, plan, machine) for cfg, plan in wanted]
    distinct = dict(zip(keys, wanted, strict=True))
    known: dict[str, tuple[Pace, float]] = {}
    for key in distinct:
        if (kept := _kept(key)) is not None:
            known[key] = kept
    new = [(key, cfg, plan) for key, (cfg, plan) in distinct.items() if key not in known]
    how, trouble = "told from a few steps of each model", ""
    if any(cfg.gpus_per_trial > 1 for cfg, _ in wanted):
        how += ", without what its ranks send each other"
    if new:
        try:
            busy = _measure(new, machine, known)
            how += "; the machine is busy with other work" if busy else ""
        except LabError as error:
            how, trouble = "", f"a few steps could not be timed: {error}"
    start = max((seconds for _, seconds in known.values()), default=0.0)
    paces = tuple(known[key][0] if key in known else None for key in keys)
    return MeasuredPaces(paces, start, "; ".join(word for word in (how, trouble) if word))


def _measure(
    new: Sequence[tuple[str, RunConfig, ResolvedRun]], machine: Machine, known: dict[str, tuple[Pace, float]]
) -> bool:
    """Measures, keeps, and says whether other work was going on.

    Raises:
        LabError: a config cannot be timed; those before it are in `known`.
    """
    from gpt_lab.sweep.workers.client import ForkServer

    busy, began = False, time.monotonic()
    with closing(ForkServer()) as server:
        server.wait()
        start = time.monotonic() - began
        for key, cfg, plan in new:
            count = _at_once(machine, plan)
            settings = {"measure": cfg.to_dict(), "threads": machine.threads}
            jobs = {str(i): {**settings, "gpu": _gpu(machine, i)} for i in range(count)}
            said = [_pace(answer["pace"]) for answer in server.gather(jobs).values()]
            pace = _mean(said)
            known[key] = (pace, start)
            fair = min(1.0, cores() / (count * machine.threads))
            if plan.device == "cpu" and pace.share < FREE_SHARE * fair:
                busy = True
                continue
            with suppress(LabError, OSError):  # a cache that is read-only or full: it is measured again next time
                path = _path(key)
                path.parent.mkdir(parents=True, exist_ok=True)
                write_json(path, {"pace": dataclasses.asdict(pace), "start": start})
    return busy


def _at_once(machine: Machine, plan: ResolvedRun) -> int:
    """Processes that measure at a time: as many as runs, if their weights fit into half of the memory."""
    if plan.device == "cuda":
        return max(1, machine.jobs)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2
    return max(1, min(machine.jobs, int(memory / (BYTES * plan.cost.parameters))))


def _gpu(machine: Machine, number: int) -> str | None:
    return machine.gpus[number % len(machine.gpus)] if machine.gpus else None


def _key(cfg: RunConfig, plan: ResolvedRun, machine: Machine) -> str:
    """Equal for runs of one pace: the model, the data, what `auto` became, the code, the machine and its load."""
    from importlib.metadata import version

    from gpt_lab.store.record import code
    from gpt_lab.store.record import machine as hardware

    settings = {k: v for k, v in cfg.flat().items() if k.split(".")[0] not in BESIDE and not tuned(k, v)}
    what = [FORMAT, settings, plan.longer, plan.resolved, hardware(), dataclasses.asdict(machine), code()]
    gpu = ""
    if plan.device != "cpu":
        from gpt_lab.devices import hardware as devices

        gpu = devices.gpu(plan.device)["gpu"]
    text = json.dumps([*what, version("torch"), gpu], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _path(key: str) -> Path:
    from gpt_lab.data.shard_cache import cache_folder

    return cache_folder() / "pace" / f"{key}.json"


def _kept(key: str) -> tuple[Pace, float] | None:
    try:
        kept = read_json(_path(key))
        return _pace(kept["pace"]), float(kept["start"])
    except (DataError, KeyError, TypeError, ValueError, AttributeError):
        return None


def _pace(fields: dict[str, Any]) -> Pace:
    """A pace from JSON, whose keys are text.

    Raises:
        TypeError, ValueError, KeyError: it is none.
    """
    from gpt_lab.train.speed.pace import Pace

    validation = {int(times): float(seconds) for times, seconds in fields["validation"].items()}
    pace = Pace(**{**fields, "validation": validation})
    if not all(math.isfinite(value) and value >= 0 for value in (pace.start, pace.step, pace.save, pace.sample)):
        raise ValueError("a pace is of finite seconds")
    return pace


def _mean(paces: Sequence[Pace]) -> Pace:
    first = paces[0]
    plain = [field.name for field in dataclasses.fields(first) if field.name != "validation"]
    means = {name: statistics.fmean(getattr(pace, name) for pace in paces) for name in plain}
    validation = {times: statistics.fmean(pace.validation[times] for pace in paces) for times in first.validation}
    return dataclasses.replace(first, **means, validation=validation)
