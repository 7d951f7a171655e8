"""Speed-up and difference at equal cost, from the baseline's loss curve, with jackknife intervals.

Both read the baseline's loss curve L = E + A D^-a (power_law.py), shifted to pass through the baseline's own runs at
the budget that the variant is compared at; so a variant without a difference has a speed-up of exactly 1:

    speed-up           B C_b / (b C_v)   where f(B) = f(b) + d
    at equal cost      d + f(b) - f(b C_v / C_b)

with d the mean paired difference at budget b, and C the cost (tokens, FLOPs or seconds) of the variant's and the
baseline's runs. Intervals: leave one pair out, refit, t with n - 1 degrees of freedom on the jackknife's standard error
(Tukey 1958), for the speed-up on its logarithm. Nothing beyond twice or half the budget is a number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

from .paired import Array
from .power_law import PowerLaw, fit, reaches

LIMIT = 2.0
"""How far from the budget of a comparison a curve is believed."""
VAGUE = 1.5
"""Ratio of the largest to the smallest speed-up that the points of a curve allow: beyond it they determine none."""
FEWEST_PAIRS = 3


@dataclass(frozen=True)
class Ratio:
    """A speed-up with its interval; `limit` and its inverse (of the same cost) are where numbers end.

    Fields:
        estimate: None: not determined, `reason` says why. Beyond the limits it tells only on which side.
        low, high: NaN: no interval.
        middle: cost of the baseline over the variant's: the limits are middle * LIMIT and middle / LIMIT.
    """

    estimate: float | None
    low: float = math.nan
    high: float = math.nan
    middle: float = 1.0
    reason: str = ""

    @property
    def text(self) -> str:
        """`1.32x [1.20, 1.45]`, `>2x [1.8, >2]`; a dash where it is not determined."""
        if self.estimate is None:
            return "–"
        first = f"{self._number(self.estimate)}x"
        known = math.isfinite(self.low) and math.isfinite(self.high)
        return f"{first} [{self._number(self.low)}, {self._number(self.high)}]" if known else first

    def _number(self, value: float) -> str:
        most, least = self.middle * LIMIT, self.middle / LIMIT
        if value > most:
            return f">{most:.3g}"
        return f"<{least:.3g}" if value < least else f"{value:.2f}"


@dataclass(frozen=True)
class Matched:
    """A difference at equal cost: estimate, standard error, pairs; estimate None where `reason` says why."""

    estimate: float | None
    error: float = math.nan
    pairs: int = 0
    reason: str = ""


class Reach:
    """A variant's difference on the baseline's curve, for all its pairs (place 0) and for all but one (1 to n)."""

    def __init__(
        self,
        budgets: ArrayLike,
        losses: ArrayLike,
        differences: ArrayLike,
        anchor: float,
        law: PowerLaw | None = None,
    ) -> None:
        """
        Args:
            budgets: tokens (points,). losses: of the baseline there (pairs, points).
            differences: of the variant to the baseline at `anchor` tokens (pairs,).
            law: of another variant on the same budgets and losses, which need not be fitted again.

        Raises:
            ValueError: too few pairs or budgets.
        """
        self.budgets, self.losses = np.asarray(budgets, float), np.asarray(losses, float)
        self.pairs, self.anchor = len(self.losses), anchor
        if self.pairs < FEWEST_PAIRS:
            raise ValueError(f"{self.pairs} pairs: {FEWEST_PAIRS} are the fewest")
        self.change = left_out(differences)
        self.law: PowerLaw = fit(self.budgets, left_out(self.losses)) if law is None else law
        with np.errstate(over="ignore"):
            self.reached = self.law.budget(self.law.at(anchor) + self.change) / anchor

    @property
    def refused(self) -> str:
        """Why the curve tells nothing; empty where it does."""
        if not self.law.determined[0]:
            return "the baseline's points do not fall like a power of the budget"
        low, high = reaches(
            self.budgets, self.losses.mean(0), self.anchor, float(self.change[0]), interaction(self.losses) / self.pairs
        )
        if not high <= VAGUE * low:
            return "the baseline's points do not determine where its curve is that low"
        return ""

    def speedup(self, baseline: ArrayLike, variant: ArrayLike, alpha: float, interval: bool = True) -> Ratio:
        """The ratio in a cost of which the pairs spent this much (pairs,) each."""
        middle = left_out(baseline) / left_out(variant)
        if self.refused:
            return Ratio(None, reason=self.refused)
        found = float(self.reached[0] * middle[0])
        if not (interval and np.isfinite(self.reached).all() and (self.reached > 0).all()):
            return Ratio(found, middle=float(middle[0]))
        half = float(stdtrit(self.pairs - 1, 1 - alpha / 2)) * jackknife(np.log(self.reached * middle))
        return Ratio(found, found * math.exp(-half), found * math.exp(half), float(middle[0]))

    def matched(self, baseline: ArrayLike, variant: ArrayLike) -> Matched:
        """The difference to a baseline that spends what the variant spent, in a cost of (pairs,) each."""
        share = left_out(variant) / left_out(baseline)
        if not 1 / LIMIT <= share[0] <= LIMIT:
            times = f"{share[0]:.2g} times" if share[0] > 1 else f"{share[0]:.2g} of"
            return Matched(None, reason=f"it costs {times} what the baseline costs: the curve is not believed so far")
        if not self.law.determined[0]:
            return Matched(None, reason=self.refused)
        values = self.change + self.law.at(self.anchor) - self.law.at(self.anchor * share)
        return Matched(float(values[0]), jackknife(values), self.pairs)


def left_out(values: ArrayLike) -> Array:
    """Means over the first axis (pairs, ...): of all, then with each one left out (1 + pairs, ...)."""
    x = np.asarray(values, float)
    whole = x.sum(0, keepdims=True)
    return np.concatenate([whole / len(x), (whole - x) / (len(x) - 1)])


def jackknife(values: Array) -> float:
    """Standard error of values[0] from values[1:], each with one pair left out."""
    without = values[1:]
    n = len(without)
    return math.sqrt((n - 1) / n * float(((without - without.mean()) ** 2).sum()))


def interaction(losses: Array) -> float:
    """Variance of a run's loss beside what its pair and its budget explain (pairs, points)."""
    off = losses - losses.mean(0) - losses.mean(1, keepdims=True) + losses.mean()
    n, points = losses.shape
    return float((off**2).sum()) / ((n - 1) * (points - 1))


def usable(values: NDArray[np.float64]) -> bool:
    """Whether every pair has this cost."""
    return bool(np.isfinite(values).all() and (values > 0).all())
