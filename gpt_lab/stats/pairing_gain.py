"""Gain of pairing: the correlation of runs of one seed, and the unpaired runs with the same interval."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from .paired import Array, correlation_interval, paired_t
from .tiers import FEWEST

MOST = 1e9
"""Runs of an arm beyond which nobody counts."""


@dataclass(frozen=True)
class PairingGain:
    """Pairing in a study of n pairs.

    Fields:
        rho: 1 - var(differences) / (var(variant) + var(baseline)), the share of the noise that pairing takes away: the
            correlation, where both vary alike. low, high: its interval by Fisher's z; None below 4 pairs.
        unpaired: runs of each arm with which an unpaired t interval is as wide (mean square), its 2 n - 2 degrees of
            freedom counted against the n - 1 of pairs; by_error: with which its standard error is, n / (1 - rho).
        saved: runs of all arms beyond those of the pairs, rounded towards 0; below 0 pairing cost runs.
    """

    pairs: int
    rho: float
    low: float | None
    high: float | None
    unpaired: float
    by_error: float
    saved: int


def pairing_gain(pairs: int, rho: float, *, arms: int = 2, alpha: float = 0.05) -> PairingGain | None:
    """What n pairs of runs that correlate by rho are worth; None where rho is 1 or not known, or n below 3.

    Args:
        arms: that are compared, the baselines among them.
    """
    if pairs < FEWEST or not -1 <= rho < 1 - 1e-9:
        return None

    def width(runs: float) -> float:
        return float(stdtrit(2 * runs - 2, 1 - alpha / 2)) ** 2 / runs

    paired = float(stdtrit(pairs - 1, 1 - alpha / 2)) ** 2 * (1 - rho) / pairs
    unpaired = 2.0 if width(2.0) <= paired else _reached(lambda runs: paired / width(runs) - 1)
    ends = correlation_interval(rho, pairs, alpha)
    return PairingGain(
        pairs=pairs,
        rho=rho,
        low=ends[0] if ends else None,
        high=ends[1] if ends else None,
        unpaired=unpaired,
        by_error=pairs / (1 - rho),
        saved=math.trunc(arms * (unpaired - pairs) + math.copysign(1e-9, unpaired - pairs)),
    )


def _reached(over: Callable[[float], float]) -> float:
    """Where a function that rises almost like a line from below 0 at 2 is 0, at MOST at the latest, to rounding.

    By false position with the end that stays halved (Dowell and Jarratt 1971): scipy.optimize takes longer to import
    than a whole report to compare.
    """
    low, high = 2.0, MOST
    below, above = over(low), over(high)
    side = 0
    while above > 0:
        middle = high - above * (high - low) / (above - below)
        value = over(middle)
        if value == 0 or not low < middle < high or high - low <= 4e-16 * high:
            return middle
        if value > 0:
            high, above = middle, value
            below = below / 2 if side > 0 else below
            side = 1
        else:
            low, below = middle, value
            above = above / 2 if side < 0 else above
            side = -1
    return MOST


def of_arm(variant: Array, baseline: Array, alpha: float) -> PairingGain | None:
    """Of the scores of one arm and its baseline over the same pairs, none missing."""
    both = np.var([variant, baseline], axis=1, ddof=1).sum() if len(variant) > 1 else 0.0
    if not both > 0:
        return None
    return pairing_gain(len(variant), max(-1.0, 1 - float(np.var(variant - baseline, ddof=1) / both)), alpha=alpha)


def of_all(differences: Array, variances: Array, baselines: int, alpha: float) -> PairingGain | None:
    """Of all variants together.

    Args:
        differences: (variants, pairs) to their baselines, NaN where one is missing.
        variances: (variants,) of the variant's scores plus its baseline's. baselines: how many there are.
    """
    fit = paired_t(differences)
    enough = fit.pairs >= FEWEST
    noise = float(np.asarray(variances)[enough].sum())
    if not noise > 0:
        return None
    rho = max(-1.0, 1 - float((fit.error**2 * fit.pairs)[enough].sum()) / noise)
    return pairing_gain(int(np.median(fit.pairs[enough])), rho, arms=int(enough.sum()) + baselines, alpha=alpha)


def describe(found: PairingGain, pair: str, by_arm: dict[str, PairingGain]) -> str:
    """The note below the table.

    Args:
        by_arm: of each variant; said only where there are several.
    """
    surely = "too few to be sure" if found.low is None else f"between {_two(found.low)} and {_two(found.high)}"
    needed = "2 or fewer" if found.unpaired <= 2 else f"about {found.unpaired:.0f}"
    text = (
        f"Pairing: runs with the same {pair} correlate by {_two(found.rho)} over all arms, weighed by spread "
        f"({surely}). An unpaired comparison needs {needed} runs of each arm for intervals as narrow as these "
        f"{found.pairs} pairs give ({found.by_error:.1f} by the standard error alone): {_saved(found.saved)}."
    )
    if len(by_arm) > 1:
        each = ", ".join(f"{arm} {_two(one.rho)} ({_saved(one.saved)})" for arm, one in list(by_arm.items())[:6])
        text += f" Each arm against its baseline: {each}{' ...' if len(by_arm) > 6 else ''}."
    return text


def _saved(runs: int) -> str:
    """`pairing saved 18 runs`."""
    if runs == 0:
        return "pairing saved no run"
    return f"pairing {'saved' if runs > 0 else 'cost'} {abs(runs)} {'run' if abs(runs) == 1 else 'runs'}"


def _two(value: float | None) -> str:
    assert value is not None
    return f"{value:.2f}".replace("-", "−")
