"""Power: against scipy's non-central t, against STATISTICS' table, against simulation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.power import TTestPower

from gpt_lab.errors import ConfigError
from gpt_lab.sweep.power import detectable_effect, power, seeds_needed, shared_df


@pytest.mark.parametrize("df, shift", [(2, 3.0), (4, 4.0), (9, 0.5), (20, 2.9)])
def test_power_is_the_noncentral_t(df: int, shift: float) -> None:
    n = df + 1
    bound = stats.t.ppf(0.975, df)
    expected = stats.nct.sf(bound, df, shift) + stats.nct.cdf(-bound, df, shift)
    assert power(shift / math.sqrt(n), n, rho=0.5) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("n", [5, 8, 20])
def test_detectable_effect_agrees_with_statsmodels(n: int) -> None:
    expected = TTestPower().solve_power(nobs=n, alpha=0.05, power=0.8, alternative="two-sided")
    assert detectable_effect(n, rho=0.5) == pytest.approx(expected, rel=1e-4)  # a difference's sd is one run's


@pytest.mark.parametrize(
    "n, rho, expected",
    [(3, 0.5, 1.70), (3, 0.9, 0.76), (5, 0.5, 1.31), (5, 0.9, 0.59), (10, 0.5, 0.93), (10, 0.9, 0.41)],
)
def test_the_table_of_the_design(n: int, rho: float, expected: float) -> None:
    assert detectable_effect(n, rho=rho, tier="screen", baseline_df=18) == pytest.approx(expected, abs=0.012)


def test_shared_variance_has_the_spread_it_claims() -> None:
    """The mean variance of k arms against one baseline varies like a chi-squared of shared_df degrees."""
    rng = np.random.default_rng(0)
    for arms, n in ((2, 3), (4, 3), (9, 5)):
        runs = rng.standard_normal((40_000, arms + 1, n))
        mean = (runs[:, 1:] - runs[:, :1]).var(axis=-1, ddof=1).mean(axis=-1)
        assert 2 * mean.mean() ** 2 / mean.var() == pytest.approx(shared_df(n, arms), rel=0.05)
    assert shared_df(3, 1) == 2
    assert shared_df(3, 10_000) == pytest.approx(8, rel=1e-3)


def test_seeds_needed_is_the_fewest() -> None:
    for tier, fewest in (("screen", 3), ("confirm", 5)):
        options: dict[str, Any] = {"tier": tier, "rho": 0.4, "comparisons": 4}
        for effect in (0.3, 0.9, 2.0):
            n = seeds_needed(effect, **options)
            assert power(effect, n, **options) >= 0.8
            assert n == fewest or power(effect, n - 1, **options) < 0.8
        assert seeds_needed(50.0, **options) == fewest


def test_more_seeds_pairing_and_fewer_comparisons_help() -> None:
    assert detectable_effect(10) < detectable_effect(5) < detectable_effect(3)
    assert detectable_effect(5, rho=0.9) < detectable_effect(5, rho=0.0)
    assert detectable_effect(5, comparisons=1) < detectable_effect(5, comparisons=4)
    assert detectable_effect(3, comparisons=4, tier="screen") < detectable_effect(3, comparisons=4, tier="confirm")
    assert math.isfinite(detectable_effect(2, comparisons=100))


@pytest.mark.parametrize(
    "values, message",
    [
        ({"alpha": 0.0}, "alpha=0 must lie between 0 and 1"),
        ({"power": 1.0}, "power=1 must lie"),
        ({"power": 0.04}, "must be above alpha"),
        ({"rho": 1.0}, "rho=1 must be"),
        ({"comparisons": 0}, "comparisons=0"),
        ({"tier": "sure"}, "screen, confirm"),
        ({"baseline_df": -1.0}, "baseline_df=-1"),
    ],
)
def test_bad_input(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        detectable_effect(5, **values)
    with pytest.raises(ConfigError, match=message):
        seeds_needed(1.0, **values)


def test_impossible_questions() -> None:
    with pytest.raises(ConfigError, match="two are the fewest"):
        detectable_effect(1)
    with pytest.raises(ConfigError, match="above 0"):
        seeds_needed(0.0)
    with pytest.raises(ConfigError, match="more than 1,000,000 seeds"):
        seeds_needed(1e-6)
