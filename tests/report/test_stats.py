"""Statistics against scipy, statsmodels and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import special, stats
from statsmodels.stats.multitest import multipletests

from gpt_lab.report.stats import (
    FOLD,
    benjamini_hochberg,
    correlation,
    correlation_interval,
    holm,
    paired_t,
    pooled_t,
    prior,
    shrunken,
    typical_variance,
)


@pytest.mark.parametrize("n", [2, 3, 5, 12])
def test_paired_t_is_scipys(n: int) -> None:
    rng = np.random.default_rng(n)
    variant, baseline = rng.normal(0.3, 1, (2, n))
    fit = paired_t([variant - baseline])
    expected = stats.ttest_rel(variant, baseline)
    assert fit.p()[0] == pytest.approx(expected.pvalue)
    interval = expected.confidence_interval(0.9)
    half = fit.half_width(0.1)[0]
    assert (fit.estimate[0] - half, fit.estimate[0] + half) == pytest.approx((interval.low, interval.high))
    assert fit.df[0] == expected.df
    assert fit.p(0.4)[0] == pytest.approx(stats.ttest_1samp(variant - baseline, 0.4).pvalue)


def test_missing_pairs_are_left_out_not_counted() -> None:
    full = np.array([[0.1, 0.4, -0.2, 0.3]])
    holed = np.array([[0.1, np.nan, 0.4, -0.2, np.nan, 0.3]])
    assert paired_t(holed).p() == pytest.approx(paired_t(full).p())
    assert paired_t(holed).pairs == [4]
    alone = paired_t([[1.0, np.nan], [np.nan, np.nan]])
    assert np.isnan(alone.p()).all() and alone.pairs.tolist() == [1, 0]


def moderated(d: np.ndarray, shared: float) -> tuple[float, float]:
    """s0^2 and d0 in the words of Smyth 2004, section 6.2, by bisection instead of Newton's method."""
    m = d.shape[1] - 1
    z = np.log(d.var(axis=1, ddof=1))
    e = z - special.digamma(m / 2) + np.log(m / 2)
    target = e.var(ddof=1) - (1 - shared) * special.polygamma(1, m / 2)
    low, high = 1e-6, 1e9
    while high / low > 1 + 1e-13:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if special.polygamma(1, middle / 2) > target else (low, middle)
    return math.exp(e.mean() + special.digamma(low / 2) - math.log(low / 2)), low


def test_the_prior_is_smyths() -> None:
    """Arms whose differences correlate by less than 1/2, so that SHARED counts."""
    rng = np.random.default_rng(3)
    d = rng.standard_normal((8, 5)) * np.exp(0.6 * rng.standard_normal((8, 1)))
    s0, d0 = moderated(d, 0.25)
    found = prior(d)
    assert (found.variance, found.df) == pytest.approx((s0, d0), rel=1e-6)
    assert found.most == pytest.approx(8 * 4 / (1 + 0.25 * 7))
    fit = pooled_t(d)
    variance = d.var(axis=1, ddof=1)
    kept = variance <= FOLD * s0
    assert kept.any()
    expected = (d0 * s0 + 4 * variance) / (d0 + 4)
    assert fit.error[kept] == pytest.approx(np.sqrt(expected / 5)[kept])
    assert fit.df[kept] == pytest.approx(min(d0 + 4, float(found.most)))
    t = fit.estimate / fit.error
    assert fit.p() == pytest.approx(2 * stats.t.sf(np.abs(t), fit.df))


def test_arms_as_noisy_as_each_other_share_one_variance() -> None:
    d = np.array([[1.0, 2.0, 3.0], [5.0, 7.0, 6.0], [0.0, -1.0, 1.0]])
    fit = pooled_t(d)
    assert fit.error == pytest.approx(math.sqrt(1 / 3))
    assert (fit.df > 2).all() and (fit.df <= 6 / 1.5).all()


def test_a_common_baseline_lowers_the_degrees_of_freedom() -> None:
    rng = np.random.default_rng(0)
    common = rng.standard_normal((4000, 1, 10))
    most = [prior(rng.standard_normal((4000, 4, 10)) - w * common).most.mean() for w in (0.0, 1.0, 3.0)]
    assert most[0] == pytest.approx(36 / 1.75, rel=0.03)
    assert most[0] > most[1] > most[2] > 9


def test_one_arm_alone_is_a_plain_paired_t() -> None:
    d = np.array([[0.2, 0.5, 0.1]])
    assert pooled_t(d).p() == pytest.approx(paired_t(d).p())
    both = np.array([[0.2, 0.5, 0.1], [np.nan, 0.3, np.nan]])
    assert pooled_t(both).p()[0] == pytest.approx(paired_t(d).p()[0])
    assert np.isnan(pooled_t(both).p()[1])


