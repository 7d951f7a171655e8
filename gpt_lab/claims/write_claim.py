"""Writes the folder of a claim: the report and what it takes to check it."""

from __future__ import annotations

from pathlib import Path

from gpt_lab.claims import folder as folders
from gpt_lab.claims.content import content
from gpt_lab.frame.load import Loaded
from gpt_lab.report import write
from gpt_lab.report.tables import Report


def write_claim(report: Report, study: Loaded, folder: Path, name: str, command: str, force: bool = False) -> None:
    """Writes the claim of a comparison, whole or not at all.

    Args:
        folder: as folder.new_folder gave it. command: the command line that makes the claim.
        force: replace the claim that stands there.

    Raises:
        ConfigError: no baseline is stated.
        LabError: it cannot be written.
    """
    found = content(report.comparison, study, name, command)

    def fill(temporary: Path) -> None:
        for path, data in found.files.items():
            folders.write_file(temporary, path, data)
        figures = write.figure_files(report.comparison, study, temporary)
        write.write(report, figures, temporary, command)

    folders.write(folder, found.claim, fill, force)
