"""From differences to words.

Each arm is compared with the baseline; e is the smallest effect size of interest. Three claims are possible, each with
the p-value that is below alpha exactly when the interval at level 1 - alpha says so:

    better / worse   the interval lies wholly beyond e      p = tail(|d| - e)
    equivalent       it lies wholly inside (-e, e)          p = tail(e - |d|)
    real but small   it excludes 0                          p = tail(|d|)

in this order; an arm that earns none is undecided. tail(x) is the two-sided tail of t beyond x standard errors. Each
kind of claim is corrected over the family, which is every arm that the study compares, those without enough runs
included (p = 1): by Holm in the confirm tier, so that alpha bounds the probability of one false claim of a kind; by
Benjamini-Hochberg in the screen tier, so that alpha bounds the share of false ones. With one comparison nothing is
corrected. The interval that is shown stays the arm's own at level 1 - alpha: it can exclude 0 where the corrected
claim is not made. e = 0 makes every difference matter, and nothing equivalent.

The tiers: `screen` is the pooled paired t from 3 pairs on, `confirm` the plain paired t from 5 pairs on seeds that
chose nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpt_lab import lengths
from gpt_lab.errors import ConfigError
from gpt_lab.report.stats import Array, Fit, benjamini_hochberg, holm
from gpt_lab.report.types import Tier
from gpt_lab.sweep.power import FEWEST, seeds_needed

LOWER, HIGHER, SMALL, EQUIVALENT, OPEN = range(5)
"""Claims: beyond e below or above the baseline, real but small, equivalent, none."""

FLOOR_NATS = 0.005
"""Nats per byte below which no difference is of interest."""

FLOOR_ACCURACY = 0.01
"""Share of the answers below which no difference is of interest."""


@dataclass(frozen=True)
class Decision:
    """Claims (..., arms), and the corrected p-value of the hypothesis that an arm equals the baseline."""

    claim: NDArray[np.int64]
    p_adjusted: Array


def decide(fit: Fit, *, tier: Tier, alpha: float, sesoi: ArrayLike, eligible: ArrayLike = True) -> Decision:
    """The claims of one tier over a family.

    Args:
        sesoi: e, one number or one for each study (...).
        eligible: (..., arms); an arm that is not, or has fewer pairs than the tier asks for, is OPEN but counted.
    """
    correct = holm if tier == "confirm" else benjamini_hochberg
    band = np.asarray(sesoi, float)[..., None]
    judged = (fit.pairs >= FEWEST[tier]) & np.isfinite(fit.error) & np.asarray(eligible, bool)

    def corrected(distance: Array) -> Array:
        return correct(np.where(judged, fit.tail(distance), 1.0))

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


def further_seeds(
    estimate: float, deviation: float, pairs: int, *, sesoi: float, alpha: float, tier: Tier, family: int
) -> int | None:
    """Pairs beyond those there are that decide with a power of 80 %, were the estimate and the spread the true ones.

    Decided is an arm whose interval excludes 0 or lies inside the band, whichever is nearer.

    Args:
        deviation: standard deviation of one pair's difference.
        family: arms that are compared.

    Returns:
        None where a million seeds would not do.
    """
    reach = max(abs(estimate), sesoi - abs(estimate))
    if not (reach > 0 and deviation > 0 and math.isfinite(reach / deviation)):
        return None
    try:  # two runs that correlate by 1/2 differ by as much as one run varies
        needed = seeds_needed(reach / deviation, alpha=alpha, rho=0.5, comparisons=family, tier=tier)
    except ConfigError:
        return None
    return max(1, needed - pairs)


def default_sesoi(metric: str, run_sd: float, *, bytes_per_token: float = math.nan, typical: float = math.nan) -> float:
    """max(FLOOR_NATS per byte in the metric's unit, half a run's standard deviation); NaN parts are left out.

    Args:
        metric: `bpb` is in bits per byte, `loss` in nats and `ppl` in e^nats per token, `accuracy` has FLOOR_ACCURACY
            (at multiples of the training context too); others have no floor.
        bytes_per_token: NaN (data that is not text): a token counts as a byte.
        typical: value of the metric, for `ppl`.
    """
    per_token = FLOOR_NATS * (bytes_per_token if math.isfinite(bytes_per_token) else 1.0)
    floors = {
        "bpb": FLOOR_NATS / math.log(2),
        "loss": per_token,
        "ppl": per_token * typical,
        "accuracy": FLOOR_ACCURACY,
    }
    parts = (floors.get(lengths.like(metric).rpartition("/")[2], math.nan), run_sd / 2)
    return max((part for part in parts if math.isfinite(part)), default=0.0)
