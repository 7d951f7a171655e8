"""Runs of the store: one run.json each, the sweep's ledger where there is one, curves only when asked for."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt_lab.config import schema
from gpt_lab.console.lines import count_of, some
from gpt_lab.errors import DataError, LabError
from gpt_lab.frame.sources.source import Source, Wanted, columns, row
from gpt_lab.store import Run
from gpt_lab.store.known_settings import Checked, KnownSettings
from gpt_lab.store.lock import Lock
from gpt_lab.store.run import read_record

if TYPE_CHECKING:
    import pandas as pd

    from gpt_lab.sweep.ledger.entry import LedgerEntry

OWN = frozenset({"report", "logs", "wandb"})
"""Folders of a study that are no runs."""
KILLED = "killed while running: the same command resumes it"
AXES = ("step", "tokens", "flops", "seconds")


def load(studies: Sequence[Path], runs: Sequence[Path] = ()) -> Source:
    """The runs in study folders and the single ones named, and what the studies' ledgers asked for.

    Raises:
        DataError: a study folder cannot be read.
    """
    notes: list[str] = []
    paths = [str(path) for path in runs]
    for study in studies:
        paths += [path for path in _folders(study, notes) if path not in paths]
    known = KnownSettings()
    rows = [r for path in paths if (r := _read(path, notes, known)) is not None]
    source = Source(rows, functools.partial(curves, notes=notes), notes=notes, samples=samples)
    for study in studies:
        _add_ledger(source, study, alone=len(studies) == 1)
    return source


def curves(runs: Sequence[str], notes: list[str] | None = None) -> Mapping[str, pd.DataFrame]:
    """metrics.jsonl of the runs asked for: one line per step, its last values; a run without lines has an empty table.

    Args:
        notes: takes one sentence on each run of which lines, values or the whole file cannot be used.

    Raises:
        DataError: a file is there but cannot be read, and no notes are taken.
    """
    import numpy as np
    import pandas as pd

    found = {}
    for run in runs:
        try:
            lines, said = Run(Path(run), {}).read_metrics()
        except DataError as error:
            if notes is None:
                raise
            lines, said = [], f"{error}: the run's curve is left out"
        values = columns(lines, math.nan)
        order = [key for key in AXES if key in values] + [key for key in values if key not in AXES]
        found[run] = pd.DataFrame({key: np.array(values[key]) for key in order})
        if notes is not None and said and said not in notes:
            notes.append(said)
    return found


def samples(runs: Sequence[str]) -> Mapping[str, tuple[int, str]]:
    """Step and text of the last sample of each run that has one."""
    found = {run: Run(Path(run), {}).last_sample() for run in runs}
    return {run: sample for run, sample in found.items() if sample is not None}


def _folders(study: Path, notes: list[str]) -> list[str]:
    try:
        with os.scandir(study) as entries:
            paths = sorted(e.path for e in entries if e.is_dir() and not e.name.startswith(".") and e.name not in OWN)
    except OSError as error:
        raise DataError(f"cannot read {study}: {error.strerror}") from error
    whole, torn = [], []
    for path in paths:
        if os.path.exists(f"{path}/run.json"):
            whole.append(path)
        elif any(os.path.exists(f"{path}/{name}") for name in ("config.yaml", "metrics.jsonl", "checkpoints")):
            torn.append(os.path.basename(path))
    if torn:
        notes.append(f"{count_of(len(torn), 'folder')} of {study} without run.json left out: {some(torn, 5)}")
    return whole


def _read(path: str, notes: list[str], known: KnownSettings) -> dict[str, Any] | None:
    """A run folder as a row; None, with a note, if its run.json cannot be used."""
    try:
        record, said = read_record(path, known.parse)
        config = record.get("config")
        if not config:
            raise DataError(f"{path}/run.json is not that of a run: it has no config")
        if not isinstance(config, Checked) and (wrong := schema.misfit(config)):
            raise DataError(f"{path}/run.json is not that of a run: {wrong}")
    except DataError as error:
        notes.append(f"{path} left out: {error}")
        return None
    notes += [said] if said else []
    return _row(path, record, config, record["summary"], record["state"])


def _row(
    path: str, record: dict[str, Any], config: dict[str, Any], summary: dict[str, Any], state: str
) -> dict[str, Any]:
    error = ""
    if state == "running" and Lock(Path(path, "lock")).holder() is None:
        state, error = "stopped", KILLED
    elif state == "failed":
        error = (str(record.get("error") or "").strip().splitlines() or ["failed"])[-1]
    elif state == "diverged":
        error = f"diverged at step {summary.get('diverged/step', '?')}"
    elif state == "stopped":
        error = f"stopped at step {summary.get('steps', '?')}: the same command resumes it"
    git, hardware = record.get("git") or {}, record.get("hardware") or {}
    packages = record.get("packages") or {}
    env = {
        **{key: hardware.get(key) for key in ("cpu", "gpu", "gpus", "cores", "threads", "system")},
        **(record.get("resolved") or {}),
        **(record.get("text") or {}),
        "command": record.get("command"),
        "commit": git.get("commit"),
        "dirty": git.get("dirty"),
        "changes": git.get("changes"),
        "code": record.get("code"),
        "started": record.get("started"),
        "finished": record.get("finished"),
        "packages": ", ".join(f"{name} {version}" for name, version in packages.items()),
    }
    folder, name = os.path.split(path)
    study = os.path.basename(folder) or str(record.get("study", ""))
    return row(path, "local", study, name, state, config, summary, error=error, costs=record, env=env)


def _add_ledger(source: Source, study: Path, alone: bool) -> None:
    """What a study's sweep asked for; several studies are joined only if their sweeps compare the same settings."""
    if not (study / "sweep.sqlite").is_file():
        return
    from gpt_lab.sweep.ledger import ledger

    try:
        sweep, entries = ledger.stored_sweep(study), ledger.entries(study)
    except LabError as error:
        source.notes.append(f"the ledger of {study} was not used: {error}")
        return
    if sweep is None:
        return
    if source.sweep is None:
        source.sweep, source.stated = sweep, ledger.stated(study)
    elif _shape(sweep.design) != _shape(source.sweep.design):
        source.notes.append(f"the sweep of {study} compares other settings: its ledger was not used")
        return
    wanted = [_wanted(study, entry) for entry in entries if entry.wanted]
    source.wanted = [*(source.wanted or []), *wanted]
    source.every += [_wanted(study, entry) for entry in entries]
    if alone and (old := len(entries) - len(wanted)):
        belong = "1 run belongs" if old == 1 else f"{old} runs belong"
        source.notes.append(f"{belong} to an earlier version of the sweep file: left out")


def _shape(design: Any) -> tuple[Any, ...]:
    return design.factors, design.nuisance, design.pair, design.metric, design.goal


def _wanted(study: Path, entry: LedgerEntry) -> Wanted:
    run = None if entry.run is None else str(study / entry.run)
    return Wanted(entry.key, entry.values, entry.identity, entry.state, run, entry.error or "")