def test_a_much_noisier_arm_is_judged_by_its_own_variance() -> None:
    rng = np.random.default_rng(1)
    d = rng.standard_normal((9, 6))
    d[4] *= 30
    pooled, plain = pooled_t(d), paired_t(d)
    assert (pooled.error[4], pooled.df[4]) == (plain.error[4], plain.df[4])
    assert (pooled.df[:4] > plain.df[:4]).all()


def test_studies_are_judged_apart() -> None:
    """Leading axes: each study as if it were alone, those with missing pairs among them."""
    rng = np.random.default_rng(5)
    d = rng.standard_normal((40, 4, 5)) * np.exp(rng.standard_normal((40, 4, 1)) * 0.5)
    d[3, 1, 2] = d[7, 0, :4] = d[9, 2] = np.nan
    together = pooled_t(d)
    for study in range(40):
        alone = pooled_t(d[study])
        np.testing.assert_allclose(alone.error, together.error[study])
        np.testing.assert_allclose(alone.df, together.df[study])


def test_equal_scores_have_no_spread() -> None:
    fit = paired_t([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    assert fit.p().tolist() == [1.0, 0.0]
    assert np.isfinite(pooled_t([[0.0, 0.0, 0.0], [1.0, 1.5, 1.2], [0.3, 0.1, 0.0]]).p()).all()


def test_corrections_are_statsmodels() -> None:
    rng = np.random.default_rng(2)
    for m in (1, 2, 5, 40):
        p = rng.uniform(0, 0.2, (3, m)) ** 2
        p[0, 0] = p[0, -1] = 0.01
        for ours, theirs in ((holm, "holm"), (benjamini_hochberg, "fdr_bh")):
            expected = [multipletests(row, method=theirs)[1] for row in p]
            np.testing.assert_allclose(ours(p), expected)


def test_correlation_is_scipys() -> None:
    rng = np.random.default_rng(4)
    x = rng.standard_normal(9)
    y = x + rng.standard_normal(9)
    rho = correlation(x, y)
    expected = stats.pearsonr(x, y)
    interval = expected.confidence_interval(0.9)
    assert rho == pytest.approx(expected.statistic)
    assert correlation_interval(rho, 9, alpha=0.1) == pytest.approx((interval.low, interval.high))
    assert correlation([*x, np.nan], [*y, 1.0]) == pytest.approx(rho)


def test_correlation_without_a_spread_or_pairs() -> None:
    for x, y in (([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]), ([1.0, 2.0], [1.0, 2.0]), ([], [])):
        assert math.isnan(correlation(x, y))
    assert correlation([1.0, 2.0, 3.0, 4.0], [2.0, 4.0, 6.0, 8.0]) == pytest.approx(1)
    assert correlation_interval(0.9, 3) is None and correlation_interval(1.0, 4) == (1, 1)


def test_shrinking_takes_away_most_of_the_winners_luck() -> None:
    rng = np.random.default_rng(6)
    luck, left = [], []
    for _ in range(2000):
        truth = rng.normal(0, 0.7, 8)
        runs = truth + rng.standard_normal(8) * math.sqrt(0.5)
        deltas = runs - rng.standard_normal() * math.sqrt(0.5)
        best = deltas.argmin()
        drawn = shrunken(deltas, np.ones(8))
        offset = deltas.mean() - truth.mean()  # the baseline's luck, which no shrinking can see
        luck.append(deltas[best] - offset - truth[best])
        left.append(drawn[best] - offset - truth[best])
    assert np.mean(luck) < -0.4
    assert abs(np.mean(left)) < 0.25 * abs(np.mean(luck))
    assert shrunken([1.0, 1.0, 1.0], [1.0, 1.0, 1.0]).tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="3 at least"):
        shrunken([1.0, 2.0], [1.0, 1.0])


def test_typical_variance_ignores_one_noisy_arm() -> None:
    rng = np.random.default_rng(7)
    found = []
    for _ in range(400):
        runs = rng.standard_normal((9, 4))
        runs[0] *= 50
        found.append(typical_variance(runs.var(axis=1, ddof=1), np.full(9, 4)))
    assert np.mean(found) == pytest.approx(1.1, abs=0.15)
    assert typical_variance([4.0, math.nan], [3, 1]) == 4.0
    assert math.isnan(typical_variance([math.nan], [1]))
