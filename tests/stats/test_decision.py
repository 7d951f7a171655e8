"""Claims: the words of intervals, Holm against statsmodels, and one false claim a study at most."""

from __future__ import annotations

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests

from gpt_lab.stats.decision import EQUIVALENT, HIGHER, LOWER, OPEN, SMALL, decide, holm
from gpt_lab.stats.paired import Fit, paired_t


def fit(estimates: list[float], error: float = 0.01, pairs: int = 5) -> Fit:
    n = len(estimates)
    return Fit(np.array(estimates), np.full(n, error), np.full(n, pairs - 1.0), np.full(n, pairs, np.int64))


def test_holm_is_statsmodels() -> None:
    rng = np.random.default_rng(2)
    for m in (1, 2, 5, 40):
        p = rng.uniform(0, 0.2, (3, m)) ** 2
        p[0, 0] = p[0, -1] = 0.01
        np.testing.assert_allclose(holm(p), [multipletests(row, method="holm")[1] for row in p])


@pytest.mark.parametrize(
    "estimate, sesoi, claim",
    [
        (-0.05, 0.02, LOWER),
        (0.05, 0.02, HIGHER),
        (0.001, 0.03, EQUIVALENT),
        (-0.03, 0.01, SMALL),
        (0.01, 0.02, OPEN),
        (0.025, 0.03, OPEN),
        (-0.03, 0.0, LOWER),
        (0.001, 0.0, OPEN),
    ],
)
def test_one_arm_is_what_its_interval_says(estimate: float, sesoi: float, claim: int) -> None:
    one = fit([estimate])
    half = one.half_width(0.05)[0]
    low, high = estimate - half, estimate + half
    expected = OPEN
    if low > sesoi or high < -sesoi:
        expected = HIGHER if estimate > 0 else LOWER
    elif sesoi and -sesoi < low and high < sesoi:
        expected = EQUIVALENT
    elif sesoi and (low > 0 or high < 0):
        expected = SMALL
    assert decide(one, alpha=0.05, sesoi=sesoi).claim[0] == expected == claim


def test_without_a_margin_nothing_is_small_or_equivalent() -> None:
    d = np.random.default_rng(0).normal(0.3, 1, (3000, 3, 6))
    found = decide(paired_t(d), alpha=0.05).claim
    assert set(np.unique(found)) == {LOWER, HIGHER, OPEN}


def test_arms_that_cannot_be_judged_are_open_and_counted() -> None:
    three = fit([-0.04, -0.04, -0.04])
    alone = decide(fit([-0.04]), alpha=0.05).p_adjusted[0]
    found = decide(three, alpha=0.05, eligible=[True, False, False])
    assert found.claim.tolist() == [LOWER if 3 * alone <= 0.05 else OPEN, OPEN, OPEN]
    assert found.p_adjusted[0] == pytest.approx(3 * alone)
    assert decide(fit([-1.0], pairs=2), alpha=0.05).claim.tolist() == [OPEN]


@pytest.mark.parametrize("noise", [1.0, 2.0, 5.0])
@pytest.mark.parametrize("seeds", [3, 5])
def test_null_arms_beside_real_ones_are_rarely_called(noise: float, seeds: int) -> None:
    """Two arms that differ, two that do not, one of these noisier: false claims in 5 % of studies at most."""
    rng = np.random.default_rng(seeds)
    studies = 4000
    runs = rng.standard_normal((studies, 5, seeds))
    runs[:, 4] *= noise
    d = runs[:, 1:] - runs[:, :1] + np.array([-30.0, 30.0, 0.0, 0.0])[:, None]
    claim = decide(paired_t(d), alpha=0.05).claim
    assert np.isin(claim[:, 2:], (LOWER, HIGHER)).any(1).mean() < 0.05 + 3 * (0.05 * 0.95 / studies) ** 0.5
    assert (claim[:, :2] != OPEN).mean() > 0.7
