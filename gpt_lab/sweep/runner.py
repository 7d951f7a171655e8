"""Runs a sweep from its file to its last table: checks, claims, trains, resumes."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from gpt_lab import trackers
from gpt_lab.config import schema
from gpt_lab.console import signals
from gpt_lab.console.invocation import prefix
from gpt_lab.cost import memory
from gpt_lab.errors import ConfigError, DataError
from gpt_lab.noise import records
from gpt_lab.store.atomic_files import read_json, writing
from gpt_lab.store.record import cores
from gpt_lab.study import cells as cells_
from gpt_lab.study import sweep_file
from gpt_lab.study.design import Cell
from gpt_lab.study.format import sequential_seeds
from gpt_lab.study.place import report_target, runs_folder
from gpt_lab.study.sweep import Sweep
from gpt_lab.sweep.ledger import ledger as ledger_
from gpt_lab.sweep.ledger.entry import LedgerEntry
from gpt_lab.sweep.ledger.ledger import Ledger
from gpt_lab.sweep.ledger.liveness import OwnerWatch
from gpt_lab.sweep.search import asked, search, trunk
from gpt_lab.sweep.sweep_display import SweepDisplay, show_result
from gpt_lab.sweep.tail import MetricsTail
from gpt_lab.sweep.trial import Trial
from gpt_lab.sweep.work import Prune, Runner
from gpt_lab.sweep.workers import pinning, sharing
from gpt_lab.sweep.workers.client import ForkServer

PerGpu = int | Literal["auto"]
OVER = ("finished", "diverged", "pruned")
"""States that no repetition of the command changes."""
NO_GPU = "--per-gpu: there is no GPU that the runs would use: --jobs says how many at a time"
DEFAULT_THREADS = 1
"""Two tiny trainings of one thread each give 1.8 times the tokens of one with two (2 cores of an AMD EPYC)."""


def run_sweep(
    sweep: Sweep,
    console: Console,
    jobs: int | None = None,
    threads: int | None = None,
    fail_fast: bool = False,
    retries: int | None = None,
    watch: OwnerWatch | None = None,
    stops: int | None = None,
    per_gpu: PerGpu | None = None,
) -> int:
    """Runs what is left of a sweep, and says what became of it. Call it from the main thread.

    Args:
        jobs: trials at a time; None: one per GPU, else as many as there are cores for their threads.
        threads: of each trial; None: those that the sweep was begun with, else one.
        fail_fast: end the sweep when a trial has failed for good.
        retries: how often a failed trial is tried again; None: once, or not at all with `fail_fast`.
        watch: which owners count as dead.
        stops: how often workers had been asked to stop when this one was sent for; None: as often as by now.
        per_gpu: trials at a time on each GPU, in place of `jobs`; "auto": as many as get most done together.

    Returns:
        0 all finished, or asked to stop before it began; 1 some failed, diverged or were stopped; 128 + the number of
            the signal that ended it.

    Raises:
        ConfigError: a cell that no run could have; nothing has been written. LabError: the folder cannot be written.
    """
    folder = runs_folder(sweep)
    if said := ledger_.mend(folder):
        console.print(said, markup=False, highlight=False, soft_wrap=True)
    asked = ledger_.stops(folder)
    if stops is not None and asked > stops:
        console.print("the sweep was stopped before this worker began", markup=False, highlight=False)
        return 0
    known = [entry for entry in ledger_.entries(folder) if entry.wanted]
    sequential_seeds.refuse_change(sweep, ledger_.stored_sweep(folder), known)
    with contextlib.ExitStack() as stack:
        server = None
        if not known or any(entry.state not in OVER for entry in known):
            server = stack.enter_context(contextlib.closing(ForkServer()))  # imports torch while cells are composed
        searching = search.Search(sweep)
        left = _left(searching.cells, known, folder)
        over = reached(sweep, known) or (not left and searching.ask(_done(known)) is None)
        visible: list[str] = []
        configs: Sequence[schema.RunConfig] = ()
        ranks = 1
        trunks = trunk.Trunks()
        if not over:
            server = server or stack.enter_context(contextlib.closing(ForkServer()))
            checked: Sequence[Cell] = left if searching.cells is not None else searching.to_check()
            if sweep.trunk and searching.cells is not None:
                checked = searching.cells  # those that are over may be trunks of those that are not
            line = f"checking {len(checked)} cells (a corpus that is new is tokenized first)"
            console.print(line, markup=False, highlight=False, soft_wrap=True)
            configs = cells_.configs(checked)
            fields, trees = [dataclasses.asdict(c) for c in checked], [cfg.to_dict() for cfg in configs]
            found = server.ask("check", cells=fields, configs=trees, lengths=sweep.trunk)
            for line in found.get("warnings", ()):
                console.print(f"warning: {line}", markup=False, highlight=False, soft_wrap=True)
            ranks = configs[0].gpus_per_trial if configs else 1
            visible = _gpus(found["gpus"], ranks) if uses_gpu(sweep, left) else []
            refuse_shared(per_gpu, ranks)
            if per_gpu is not None:
                jobs = _shared(per_gpu, visible, server, configs, threads, console)
            if sweep.trunk:
                lengths = [trunk.Length(**one) for one in found["lengths"]]
                trunks = trunk.required(sweep, trunk.find(checked, configs, lengths))
                for line in trunk.lines(sweep, trunks):
                    console.print(line, markup=False, highlight=False, soft_wrap=True)
        ledger = stack.enter_context(contextlib.closing(Ledger.open(folder)))
        _begin(ledger, sweep, searching, known, watch)
        number = None
        if over or server is None:
            console.print(f"{sweep.design.study} is already done: nothing to run", markup=False, highlight=False)
        else:
            with writing(folder):
                (folder / "logs").mkdir(exist_ok=True)
            per_job = ledger.threads(threads, DEFAULT_THREADS)
            at_once = jobs or len(visible) or max(1, cores() // (per_job * ranks))
            if not visible and (fit := memory.at_once(configs, memory.free(), at_once)) < at_once:
                console.print(f"the memory holds {fit} at a time", markup=False, highlight=False, soft_wrap=True)
                at_once = fit
            total = searching.most
            there = _ended(folder)
            count = sum(cell.identity not in there for cell in left)
            begun = f"{count} of {total} runs are left" if searching.cells is not None else f"up to {total} runs"
            shared = f" of {ranks} ranks" if ranks > 1 else ""
            each = f"{at_once} at a time, {per_job} thread{'s' * (per_job > 1)}{shared} each"
            own = () if visible else pinning.divided(pinning.numa_nodes(), at_once, per_job * ranks)
            each += f", on {len(own[0])} core{'s' * (len(own[0]) > 1)} of its own" if own else ""
            console.print(f"{sweep.design.study}: {begun}, {each}", markup=False, highlight=False, soft_wrap=True)
            with SweepDisplay(console, sweep, total, at_once) as view:
                number = Runner(
                    sweep,
                    folder,
                    ledger,
                    server,
                    view,
                    jobs=at_once,
                    threads=per_job,
                    gpus=visible,
                    cores=own,
                    retries=(0 if fail_fast else 1) if retries is None else retries,
                    fail_fast=fail_fast,
                    draw=None if searching.cells is not None else lambda entries: searching.ask(_done(entries)),
                    enough=(lambda entries: reached(sweep, entries)) if sweep.target is not None else None,
                    prune=_prune(sweep, folder),
                    watch=watch,
                    trunks=trunks,
                    stops=asked if stops is None else stops,
                ).run()
        entries = [entry for entry in ledger.entries() if entry.wanted]
        if sweep.trunk and all(entry.state in OVER for entry in entries):
            trunk.clear_all(entries, folder)
        stack.close()  # no process is left when the last word is said
    show_result(console, sweep, entries)
    for line in trunk.missed(trunks, entries, folder):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    _show_next(console, sweep, folder, entries, number)
    if number is not None:
        return 128 + number
    if reached(sweep, entries):
        console.print("the metric's target is reached: nothing else is begun", markup=False, highlight=False)
        return 0
    return 0 if _whole(sweep, entries) else 1


def _whole(sweep: Sweep, entries: Sequence[LedgerEntry]) -> bool:
    """Whether nothing failed or diverged; a tuning run may diverge, if its arm is compared all the same."""
    tuned = [entry for entry in entries if sweep.design.tunes(entry.pair)]
    compared = [entry for entry in entries if not sweep.design.tunes(entry.pair)]
    return (
        all(entry.state in ("finished", "pruned") for entry in compared)
        and all(entry.state in OVER for entry in tuned)
        and {entry.arm for entry in tuned} <= {entry.arm for entry in compared}
    )


def _shared(
    per_gpu: PerGpu,
    visible: Sequence[str],
    server: ForkServer,
    configs: Sequence[schema.RunConfig],
    threads: int | None,
    console: Console,
) -> int:
    """Trials at a time, so many on each GPU.

    Raises:
        ConfigError: there is none, or none is to be used.
    """
    if not visible:
        raise ConfigError(NO_GPU)
    if per_gpu == "auto":
        share = sharing.measure(server, memory.largest(configs), threads or DEFAULT_THREADS, visible[0])
        console.print(share.line(), markup=False, highlight=False, soft_wrap=True)
        per_gpu = share.trials
    return per_gpu * len(visible)


def dry_run(
    sweep: Sweep, console: Console, jobs: int | None = None, threads: int | None = None, per_gpu: int | None = None
) -> int:
    """Shows what the sweep would run, what it costs and what it can detect; writes nothing. Returns 0.

    Raises:
        ConfigError: a cell that no run could have.
    """
    searching = search.Search(sweep)
    import torch

    from gpt_lab.plan import dry_run as plan

    per_job = threads or DEFAULT_THREADS
    ranks = devices_each(sweep, searching)
    refuse_shared(per_gpu, ranks)
    visible = _gpus(torch.cuda.device_count(), ranks) if uses_gpu(sweep, searching.planned or ()) else []
    if per_gpu is not None and not visible:
        raise ConfigError(NO_GPU)
    at_once = jobs or len(visible) * (per_gpu or 1) or max(1, cores() // (per_job * ranks))
    plan.show(sweep, searching.planned, console, at_once, per_job, searching.tuner, visible)
    return 0


def devices_each(sweep: Sweep, searching: search.Search | None = None) -> int:
    """How many devices share a trial: cells that differ in nothing else are the same run, so all have as many."""
    searching = searching or search.Search(sweep)
    cells = searching.planned or searching.to_check()
    return cells_.configs(cells[:1])[0].gpus_per_trial if cells else 1


def refuse_shared(per_gpu: PerGpu | None, ranks: int) -> None:
    """Refuses trials that share a GPU where several GPUs share a trial."""
    if per_gpu is not None and ranks > 1:
        raise ConfigError(f"--per-gpu: each trial has {ranks} devices of its own: leave it out")


def uses_gpu(sweep: Sweep, cells: Sequence[Cell]) -> bool:
    """Whether any run may take a GPU where there is one."""
    words = [cell.overrides for cell in cells] or [sweep_file.fixed(sweep)]
    return not all("device=cpu" in overrides for overrides in words)


def gpus_here() -> bool:
    """Whether PyTorch finds a GPU on this machine."""
    import torch

    return torch.cuda.device_count() > 0


def _gpus(count: int, each: int = 1) -> list[str]:
    """What CUDA_VISIBLE_DEVICES is for each trial at a time, of the GPUs that this process may use; `each` for one."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    found = listed.split(",")[:count] if listed else [str(number) for number in range(count)]
    return [",".join(found[first : first + each]) for first in range(0, len(found) - each + 1, each)]


