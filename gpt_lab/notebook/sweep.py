"""`lab.sweep("sweeps/pos_enc.yaml")`: what is left of a sweep, trained in worker processes."""

from __future__ import annotations

import os
import sys
from typing import Any

from gpt_lab.notebook.study import StudyView, study
from gpt_lab.notebook.train import to_overrides
from gpt_lab.options import PositiveInt, check
from gpt_lab.study import place, sweep_file


def sweep(
    file: str | os.PathLike[str],
    *overrides: str,
    seeds: int | None = None,
    jobs: int | None = None,
    threads: int | None = None,
    **settings: Any,
) -> StudyView:
    """Trains each cell of a sweep file exactly once, and returns the study; a cell that fails is one of its rows.

    Args:
        overrides, settings: of every cell, as in lab.train.
        seeds: how many values of the pairing setting; None: the file's own.
        jobs: trials at a time; None: one per GPU, else as many as there are cores. threads: CPU threads of each.

    Raises:
        ConfigError: a sweep file or setting that cannot be; the line names the closest.
        LabError: the study's folder cannot be written.
        KeyboardInterrupt: it was interrupted; the same call goes on.
    """
    from gpt_lab.console.terminal import Terminal
    from gpt_lab.sweep import runner

    for key, number in (("seeds", seeds), ("jobs", jobs), ("threads", threads)):
        if number is not None:
            check(key, number, PositiveInt)
    found = sweep_file.load(os.fspath(file), to_overrides(overrides, settings))
    if seeds is not None:
        found = sweep_file.with_seeds(found, seeds)
    status = runner.run_sweep(found, Terminal(file=sys.stdout, force_jupyter=False), jobs, threads)
    if status > 128:
        raise KeyboardInterrupt
    return study(place.report_target(found))
