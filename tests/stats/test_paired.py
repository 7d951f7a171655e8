"""Paired t against scipy, and what a correlation and a shrunken estimate are."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from gpt_lab.stats.paired import correlation, correlation_interval, paired_t, shrunken


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


def test_studies_are_judged_apart() -> None:
    """Leading axes: each study as if it were alone, those with missing pairs among them."""
    d = np.random.default_rng(5).standard_normal((40, 4, 5))
    d[3, 1, 2] = d[7, 0, :4] = d[9, 2] = np.nan
    together = paired_t(d)
    for study in range(40):
        np.testing.assert_allclose(paired_t(d[study]).error, together.error[study])


def test_equal_scores_have_no_spread() -> None:
    assert paired_t([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]).p().tolist() == [1.0, 0.0]


def test_correlation_is_the_noise_that_pairing_takes_away() -> None:
    """Pearson's where both vary alike, and less where they do not."""
    rng = np.random.default_rng(4)
    x = rng.standard_normal(9)
    y = x + rng.standard_normal(9)
    y = y / y.std() * x.std()
    rho = correlation(x, y)
    expected = stats.pearsonr(x, y)
    interval = expected.confidence_interval(0.9)
    assert rho == pytest.approx(expected.statistic)
    assert correlation_interval(rho, 9, alpha=0.1) == pytest.approx((interval.low, interval.high))
    assert correlation([*x, np.nan], [*y, 1.0]) == pytest.approx(rho)
    assert correlation(x, 3 * x) == pytest.approx(1 - 4 / 10)


def test_correlation_without_a_spread_or_pairs() -> None:
    for x, y in (([1.0, 1.0, 1.0], [2.0, 2.0, 2.0]), ([1.0], [1.0]), ([], [])):
        assert math.isnan(correlation(x, y))
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
