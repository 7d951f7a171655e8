"""What rules and other parts of the report measure in runs: what they say, uneven speeds, the bigram floor."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from gpt_lab import metrics
from gpt_lab.frame.paired_scores import Paired
from gpt_lab.stats.paired import paired_t
from gpt_lab.study.design import Design, Settings

APART = 0.1
"""Relative difference of training FLOPs per second from which on two arms did not have the machine alike."""
SURE = 0.05
"""p-value below which a difference of speeds is no noise."""


def says(runs: pd.DataFrame, column: str) -> pd.Series[bool]:
    """Of runs, those of which a column says something, in words."""
    if column not in runs:
        return pd.Series(False, index=runs.index)
    return runs[column].map(lambda text: isinstance(text, str) and text != "").astype(bool)


def taught(used: pd.DataFrame) -> list[tuple[Settings, str]]:
    """Of each arm that learns from a teacher: what that costs, in words."""
    column = "summary.teacher/flops"
    if column not in used or "flops" not in used:
        return []
    found = []
    for arm, own in used[used[column].notna()].groupby("arm", sort=False):
        share = float((own[column].astype(float) / own["flops"].astype(float)).median())
        training = own.get("summary.teacher/train_flops", pd.Series(dtype=float)).dropna()
        more = f", and {float(training.median()):.3g} FLOPs trained it before" if len(training) else ""
        found.append((arm, f"a teacher's forward pass is {share:.0%} of the training FLOPs{more}"))
    return found


def uneven(used: pd.DataFrame, baseline: Settings) -> dict[Settings, str]:
    """Of each arm whose training FLOPs per second differ from the baseline's beyond noise: by how much, in words."""
    if not {"tokens_per_s", "train_flops_per_token"} <= set(used.columns):
        return {}
    rate = np.log(used["tokens_per_s"].astype(float) * used["train_flops_per_token"].astype(float))
    table = pd.DataFrame({"arm": used["arm"], "pair": used["pair"], "rate": rate}).pivot_table(
        index="arm", columns="pair", values="rate", dropna=False
    )
    if baseline not in table.index:
        return {}
    said = {}
    for arm in table.index:
        apart = (table.loc[arm] - table.loc[baseline]).to_numpy(float)
        known = apart[np.isfinite(apart)]
        if arm == baseline or not len(known):
            continue
        fit = paired_t([known])
        sure = len(known) < 2 or not fit.p()[0] > SURE
        if abs(known.mean()) > math.log1p(APART) and sure:
            said[arm] = (
                f"{math.exp(known.mean()):.2f} times the baseline's training FLOPs per second: a machine that was "
                "busy, or another efficiency"
            )
    return said


def above_floor(used: pd.DataFrame, paired: Paired, design: Design) -> str:
    """That no arm is below its corpus's bigram floor in bits per byte, whichever metric decides; empty where one is.

    Empty, too, where no floor is known.
    """
    column = metrics.beside_floors(design.metric)
    if not {"floor_bigram", column} <= set(used.columns) or not len(used):
        return ""
    floor = float(used["floor_bigram"].astype(float).median())
    if column == "score":
        with np.errstate(invalid="ignore"):
            means = [row[~np.isnan(row)].mean() for row in paired.scores if (~np.isnan(row)).any()]
    else:
        means = used[column].astype(float).groupby(used["arm"]).mean().dropna().tolist()
    if not math.isfinite(floor) or not means or min(means) < floor:
        return ""
    return f"every arm is above the bigram floor of the corpus ({floor:.3f}): counting pairs of tokens does better"
