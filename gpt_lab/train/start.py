"""Start of a run: checks before anything is written, and the claim of its folder."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from pathlib import Path

from rich.console import Console

from gpt_lab import trackers
from gpt_lab.config import auto_scale
from gpt_lab.config.schema import RunConfig
from gpt_lab.console.signals import Signals
from gpt_lab.console.terminal import Terminal
from gpt_lab.cost import memory_plan
from gpt_lab.data.dataset import open_dataset
from gpt_lab.errors import ConfigError
from gpt_lab.optim.schedule import check_length
from gpt_lab.store import Run
from gpt_lab.train import ending, run_display
from gpt_lab.train.begin_from import continuation, model_from
from gpt_lab.train.claim_run import claim
from gpt_lab.train.ending import Result
from gpt_lab.train.leak_probe import causality, padding
from gpt_lab.train.parallel.ranks import ALONE, Ranks
from gpt_lab.train.resolve_auto import check_size, resolve
from gpt_lab.train.trainer import Trainer


def run_training(
    cfg: RunConfig,
    console: Console | None = None,
    command: str = "",
    started: Callable[[Run], None] | None = None,
    trunk: Path | None = None,
    forks: Collection[int] = (),
    asked: Signals | None = None,
    ranks: Ranks = ALONE,
) -> Result:
    """Trains what `cfg` describes, or resumes it, or says that it is done already.

    Args:
        console: where progress goes; None: standard output.
        command: the command line, for the record and the hints at the end.
        started: called with the run once this process holds its lock.
        trunk: a fork point (store/fork.py) that a new run may begin from.
        forks: steps at which this run leaves one for others.
        asked: hears the signals that ask it to leave; None: a later one ends the process at once.
        ranks: those that share the run, of which this process is the first.

    Raises:
        ConfigError, DataError: what is asked for cannot be trained here, or its loss would mean nothing.
        LabError: the run folder cannot be written, another process trains this run, memory is too small.
    """
    console = console or Terminal()
    if cfg.gpus_per_trial != ranks.number:
        raise ConfigError(
            f"gpus_per_trial={cfg.gpus_per_trial}: only the command train starts so many processes: leave it out"
        )
    trackers.check(cfg.tracker)
    check_size(cfg)
    if cfg.budget.steps is not None:  # of the other budgets the data tell how many steps they are
        check_length(cfg.schedule, cfg.budget.steps)
    auto_scale.show(cfg, console)
    with run_display.preparing(console) as progress:
        dataset = open_dataset(cfg, progress)
    say = functools.partial(console.print, markup=False, highlight=False, soft_wrap=True)
    for warning in dataset.warnings:
        say(f"warning: {warning}")
    plan = resolve(cfg, dataset)
    for note in (*plan.notes, *memory_plan.lines(cfg, dataset.vocab_size, plan.cost.parameters)):
        say(note)
    causality.check(cfg, dataset.vocab_size, plan.device, plan.precision)
    padding.check(cfg)
    origin = continuation.find(cfg, dataset.vocab_size) or model_from.find(cfg, dataset)
    run = claim(cfg, plan, command, trunk, say, origin)
    with run.lock(), asked or Signals() as asked:
        run = Run.open(run.path)  # as the last process that held the lock left it
        if started is not None:
            started(run)
        if run.state in ("finished", "diverged") and not cfg.force:
            return ending.already_done(run, cfg, console)
        if cfg.force and (run.state != "running" or run.metrics()):
            run.restart()
        ranks.announce("begin", plan.resolved)
        return Trainer(cfg, plan, dataset, run, console, asked, command, forks, origin, ranks).run_to_end()
