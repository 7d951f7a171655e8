"""Run folder of a sweep, and the target by which `report` finds it."""

from __future__ import annotations

import re
from pathlib import Path

from gpt_lab.study import cells as cells_
from gpt_lab.study import sweep_file
from gpt_lab.study.sweep import Sweep

PLAIN = re.compile(r"""runs_dir=(["']?)((?:[\w.-]*/)+[\w.-]*)\1""", re.ASCII)
"""A path that stands for itself: to import Hydra, which knows its quotes and escapes, takes a quarter of a second."""


def runs_folder(sweep: Sweep) -> Path:
    """`runs_dir/<study>` of a sweep."""
    given = [text for text in sweep_file.fixed(sweep) if text.startswith("runs_dir=")]
    plain = PLAIN.fullmatch(given[-1]) if given else None
    return Path(plain[2] if plain else cells_.composer().tree(given)["runs_dir"]) / sweep.design.study


def report_target(sweep: Sweep) -> Path:
    """What `report` is given to find the runs of a sweep: its file, or their folder where settings were added."""
    return runs_folder(sweep) if sweep.overrides else sweep.path
