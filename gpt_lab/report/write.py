"""From places to a report: the table in the terminal, then every file, each whole or not there."""

from __future__ import annotations

import tempfile
from pathlib import Path

from rich.console import Console

from gpt_lab.errors import DataError
from gpt_lab.report import facts, frame, table
from gpt_lab.report.compare import compare
from gpt_lab.report.figures import draw
from gpt_lab.report.targets import Options, Places
from gpt_lab.report.types import Comparison
from gpt_lab.store.files import write_atomic, writing


def report(
    places: Places, options: Options, console: Console, command: str, *, out: Path | None, files: bool, push: bool
) -> None:
    """Reads, compares, shows and writes.

    Args:
        command: the command line, to be repeated. out: folder of the files; None: the study's `report/`.
        files: write report.md, report.html, runs.csv, runs.parquet and figures/. push: also log to W&B.

    Raises:
        ConfigError: a metric, setting or baseline that does not exist.
        DataError: no finished run, or runs that cannot be read. LabError: a file cannot be written.
    """
    study = frame.read(places, options)
    if not (study.runs["state"] == "finished").any():
        raise DataError(_unfinished(study))
    comparison = compare(study, tier=options.tier)
    table.show(comparison, study, console)
    if files:
        folder = out or folder_of(places)
        for path in write(comparison, study, folder, command):
            console.print(f"wrote {path}", markup=False, highlight=False, soft_wrap=True)
    if push:
        from gpt_lab.report.wandb_push import push as log

        with tempfile.TemporaryDirectory() as temporary:
            figures = draw(comparison, study, Path(temporary))
            console.print(log(comparison, study, figures), markup=False, highlight=False, soft_wrap=True)


def write(comparison: Comparison, study: frame.Loaded, folder: Path, command: str) -> list[Path]:
    """Writes every file of a report into a folder (made if missing); returns the paths, the page first.

    Raises:
        LabError: the folder or a file cannot be written.
    """
    from gpt_lab.report.export import export
    from gpt_lab.report.markdown import markdown
    from gpt_lab.report.page import page

    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    figures = draw(comparison, study, folder / "figures")
    html, text = folder / "report.html", folder / "report.md"
    write_atomic(html, page(comparison, study, figures, study.sweep, command).encode("utf-8", "replace"))
    write_atomic(text, markdown(comparison, study, figures, study.sweep, command).encode("utf-8", "replace"))
    return [html, text, *export(study, folder), *([folder / "figures"] if figures else [])]


def folder_of(places: Places) -> Path:
    """Where a report's files go unless the user says: into the study's folder."""
    study = places.studies[0] if len(places.studies) == 1 else places.runs_dir / places.name
    return study / "report"


def _unfinished(study: frame.Loaded) -> str:
    """One line: nothing to compare yet, and what to do about it."""
    wrong = next((one for one in facts.lost(study) if one.state in ("failed", "diverged")), None)
    said = f"; {wrong}" if wrong else ""
    way = "wait for it, or resume it with the same command"
    if study.sweep is not None:
        way = f"`uv run sweep {study.sweep.path}` goes on with it"
    return f"no run of {study.design.study} has finished yet ({facts.counts(study)}{said}): {way}"
