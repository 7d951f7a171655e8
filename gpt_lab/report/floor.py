"""The noise floor of a study: null pairs of its baseline that the noise ledger has, and what they say in the report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from gpt_lab.report import stats
from gpt_lab.report.stats import Array
from gpt_lab.report.types import Interval, Row
from gpt_lab.sweep import noise, null
from gpt_lab.sweep.design import Design
from gpt_lab.sweep.noise import Noise
from gpt_lab.sweep.power import NOISE_DF


def find(
    rows: Sequence[Mapping[str, Any]], baseline: Sequence[str], design: Design, runs_dirs: Sequence[Path]
) -> Noise | None:
    """The usable null pairs of the baseline's recipe, computed as its runs were; None if there are none.

    Args:
        rows: of all the study's runs (report/source.py): seeds that one of them has do not count, so that what null
            pairs tell is independent of the study.
        baseline: names of the baseline's runs that are compared.
        runs_dirs: where to look.
    """
    names = set(baseline)
    mine = [r for r in rows if r["run"] in names and r["config"]]
    recipes = {noise.recipe(r["config"]): r["config"] for r in mine}
    ways = {tuple(r["env"].get(key) for key in noise.RESOLVED) for r in mine}
    if design.pair != null.PAIR or len(recipes) != 1 or len(ways) != 1:
        return None
    ((config,), (way,)) = recipes.values(), ways
    taken = {r["config"].get(null.PAIR) for r in rows}
    resolved = dict(zip(noise.RESOLVED, way, strict=True))
    folders = (noise.folder_of(place, config) for place in runs_dirs)
    found = [noise.find(folder, design.metric, resolved, taken) for folder in folders]
    return max((one for one in found if one is not None), key=lambda one: one.pairs, default=None)


def interval(
    differences: Array, runs: int, variance: float, *, screen: bool, alpha: float, noise: Noise | None
) -> Interval:
    """The interval of an arm that equals the baseline, with as many pairs as the arms have.

    By null pairs where there are any, else by the arms' own differences, else by the baseline's runs as if unpaired.

    Args:
        differences: (arms, pairs) to the baseline, NaN where one is missing.
        runs, variance: of the baseline's scores.
        screen: whether any arm is judged by a pooled variance.
    """
    pairs = (~np.isnan(differences)).sum(1)
    counted = pairs[pairs >= 2]
    n, spread, df = runs, 2 * variance, runs - 1.0
    if noise is not None:
        n = int(np.median(counted)) if len(counted) else runs
        spread, df = noise.sd**2, float(noise.df)
    elif len(differences):
        found = stats.prior(differences)
        if math.isfinite(found.variance) and len(counted):
            n, spread = int(np.median(counted)), float(found.variance)
            df = max(min(float(found.df) + n - 1, float(found.most)), n - 1.0) if screen else n - 1.0
    half = float(stdtrit(df, 1 - alpha / 2)) * math.sqrt(spread / n)
    return Interval(0.0, -half, half, df, 1.0)


def said(noise: Noise, rows: Sequence[Row], runs: pd.DataFrame) -> str:
    """A note on where the noise floor comes from and what it does to the verdicts."""
    low, high = noise.interval()
    text = (
        f"Noise floor: two runs of the baseline that differ by chance alone are {noise.sd:.4g} apart (sd, 95 % "
        f"{low:.4g} to {high:.4g}; correlation {noise.rho:.2f}), by {noise.pairs} null pairs of other seeds in "
        f"{noise.folder}, made {noise.last[:10]}."
    )
    if any(row.tier == "screen" for row in rows):
        text += f" They count as {min(noise.df, NOISE_DF)} degrees of freedom in the variance of each screen verdict."
    if noise.diverged:
        text += f" {noise.diverged} of their runs diverged and say nothing."
    here = {str(commit)[:12] for commit in runs.get("env.commit", ()) if isinstance(commit, str) and commit}
    there = {commit.split()[0] for commit in noise.commits}
    if here and there and not here & there:
        text += f" They were made with other code ({', '.join(sorted(there))})."
    return text
