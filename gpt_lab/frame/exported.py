"""A study read back from the runs.csv that a report wrote."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pandas as pd

from gpt_lab.frame.export import CSV
from gpt_lab.frame.study import Study
from gpt_lab.study.sweep import Sweep

TEXTS = ("pair", "arm", "tuning", "error")


def read(sweep: Sweep, folder: Path, metric: str = "") -> Study:
    """The runs of a sweep as its report was made from them, without curves.

    Args:
        folder: of the report. metric: that the runs are scored by; "": the one that decides.

    Raises:
        OSError: there is no runs.csv.
    """
    design = sweep.design
    runs = pd.read_csv(folder / CSV, dtype=dict.fromkeys(TEXTS, "str"), low_memory=False)
    words = list(TEXTS)
    runs[words] = runs[words].astype(object).where(runs[words].notna(), "")
    arms = {design.arm(row) for row in sweep.combinations()}
    runs["arm"] = runs["arm"].map({str(arm): arm for arm in arms})
    tuned = runs[[f"config.{key}" for key in design.nuisance]].rename(columns=lambda column: column[7:])
    runs["tuning"] = [design.tuning(row) for row in tuned.to_dict("records")]
    if metric:
        design = dataclasses.replace(design, metric=metric)
        runs["score"] = runs[f"summary.{metric}"]
    return Study(design, runs)
