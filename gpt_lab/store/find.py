"""Lookup of runs by name, signature or result."""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gpt_lab import metrics
from gpt_lab.console.invocation import prefix
from gpt_lab.errors import DataError
from gpt_lab.store.run import Run, read_record


def all_runs(
    runs_dir: str | os.PathLike[str], study: str | None = None, left_out: dict[Path, str] | None = None
) -> list[Run]:
    """Every readable run of one study, or of all, oldest update first.

    Args:
        left_out: takes, by folder, one line on each run.json that cannot be used, or not all of it.
    """
    root = Path(runs_dir)
    studies = [root / study] if study is not None else folders(root)
    paths = (path for folder in studies for path in folders(folder))
    return sorted((run for path in paths if (run := _readable(path, left_out)) is not None), key=_age)


def find_run(runs_dir: str | os.PathLike[str], spec: str, left_out: dict[Path, str] | None = None) -> Run:
    """The run that a user means.

    Args:
        spec: a run's folder; "latest"; a study (its best run); "<study>/best", "<study>/latest" or "<study>/<run>";
            a run's name, if only one study has it.
        left_out: as in `all_runs`, of the runs that the answer was chosen from.

    Raises:
        DataError: no such run, several, or none with a result; the line offers the closest names.
    """
    if (Path(spec) / "run.json").exists():
        return Run.open(spec)
    bad: dict[Path, str] = {}
    runs = all_runs(runs_dir, left_out=bad)
    study, _, wanted = spec.rstrip("/").partition("/")
    for path, line in bad.items():
        if spec in (path.name, f"{path.parent.name}/{path.name}") and path not in {run.path for run in runs}:
            return Run.open(path)  # which says why not
        if left_out is not None and (spec == "latest" or path.parent.name == study):
            left_out[path] = line
    if not runs:
        raise DataError(f"no runs in {runs_dir} yet: `{prefix()}train` makes one (runs_dir=... looks elsewhere)")
    if spec == "latest":
        return runs[-1]
    members = [run for run in runs if run.study == study]
    if members and wanted in ("", "best"):
        return best(members)
    if members and wanted == "latest":
        return members[-1]
    matches = [run for run in (members if wanted else runs) if run.name == (wanted or spec)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        places = ", ".join(f"{run.study}/{run.name}" for run in matches)
        raise DataError(f"run {spec!r} is in several studies: write one of {places}")
    names = {"latest"} | {run.study for run in runs} | {run.name for run in runs}
    names |= {f"{run.study}/{run.name}" for run in runs}
    close = difflib.get_close_matches(spec, sorted(names), n=3, cutoff=0.5)
    offer = f"did you mean {', '.join(close)}?" if close else "write latest, <study>, <study>/<run> or a run's folder"
    raise DataError(f"no run {spec!r} in {runs_dir} ({len(runs)} there): {offer}")


def best(runs: Iterable[Run]) -> Run:
    """The run with the lowest final bits per byte (validation loss where there is none).

    Raises:
        DataError: none has a final, finite result.
    """
    candidates = list(runs)
    for metric in (metrics.HEADLINE, metrics.WITHOUT_TEXT):
        scored = [(score, run) for run in candidates if (score := _number(run.summary.get(metric))) is not None]
        if scored:
            return min(scored, key=lambda pair: pair[0])[1]
    study = candidates[0].study if candidates else "the study"
    raise DataError(f"no run of {study} has finished with a validation result: ask for {study}/latest instead")


def find_signature(runs_dir: str | os.PathLike[str], study: str, signature: str) -> Run | None:
    """The run of a study with this signature (the latest, should a copied folder make two); None if there is none.

    Only records that hold its text are parsed: every trial of a sweep looks through all those before it.
    """
    matches = [
        run
        for path in folders(Path(runs_dir) / study)
        if _mentions(path / "run.json", signature)
        and (run := _readable(path)) is not None
        and run.record.get("signature") == signature
    ]
    return max(matches, key=_age) if matches else None


def unreadable(study: Path, name: str) -> list[str]:
    """One line on each folder of a study named so, with or without a number, that holds a run which cannot be read."""
    bad: dict[Path, str] = {}
    named = (path for path in folders(study) if re.fullmatch(rf"{re.escape(name)}(-\d+)?", path.name))
    return [bad[path] for path in named if _readable(path, bad) is None and path in bad]


def _mentions(path: Path, text: str) -> bool:
    try:
        return text.encode() in path.read_bytes()
    except OSError:
        return False


def _age(run: Run) -> tuple[str, str]:
    return str(run.record.get("updated", "")), run.name


def folders(root: Path) -> list[Path]:
    """The folders in a folder, hidden ones left out, by name; none where there is no such folder.

    Raises:
        DataError: it cannot be read.
    """
    try:
        with os.scandir(root) as entries:
            names = sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise DataError(f"cannot read {root}: {error.strerror}") from error
    return [root / name for name in names]


def _readable(path: Path, left_out: dict[Path, str] | None = None) -> Run | None:
    """The run in a folder; None for a folder that holds none, or one that cannot be used."""
    if not (path / "run.json").exists():
        return None
    try:
        record, said = read_record(path)
    except DataError as error:
        record, said = None, f"{error}: the run is left out"
    if said and left_out is not None:
        left_out[path] = said
    return None if record is None else Run(path, record)


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) and math.isfinite(value) else None
