"""Power analysis for the printed verdict: how often a design earns `better` or `equivalent`.

All sizes are in units of the standard deviation of a pair's difference, sqrt(2 (1 - rho)) run deviations where the runs
of a pair correlate by rho. `better` (or `worse`) must clear the smallest effect size of interest e, so a true
difference must exceed it: detectable(...) is that excess, whatever e is. `equivalent` must lie inside e with both ends:
narrowest(...) is the smallest e at which an arm without any difference does. At what is printed here 80 % of studies
get the word, Holm over all arms included, where the other arms equal the baseline:

    better       the first of m steps, so the level alpha / m: the non-central t, as a mean over the estimated deviation
    equivalent   all m arms earn it together, which takes Holm's later steps: 4000 simulated studies, judged by
                 decision.decide, the same random numbers each time; beyond MOST_ARMS the first step for all, which is
                 cautious. Arms share the baseline's runs: their estimates correlate by 1/2, their variances by 1/4.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtri, ndtr, stdtrit

from .decision import EQUIVALENT, decide
from .paired import Fit
from .tiers import FEWEST

Word = Literal["better", "equivalent"]

STUDIES = 4000
MOST_ARMS = 20
NODES = 500
"""Quantiles over which the estimated deviation is averaged: power to within 0.0001."""
POWER = 0.8
MOST = 1000
"""Seeds beyond which no number is given: nobody runs them."""
FAR = 1e6


def power(
    size: float, pairs: int, *, sd: float = 1.0, word: Word = "better", arms: int = 1, alpha: float = 0.05
) -> float:
    """Share of studies in which an arm gets a word.

    Args:
        size: of `better` how far the true difference lies beyond e; of `equivalent` e itself, the true difference
            being 0. In the unit of `sd`.
        sd: standard deviation of a pair's difference; 1: sizes are in deviations.
        arms: that are compared with the baseline.

    Raises:
        ValueError: a size that is NaN, fewer than two pairs, no arm, part of one, an sd that is not above 0, an unknown
            word, or an alpha that is none.
    """
    if not (pairs >= 2 and pairs % 1 == 0):
        raise ValueError(f"pairs={pairs}: a whole number, 2 at least")
    _check(size, sd, word, arms, alpha)
    return _power(size / sd, pairs, word, arms, alpha)


def _check(size: float, sd: float, word: str, arms: int, alpha: float) -> None:
    if math.isnan(size):
        raise ValueError("size=nan: a number, in the unit of sd")
    if word not in get_args(Word):
        raise ValueError(f"word={word!r}: one of {', '.join(get_args(Word))}")
    if not (0 < sd < math.inf and arms >= 1 and arms % 1 == 0 and 0 < alpha < 1):
        raise ValueError(f"sd={sd:g}, arms={arms}, alpha={alpha:g}: sd > 0, 1 arm or more and 0 < alpha < 1")


def alone(size: float, pairs: int, word: Word, level: float) -> float:
    """Power of one comparison at a level of its own, size as in power()."""
    if pairs < FEWEST:
        return 0.0
    share = ndtr(size * math.sqrt(pairs) - _bounds(pairs, level))
    if word == "equivalent":
        share = np.maximum(2 * share - 1, 0.0)
    return float(np.add.reduce(share) / NODES)


def _power(size: float, pairs: int, word: Word, arms: int, alpha: float) -> float:
    if pairs < FEWEST:
        return 0.0
    if word == "better" or arms == 1 or arms > MOST_ARMS:
        return alone(size, pairs, word, alpha / arms)
    mean, deviation = _drawn(pairs, arms)
    root = math.sqrt(pairs)
    fit = Fit(mean / root, deviation / root, np.full(mean.shape, pairs - 1.0), np.full(mean.shape, pairs, np.int64))
    return float((decide(fit, alpha=alpha, sesoi=np.full(len(mean), size)).claim == EQUIVALENT).mean())


def detectable(pairs: int, *, arms: int = 1, alpha: float = 0.05, power: float = POWER) -> float:
    """How far beyond e a true difference must lie to be called better (or worse) with this power."""
    return _size(pairs, "better", arms, alpha, power)


def narrowest(pairs: int, *, arms: int = 1, alpha: float = 0.05, power: float = POWER) -> float:
    """The smallest e at which an arm that equals the baseline, as all do, is called equivalent with this power."""
    return _size(pairs, "equivalent", arms, alpha, power)


def sample_size(
    size: float,
    *,
    sd: float = 1.0,
    word: Word = "better",
    arms: int = 1,
    alpha: float = 0.05,
    power: float = POWER,
) -> int | None:
    """Fewest pairs that earn a word with this power; None where MOST do not.

    Args:
        size, sd, word, arms, alpha: as in power().

    Raises:
        ValueError: as power(); a power that is not between 0 and 1.
    """
    _check(size, sd, word, arms, alpha)
    if not 0 < power < 1:
        raise ValueError(f"power={power:g}: a number between 0 and 1")
    return _fewest(lambda pairs: _power(size / sd, pairs, word, arms, alpha) >= power) if size > 0 else None


def sample_size_alone(size: float, *, word: Word = "better", level: float = 0.05, power: float = POWER) -> int | None:
    """The same of one comparison at a level of its own: fast, and cautious for `equivalent` in a family."""
    return _fewest(lambda pairs: alone(size, pairs, word, level) >= power) if size > 0 else None


def _fewest(earned: Callable[[int], bool]) -> int | None:
    if not earned(MOST):
        return None
    low, high = FEWEST - 1, FEWEST
    while not earned(high):
        low, high = high, min(2 * high, MOST)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if earned(middle) else (middle, high)
    return high


@lru_cache(maxsize=2048)
def _deviations(df: int) -> NDArray[np.float64]:
    """Quantiles of the ratio of estimated to true deviation, equally likely."""
    return np.asarray(np.sqrt(chdtri(df, (np.arange(NODES) + 0.5) / NODES) / df))


@lru_cache(maxsize=2048)
def _bounds(pairs: int, level: float) -> NDArray[np.float64]:
    """Half widths of the intervals of that many pairs, in true standard errors, equally likely."""
    return np.asarray(float(stdtrit(pairs - 1, 1 - level / 2)) * _deviations(pairs - 1))


@lru_cache(maxsize=64)
def _drawn(pairs: int, arms: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Means (studies, arms) in standard errors and sample deviations of differences of unit variance.

    The baseline's runs are in every difference, so that both correlate over the arms. Off their means, n pairs are
    vectors of n - 1 dimensions: along the baseline's an arm's vector is one normal, across it the rest.
    """
    rng = np.random.default_rng([pairs, arms])
    normal = rng.standard_normal((STUDIES, arms + 1))
    mean = (normal[:, 1:] + normal[:, :1]) * math.sqrt(0.5)
    length = np.sqrt(rng.chisquare(pairs - 1, (STUDIES, 1)))
    squares = (rng.standard_normal((STUDIES, arms)) - length) ** 2 + rng.chisquare(pairs - 2, (STUDIES, arms))
    return mean, np.sqrt(squares / (2 * (pairs - 1)))


@lru_cache(maxsize=1024)
def _size(pairs: int, word: Word, arms: int, alpha: float, target: float) -> float:
    """The size with this power, by bisection."""
    if pairs < FEWEST:
        return math.inf
    low, high = 0.0, 1.0
    while _power(high, pairs, word, arms, alpha) < target:
        low, high = high, 2 * high
        if high > FAR:
            return math.inf
    while high - low > 1e-3 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if _power(middle, pairs, word, arms, alpha) >= target else (middle, high)
    return high
