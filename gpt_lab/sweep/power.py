"""How small an effect a number of seeds can show, before anything is paid for.

An arm is compared with the baseline by a two-sided paired t-test on n pairs of runs whose correlation is rho, so the
difference of a pair has the standard deviation sqrt(2 (1 - rho)) in units of the run's. The tier sets the degrees of
freedom: `confirm` has the arm's own n - 1; `screen` shares one variance among the arms (`shared_df`). Of several
comparisons the first that a step-wise correction (Holm, Benjamini-Hochberg) accepts must pass alpha / comparisons, and
that is what is planned for.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from gpt_lab.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Tier = Literal["screen", "confirm"]

FEWEST: dict[Tier, int] = {"screen": 3, "confirm": 5}
"""Pairs below which a tier gives no verdict."""
SHARED = 0.25
"""Squared correlation of two arms' differences to one baseline, which is in both: of equally noisy arms, (1/2)^2."""
LEARNT = 0.45
"""Share of the other arms' degrees of freedom that a screen gains on average, as it must also learn whether the arms
are equally noisy. Simulated with 2 to 9 arms and 3 to 10 seeds: a planned power of 80 % is 78-85 % (67-80 % with 1).
Of null pairs' degrees the same share, as an arm that looks much noisier is judged without them: 77-90 % with 1 to 9
arms, 3 or 4 seeds and 3 to 30 null pairs (68-82 % with 1)."""
NOISE_DF = 6
"""Most degrees of freedom that null pairs count in a screen: they tell of the baseline, and an arm may be noisier.
Simulated, one arm and 3 seeds, an arm as noisy as the baseline / twice as noisy, 30 null pairs: 6 degrees cover 96.9 /
89.3 %, 4 degrees 97.6 / 91.3 %, all 29 of them 95.0 / 84.6 % for intervals that are only a tenth narrower than with 6.
"""
NODES = 500
"""Quantiles over which the estimated variance is averaged: power to within 0.0001."""
MOST = 1_000_000
"""Seeds beyond which no number is given."""


def shared_df(pairs: int, arms: int) -> float:
    """Degrees of freedom of a variance that is the mean of `arms` variances over `pairs` pairs each.

    The arms' differences share the baseline's runs, so their variances are correlated and the sum arms * (pairs - 1)
    counts the baseline's share again and again: Box's correction (1954, Ann. Math. Stat. 25:290) with SHARED; at most
    4 (pairs - 1) however many arms there are.
    """
    return arms * (pairs - 1) / (1 + SHARED * (arms - 1))


def power(
    effect: float,
    n: int,
    *,
    alpha: float = 0.05,
    rho: float = 0.0,
    comparisons: int = 1,
    tier: Tier = "confirm",
    baseline_df: float | None = None,
    noise_df: float = 0.0,
) -> float:
    """Probability that n pairs show this effect (in units of the run's standard deviation).

    Args:
        comparisons: arms that are compared with the baseline.
        baseline_df: degrees of freedom of what is known of the variance beforehand, added to the arm's own n - 1 in the
            screen tier; None: what the other arms of the study tell (LEARNT of shared_df).
        noise_df: of null pairs: LEARNT of at most NOISE_DF is added in the screen tier.

    Raises:
        ConfigError: a value out of range.
    """
    _check(alpha=alpha, rho=rho, comparisons=comparisons, tier=tier, baseline_df=baseline_df, noise_df=noise_df)
    _check_pairs(n)
    df = _df(n, comparisons, tier, baseline_df, noise_df)
    return _power(effect * _precision(n, rho), df, alpha / comparisons)


def detectable_effect(
    n: int,
    *,
    alpha: float = 0.05,
    power: float = 0.8,
    rho: float = 0.0,
    comparisons: int = 1,
    tier: Tier = "confirm",
    baseline_df: float | None = None,
    noise_df: float = 0.0,
) -> float:
    """Smallest effect that n pairs show with this power, in units of the run's standard deviation.

    Args:
        comparisons, baseline_df, noise_df: as in power().

    Raises:
        ConfigError: a value out of range, fewer than two pairs.
    """
    _check(
        alpha=alpha,
        rho=rho,
        comparisons=comparisons,
        tier=tier,
        baseline_df=baseline_df,
        noise_df=noise_df,
        power=power,
    )
    _check_pairs(n)
    df = _df(n, comparisons, tier, baseline_df, noise_df)
    return _needed(df, alpha / comparisons, power) / _precision(n, rho)


