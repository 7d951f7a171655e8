"""Comparison of one variant with one baseline on plain arrays: verdict, interval, p, pairs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from .decision import EQUIVALENT, HIGHER, LOWER, SMALL, decide
from .paired import ROUNDING, paired_t

Word = Literal["better", "worse", "equivalent", "real but small", "undecided"]
GOALS = ("minimize", "maximize")


@dataclass(frozen=True)
class Verdict:
    """What paired scores say.

    Fields:
        estimate: mean difference, variant - baseline, in units of the scores; low, high: its interval at level
            1 - alpha; NaN below two pairs.
        p: two-sided, of no difference; NaN below three pairs.
        Where every pair differs by the same number, low, high and p are NaN; of three pairs and more without any
        difference they are 0, 0 and 1.
        n: pairs.
    """

    word: Word
    estimate: float
    low: float
    high: float
    p: float
    n: int

    def __str__(self) -> str:
        interval = f"{self.estimate:+.4f} [{self.low:+.4f}, {self.high:+.4f}]"
        return f"{self.word}: {interval}, p = {self.p:.2g}, {self.n} pairs"


def compare(
    variant: ArrayLike,
    baseline: ArrayLike,
    *,
    sesoi: float = 0.0,
    alpha: float = 0.05,
    goal: Literal["minimize", "maximize"] = "minimize",
) -> Verdict:
    """The word for a variant, as decision.decide has it for a family of one; fewer than three pairs decide nothing.

    Args:
        variant, baseline: final scores (pairs,), a pair in the same place of both; a pair that lacks one (NaN) is left
            out.
        sesoi: smallest effect size of interest, in units of the scores, stated before the runs; 0: none is, and no word
            needs one.
        goal: whether lower or higher scores are better.

    Raises:
        ValueError: shapes that are no pairs, infinite scores, an sesoi, alpha or goal that is none.
    """
    x, y = np.asarray(variant, float), np.asarray(baseline, float)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"one score of each for every pair is needed: shapes are {x.shape} and {y.shape}")
    if np.isinf(x).any() or np.isinf(y).any():
        raise ValueError("infinite scores have no mean: give NaN for a run that diverged")
    if not (math.isfinite(sesoi) and sesoi >= 0):
        raise ValueError(f"sesoi={sesoi:g}: 0 or a positive number")
    if not 0 < alpha < 0.5:
        raise ValueError(f"alpha={alpha:g}: a number above 0 and below 0.5")
    if goal not in GOALS:
        raise ValueError(f"goal={goal!r}: one of {', '.join(GOALS)}")
    differences = (x - y)[~np.isnan(x - y)]
    n = len(differences)
    scale = float(np.nanmax(np.abs([x, y]))) if n else 0.0
    flat = n >= 2 and float(np.ptp(differences)) <= ROUNDING * scale
    fit = paired_t(differences[None])
    said = decide(fit, alpha=alpha, sesoi=sesoi, eligible=not flat)
    estimate, half, p = float(fit.estimate[0]), float(fit.half_width(alpha)[0]), float(said.p_adjusted[0])
    word = _word(int(said.claim[0]), goal)
    if flat:  # the same number in every pair draws no new run, and tells nothing of the noise
        half = p = math.nan
        if n >= 3 and not differences.any():  # but for the setting that changed nothing
            word, half, p = "equivalent", 0.0, 1.0
    return Verdict(word, estimate, estimate - half, estimate + half, p, n)


def _word(claim: int, goal: str) -> Word:
    if claim in (LOWER, HIGHER):
        return "better" if (claim == LOWER) == (goal == "minimize") else "worse"
    if claim == EQUIVALENT:
        return "equivalent"
    return "real but small" if claim == SMALL else "undecided"
