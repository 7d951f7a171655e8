"""The noise floor of a study: null pairs of its baseline in the noise ledger, and the note on them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from gpt_lab.noise import null_pairs
from gpt_lab.noise import records as noise
from gpt_lab.noise.records import Noise
from gpt_lab.stats.interval import Interval
from gpt_lab.stats.paired import Array, paired_t
from gpt_lab.study.design import Design


def find(
    rows: Sequence[Mapping[str, Any]], baseline: Sequence[str], design: Design, runs_dirs: Sequence[Path]
) -> Noise | None:
    """The usable null pairs of the baseline's recipe, computed as its runs were; None if there are none.

    Args:
        rows: of all the study's runs (sources/source.py): seeds that one of them has do not count, so that what null
            pairs tell is independent of the study.
        baseline: names of the baseline's runs that are compared.
        runs_dirs: where to look.
    """
    names = set(baseline)
    mine = [r for r in rows if r["run"] in names and r["config"]]
    recipes = {noise.recipe(r["config"]): r["config"] for r in mine}
    ways = {tuple(r["env"].get(key) for key in noise.RESOLVED) for r in mine}
    if design.pair != null_pairs.PAIR or len(recipes) != 1 or len(ways) != 1:
        return None
    ((config,), (way,)) = recipes.values(), ways
    taken = {r["config"].get(null_pairs.PAIR) for r in rows}
    resolved = dict(zip(noise.RESOLVED, way, strict=True))
    folders = (noise.folder_of(place, config) for place in runs_dirs)
    found = [noise.find(folder, design.metric, resolved, taken) for folder in folders]
    return max((one for one in found if one is not None), key=lambda one: one.pairs, default=None)


def interval(differences: Array, runs: int, variance: float, *, alpha: float, noise: Noise | None) -> Interval:
    """The interval of an arm that equals the baseline, with as many pairs as the arms have.

    By null pairs where there are any, else by the arms' own differences, else by the baseline's runs as if unpaired.

    Args:
        differences: (arms, pairs) to the baseline, NaN where one is missing.
        runs, variance: of the baseline's scores.
    """
    fit = paired_t(differences) if len(differences) else None
    counted = np.empty(0, np.int64) if fit is None else fit.pairs[fit.pairs >= 2]
    n = int(np.median(counted)) if len(counted) else runs
    spread, df = 2 * variance, runs - 1.0
    if noise is not None:
        spread, df = noise.sd**2, float(noise.df)
    elif fit is not None and len(counted):
        spread, df = float(np.nanmean(fit.error**2 * fit.pairs)), n - 1.0
    half = float(stdtrit(df, 1 - alpha / 2)) * math.sqrt(spread / n)
    return Interval(0.0, -half, half, df, 1.0)


def describe(noise: Noise, runs: pd.DataFrame) -> str:
    """A note on where the noise floor comes from."""
    low, high = noise.interval()
    text = (
        f"Noise floor: two runs of the baseline that differ by chance alone are {noise.sd:.4g} apart (sd, 95 % "
        f"{low:.4g} to {high:.4g}; correlation {noise.rho:.2f}), by {noise.pairs} null pairs of other seeds in "
        f"{noise.folder}, made {noise.last[:10]}."
    )
    if noise.diverged:
        text += f" {noise.diverged} of their runs diverged and say nothing."
    here = {str(commit)[:12] for commit in runs.get("env.commit", ()) if isinstance(commit, str) and commit}
    there = {commit.split()[0] for commit in noise.commits}
    if here and there and not here & there:
        text += f" They were made with other code ({', '.join(sorted(there))})."
    return text
