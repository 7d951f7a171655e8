"""`--status` and `--stop`: what a study's ledger says of its workers, and how they are told to leave."""

from __future__ import annotations

import contextlib
from pathlib import Path

from gpt_lab.errors import DataError
from gpt_lab.plan import run_time
from gpt_lab.study.sweep import Sweep
from gpt_lab.sweep.engines.worker_request import WORKERS
from gpt_lab.sweep.ledger import ledger, overview
from gpt_lab.sweep.ledger.liveness import LISTEN_EVERY
from gpt_lab.sweep.trial import title

MOST = 20
"""Failures that are shown one by one."""
TAIL = 4096


def status(sweep: Sweep, folder: Path) -> list[str]:
    """Trials by state, who works on what, rate and time left, failures; without a ledger what workers last said.

    Raises:
        Damaged, LabError: as `overview.read`.
    """
    found = overview.read(folder)
    if found is None:
        return [f"{sweep.design.study}: no trial yet", *_last_words(folder)]
    states = ", ".join(f"{count} {state}" for state, count in found.counts.items() if count)
    lines = [f"{sweep.design.study}: {sum(found.counts.values())} trials: {states or 'none'}"]
    for worker in found.workers:
        who = f"{worker.owner.machine}, process {worker.owner.pid}"
        if worker.gone:
            lines.append(f"  {who}: gone; whoever works on takes its {len(worker.running)} trials")
            continue
        doing = "; ".join(title(entry, sweep.design) for entry in worker.running) or "no trial at present"
        lines.append(f"  {who}, heartbeat {worker.beat}: {doing}")
    if found.seconds is not None and found.at_work:
        lines.append(f"rate: about {3600 * found.at_work / found.seconds:.4g} trials an hour")
    left = found.remaining()
    if left:
        lines.append(f"time left: about {run_time.shown(left)} of training with these workers")
    elif found.left and not found.at_work:
        lines.append("nobody trains at present")
        lines += [] if found.workers else _last_words(folder)
    lines += [f"  {title(e, sweep.design)}: {e.state}: {_last_line(e.error)}" for e in found.failed[:MOST]]
    if len(found.failed) > MOST:
        lines.append(f"  and {len(found.failed) - MOST} others that failed")
    return lines


def stop(sweep: Sweep, folder: Path) -> list[str]:
    """Has all workers write checkpoints and leave; returns what to tell the user.

    Raises:
        DataError: no worker was ever started there.
    """
    found = overview.read(folder)
    if found is None and not (folder / WORKERS).is_dir():
        raise DataError(f"{folder} has no ledger yet: no worker has begun a trial there")
    with contextlib.closing(ledger.Ledger.open(folder)) as opened:
        opened.ask_to_stop()
    there = 0 if found is None else sum(not worker.gone for worker in found.workers)
    if not there:
        return [f"nobody works on {sweep.design.study}; workers that are queued leave as soon as they begin"]
    return [f"asked {there} worker{'s' * (there > 1)} to leave: they hear of it within {LISTEN_EVERY:.0f} s"]


def _last_words(folder: Path) -> list[str]:
    lines = []
    for log in sorted((folder / WORKERS).glob("*.log"))[-MOST:]:
        with open(log, "rb") as file:
            file.seek(max(0, file.seek(0, 2) - TAIL))
            text = file.read().decode("utf-8", "replace")
        lines.append(f"  {log.name}: {_last_line(text)}")
    return lines


def _last_line(text: str | None) -> str:
    return next((line.strip() for line in reversed((text or "").splitlines()) if line.strip()), "it said nothing")
