"""`lab.report(...)`: what `report` says of a study, in one call."""

from __future__ import annotations

import os
from typing import Unpack

from gpt_lab.notebook.report_view import ReportView
from gpt_lab.notebook.study import ReportOptions, study


def report(
    *targets: str | os.PathLike[str],
    runs_dir: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    **options: Unpack[ReportOptions],
) -> ReportView:
    """What `report` says of a study: lab.study(...).compare(...), and its files where `out` names a folder.

    Raises:
        ConfigError, DataError: as lab.study and its compare. LabError: a file cannot be written.
    """
    view = study(*targets, runs_dir=runs_dir).compare(**options)
    if out is not None:
        view.write(out)
    return view