def _left(planned: Sequence[Cell] | None, entries: Sequence[LedgerEntry], folder: Path) -> list[Cell]:
    """Cells that are not over, as far as the ledger and the run folders say."""
    over = {entry.key for entry in entries if entry.state in OVER and is_there(entry, folder)}
    cells = planned if planned is not None else [entry.cell for entry in entries]
    return [cell for cell in cells if cell.key not in over]


def _ended(folder: Path) -> set[str]:
    """Identities of the runs of a study that have ended, whoever made them: a trial finds them and is over at once."""
    found = set()
    for path in folder.glob("*/run.json"):
        with contextlib.suppress(DataError, TypeError, AttributeError):
            record = read_json(path)
            if record.get("state") in ("finished", "diverged"):
                found.add(schema.identity(record["config"]))
    return found


def is_there(entry: LedgerEntry, folder: Path) -> bool:
    """Whether the run folder of an ended cell still holds what the ledger says."""
    if entry.run is None:
        return False
    try:
        state = read_json(folder / entry.run / "run.json").get("state")
    except DataError:
        return False
    return state in (("stopped", "finished") if entry.state == "pruned" else (entry.state,))


def _begin(
    ledger: Ledger, sweep: Sweep, searching: search.Search, entries: Sequence[LedgerEntry], watch: OwnerWatch | None
) -> None:
    """Brings the ledger up to date: cells of this file, trials of the dead, runs that were removed, failed ones."""
    ledger.begin(sweep, searching.cells, searching.kept(_done(entries)))
    ledger.bury((watch or OwnerWatch()).dead)
    gone = [e.key for e in ledger.entries() if e.wanted and e.state in OVER and not is_there(e, ledger.folder)]
    ledger.repeat(gone)
    ledger.revive(("stopped",) if ledger.others() else ("stopped", "failed"))