def seeds_needed(
    effect: float,
    *,
    alpha: float = 0.05,
    power: float = 0.8,
    rho: float = 0.0,
    comparisons: int = 1,
    tier: Tier = "confirm",
    baseline_df: float | None = None,
    noise_df: float = 0.0,
) -> int:
    """Fewest pairs that show this effect (in units of the run's standard deviation) with this power.

    Never fewer than the tier asks for (3 for screen, 5 for confirm).

    Raises:
        ConfigError: a value out of range, an effect that a million pairs do not show.
    """
    _check(
        alpha=alpha,
        rho=rho,
        comparisons=comparisons,
        tier=tier,
        baseline_df=baseline_df,
        noise_df=noise_df,
        power=power,
    )
    if not (math.isfinite(effect) and effect > 0):
        raise ConfigError(f"effect={effect:g} must be a finite number above 0")

    def shows(n: int) -> bool:
        df = _df(n, comparisons, tier, baseline_df, noise_df)
        return _power(effect * _precision(n, rho), df, alpha / comparisons) >= power

    low = FEWEST[tier] - 1
    high = FEWEST[tier]
    while not shows(high):
        low, high = high, 2 * high
        if high > MOST:
            raise ConfigError(f"effect={effect:g} of a run's standard deviation needs more than {MOST:,} seeds")
    while high - low > 1:  # power grows with n
        middle = (low + high) // 2
        low, high = (low, middle) if shows(middle) else (middle, high)
    return high


def _precision(n: int, rho: float) -> float:
    """One over the standard error of the mean difference, in units of the run's standard deviation."""
    return math.sqrt(n / (2 * (1 - rho)))


def _df(n: int, comparisons: int, tier: str, baseline_df: float | None, noise_df: float) -> float:
    if tier == "confirm":
        return n - 1
    told = LEARNT * (shared_df(n, comparisons) - (n - 1)) if baseline_df is None else baseline_df
    return n - 1 + told + LEARNT * min(noise_df, NOISE_DF)


@lru_cache(maxsize=2048)
def _spread(df: float) -> NDArray[np.float64]:
    """Quantiles of the ratio of estimated to true standard deviation, equally likely."""
    import numpy as np
    from scipy.special import chdtri

    likely = (np.arange(NODES) + 0.5) / NODES
    return np.asarray(np.sqrt(chdtri(df, likely) / df))


def _power(shift: float, df: float, level: float) -> float:
    """Power of the two-sided t-test whose statistic is shifted by this many standard errors.

    A mean over the estimated deviation: scipy's non-central t is NaN for shifts as common as 12 with 20 degrees.
    """
    from scipy.special import ndtr, stdtrit

    bound = float(stdtrit(df, 1 - level / 2)) * _spread(df)
    return float((ndtr(shift - bound) + ndtr(-shift - bound)).mean())


@lru_cache(maxsize=256)
def _needed(df: float, level: float, power: float) -> float:
    """Shift, in standard errors, that has this power."""
    from scipy.optimize import brentq

    high = 4.0
    while _power(high, df, level) < power:
        high *= 2
    return float(brentq(lambda shift: _power(shift, df, level) - power, 0.0, high, xtol=1e-9))


def _check_pairs(n: int) -> None:
    if n < 2:
        raise ConfigError(f"n={n} pairs: two are the fewest that have a spread")


def _check(
    *,
    alpha: float,
    rho: float,
    comparisons: int,
    tier: str,
    baseline_df: float | None,
    noise_df: float,
    power: float | None = None,
) -> None:
    values: dict[str, Any] = {"alpha": alpha} if power is None else {"alpha": alpha, "power": power}
    for name, value in values.items():
        if not 0 < value < 1:
            raise ConfigError(f"{name}={value:g} must lie between 0 and 1")
    if power is not None and power <= alpha:
        raise ConfigError(f"power={power:g} must be above alpha={alpha:g}")
    if not -1 <= rho < 1:
        raise ConfigError(f"rho={rho:g} must be at least -1 and below 1")
    if comparisons < 1:
        raise ConfigError(f"comparisons={comparisons} must be at least 1")
    if tier not in FEWEST:
        raise ConfigError(f"tier={tier!r} is not one of {', '.join(FEWEST)}")
    if baseline_df is not None and not (math.isfinite(baseline_df) and baseline_df >= 0):
        raise ConfigError(f"baseline_df={baseline_df:g} must be a finite number, at least 0")
    if not (math.isfinite(noise_df) and noise_df >= 0):
        raise ConfigError(f"noise_df={noise_df:g} must be a finite number, at least 0")
