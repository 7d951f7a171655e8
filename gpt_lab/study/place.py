"""Where the runs of a sweep are, and how a report finds them."""

from __future__ import annotations

from pathlib import Path

from gpt_lab.study import cells as cells_
from gpt_lab.study import sweep_file
from gpt_lab.study.sweep import Sweep


def folder_of(sweep: Sweep) -> Path:
    """`runs_dir/<study>` of a sweep."""
    given = [text for text in sweep_file.fixed(sweep) if text.startswith("runs_dir=")]
    return Path(cells_.composer().tree(given)["runs_dir"]) / sweep.design.study


def named(sweep: Sweep) -> Path:
    """What `report` is given to find the runs of a sweep: its file, or their folder where settings were added."""
    return folder_of(sweep) if sweep.overrides else sweep.path