def _done(entries: Sequence[LedgerEntry]) -> list[asked.Done]:
    """What a search is told of the cells that it has asked for."""
    return [asked.Done(entry.index, entry.values, entry.state, entry.score, entry.key) for entry in entries]


def reached(sweep: Sweep, entries: Sequence[LedgerEntry]) -> bool:
    """Whether a run has come to the metric's target, should the file state one: then no other is begun."""
    target = sweep.target
    scores = [entry.score for entry in entries if entry.state == "finished" and entry.score is not None]
    if target is None or not scores:
        return False
    return bool(min(scores) <= target if sweep.design.goal == "minimize" else max(scores) >= target)


def _prune(sweep: Sweep, folder: Path) -> Prune | None:
    """The sweep's early_terminate. Runs of one arm and pair are compared with each other, never arms.

    With `tune` only its runs, each with those before it: what is pruned does not depend on time.
    """
    pruner = search.pruner(sweep)
    if pruner is None:
        return None
    ended: dict[str, list[tuple[int, float]]] = {}

    def curve(entry: LedgerEntry) -> list[tuple[int, float]]:
        if entry.key not in ended:
            tail = MetricsTail(folder / str(entry.run) / "metrics.jsonl", sweep.design.metric)
            tail.poll()
            ended[entry.key] = tail.curve
        return ended[entry.key]

    def prune(trial: Trial, running: Sequence[Trial], entries: Sequence[LedgerEntry]) -> bool:
        mine = trial.entry.arm, trial.entry.pair
        if sweep.design.tuning_pairs:
            before = [e for e in entries if e.wanted and (e.arm, e.pair) == mine and e.index < trial.entry.index]
            tuned = sweep.design.tunes(trial.entry.pair)
            return tuned and pruner.cut(trial.tail.curve, [curve(e) for e in before if e.run]) is not None
        others = [other.tail.curve for other in running if (other.entry.arm, other.entry.pair) == mine]
        others += [curve(e) for e in entries if e.wanted and (e.arm, e.pair) == mine and e.state in OVER and e.run]
        return pruner.prune(trial.tail.curve, others)

    return prune


def _show_next(
    console: Console, sweep: Sweep, folder: Path, entries: Sequence[LedgerEntry], number: int | None
) -> None:
    """The command that comes next."""
    line: str
    if number is not None:
        line = (
            f"stopped by {signals.name(number)}: finished runs and the checkpoints of the others are kept; "
            "the same command goes on from here"
        )
    elif any(entry.state in ("waiting", "stopped", "running") for entry in entries):
        line = "the same command goes on from here"
    elif any(entry.state == "failed" and sweep.design.tunes(entry.pair) for entry in entries):
        line = "the comparison waits for tuning runs that failed: the same command tries them again"
    elif records.is_noise(sweep.design.study):
        return  # `noise` says what null pairs tell
    else:
        line = f"what is better, and how surely:  {prefix()}report {report_target(sweep)}"
    said: dict[str, Any] = {"markup": False, "highlight": False, "soft_wrap": True}
    if late := trackers.lacking(folder / entry.run for entry in entries if entry.run is not None):
        console.print(f"W&B lacks {late} of the runs, or a part:  {prefix()}upload {shlex.quote(str(folder))}", **said)
    console.print(line, **said)
