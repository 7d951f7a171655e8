"""Verdicts from paired differences: interval against the sesoi, TOST, Holm's correction.

Each arm is compared with the baseline; e is the smallest effect size of interest (sesoi) that was stated. Three claims
are possible, each with the p-value that is below alpha exactly when the interval at level 1 - alpha says so:

    lower / higher   the interval lies wholly beyond e      p = tail(|d| - e)
    equivalent       it lies wholly inside (-e, e)          p = tail(e - |d|)
    small            it excludes 0                          p = tail(|d|)

in this order; an arm that earns none is open. Without a stated e the first asks whether the interval excludes 0, and
there is neither equivalent nor small. tail(x) is the two-sided tail of t beyond x standard errors, so `equivalent` is
two one-sided tests at alpha / 2 each (Lakens 2017, Soc. Psychol. Personal. Sci. 8:355). Each kind of claim is corrected
by Holm (1979, Scand. J. Stat. 6:65) over the family, which is every arm that the study compares, those without enough
runs included (p = 1): alpha bounds the probability of one false claim of a kind, whatever else is real.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .paired import Array, Fit
from .tiers import FEWEST

LOWER, HIGHER, SMALL, EQUIVALENT, OPEN = range(5)
"""Claims: beyond e below or above the baseline, not 0 but perhaps within e, within e, none."""


@dataclass(frozen=True)
class Decision:
    """Claims (..., arms), and the corrected p-value of the hypothesis that an arm equals the baseline."""

    claim: NDArray[np.int64]
    p_adjusted: Array


def holm(p: ArrayLike) -> Array:
    """p-values adjusted over the last axis so that any false rejection has probability alpha at most (Holm 1979)."""
    values = np.asarray(p, float)
    m = values.shape[-1]
    order = np.argsort(values, axis=-1)
    stepped = np.take_along_axis(values, order, -1) * (m - np.arange(m))
    result = np.empty_like(stepped)
    np.put_along_axis(result, order, np.minimum(np.maximum.accumulate(stepped, axis=-1), 1), -1)
    return result


def decide(
    fit: Fit, *, alpha: float, sesoi: ArrayLike = 0.0, eligible: ArrayLike = True, fewest: int = FEWEST
) -> Decision:
    """The claims over a family.

    Args:
        sesoi: e, one number or one for each study (...); 0: none is stated.
        eligible: (..., arms); an arm that is not, or has fewer than `fewest` pairs, is OPEN but counted.
    """
    band = np.asarray(sesoi, float)[..., None]
    judged = (fit.pairs >= fewest) & np.isfinite(fit.error) & np.asarray(eligible, bool)

    def corrected(distance: Array) -> Array:
        return holm(np.where(judged, fit.tail(distance), 1.0))

    size = np.abs(fit.estimate)
    nonzero = corrected(size)
    beyond = corrected(size - band) <= alpha
    inside = corrected(band - size) <= alpha
    claim = np.select(
        [~judged, beyond & (fit.estimate < 0), beyond, inside, nonzero <= alpha],
        [OPEN, LOWER, HIGHER, EQUIVALENT, SMALL],
        OPEN,
    )
    return Decision(claim, np.where(judged, nonzero, np.nan))
