"""Report files: from places to an answer, from an answer to files, each whole or not there."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from gpt_lab.analysis.compare import compare
from gpt_lab.analysis.comparison import Comparison
from gpt_lab.console.invocation import prefix
from gpt_lab.errors import DataError
from gpt_lab.frame import load
from gpt_lab.frame.places import Places, StudyOptions
from gpt_lab.frame.study import Study
from gpt_lab.report import facts
from gpt_lab.report.figures import Figure, draw
from gpt_lab.report.tables import Report
from gpt_lab.store.atomic_files import write_atomic, writing


def answer(places: Places, options: StudyOptions) -> tuple[Comparison, load.Loaded]:
    """Reads the runs and compares them.

    Raises:
        ConfigError: a metric, setting or baseline that does not exist.
        DataError: no finished run, or runs that cannot be read.
    """
    study = load.read(places, options)
    return judged(study, options), study


def judged(study: Study, options: StudyOptions) -> Comparison:
    """The comparison of a study that was read with these options.

    Raises:
        ConfigError: as compare. DataError: no finished run.
    """
    if not (study.runs["state"] == "finished").any():
        raise DataError(_unfinished(study))
    found = compare(study, tier=options.tier)
    return replace(found, notes=(*found.notes, *found.details)) if options.details else found


def publish(report: Report, console: Console, command: str, folder: Path | None, push: bool) -> None:
    """Writes the files, logs to W&B, and says where.

    Args:
        command: the command line, to be repeated.
        folder: gets report.html, report.md, runs.csv, runs.parquet and figures/; None: no files.
        push: also log the table and the figures to W&B.

    Raises:
        LabError: a file cannot be written, or W&B refuses.
    """
    comparison, study = report.comparison, report.study
    told = len(study.notes)
    with tempfile.TemporaryDirectory() as temporary:
        figures = figure_files(comparison, study, folder or Path(temporary))
        if folder is not None:
            for path in write(report, figures, folder, command):
                _print_line(console, f"wrote {path}")
        if push:
            from gpt_lab.report.wandb_push import push as log

            _print_line(console, log(comparison, study, figures))
    for note in study.notes[told:]:  # on the curves, which were not read before
        _print_line(console, note)


def figure_files(comparison: Comparison, study: Study, folder: Path) -> list[Figure]:
    """Draws into `folder`/figures, which is made if missing.

    Raises:
        LabError: the folder cannot be written.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return draw(comparison, study, folder / "figures")


def write(report: Report, figures: Sequence[Figure], folder: Path, command: str) -> list[Path]:
    """Writes every file of a report beside its `figures/`; returns the paths, the page first.

    Raises:
        LabError: a file cannot be written.
    """
    from gpt_lab.frame.export import export
    from gpt_lab.report.markdown import markdown
    from gpt_lab.report.page import page

    html, text = folder / "report.html", folder / "report.md"
    write_atomic(html, page(report, figures, command).encode("utf-8", "replace"))
    write_atomic(text, markdown(report, figures, command).encode("utf-8", "replace"))
    return [html, text, *export(report.study, folder), *([folder / "figures"] if figures else [])]


def _print_line(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def _unfinished(study: Study) -> str:
    """One line: nothing to compare yet, and what to do about it."""
    wrong = next((one for one in facts.lost(study) if one.state in ("failed", "diverged")), None)
    said = f"; {wrong}" if wrong else ""
    way = "wait for it, or resume it with the same command"
    if study.sweep is not None:
        way = f"`{prefix()}sweep {study.sweep.path}` goes on with it"
    return f"no run of {study.design.study} has finished yet ({facts.counts(study)}{said}): {way}"
