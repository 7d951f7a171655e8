"""Contrasts: published effects and margins, half-normal places, and how often chance is called an effect."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from gpt_lab.analysis.compare import compare
from gpt_lab.analysis.sections.effects import judge
from gpt_lab.stats import contrasts
from tests.report.factorials import FILTRATION, NAMES, design, noise, study


def test_published_effects_and_lenth() -> None:
    """Montgomery's table of effects; his PSE 2.625, margin of error 6.748 and simultaneous one 13.699."""
    high = np.array([[bool(i >> j & 1) for j in range(4)] for i in range(16)])
    every, rates = contrasts.distinct(NAMES[:4]), np.array(FILTRATION, float)[:, None]
    found = contrasts.per_pair(contrasts.coefficients(high, NAMES[:4], every), rates)[:, 0]
    names = ["".join(sorted(one)) for one in every]
    assert dict(zip(names, found, strict=True)) == pytest.approx(
        {
            "a": 21.625,
            "b": 3.125,
            "c": 9.875,
            "d": 14.625,
            "ab": 0.125,
            "ac": -18.125,
            "ad": 16.625,
            "bc": 2.375,
            "bd": -0.375,
            "cd": -1.125,
            "abc": 1.875,
            "abd": 4.125,
            "acd": -1.625,
            "bcd": -2.625,
            "abcd": 1.375,
        }
    )
    scale = contrasts.lenth(found)
    assert (scale.pse, scale.df) == (2.625, 5.0)
    assert (scale.margin, scale.simultaneous) == pytest.approx((6.748, 13.699), abs=0.002)


def test_half_normal_places() -> None:
    """Daniel 1959: the i-th of m smallest at the normal quantile of 1/2 + (i - 1/2) / 2m."""
    from scipy.stats import norm

    sizes = [3.0, -1.0, 0.5, -8.0]
    assert contrasts.half_normal(sizes) == pytest.approx(norm.ppf(0.5 + (np.array([3, 2, 1, 4]) - 0.5) / 8))


def test_the_interaction_test_holds_its_level() -> None:
    """2,000 studies of 3 and of 5 seeds with main effects and seed effects but no interaction: 5 % are called sure."""
    rng = np.random.default_rng(0)
    high = np.array([[False, False], [True, False], [False, True], [True, True]])
    weights = contrasts.coefficients(high, ("a", "b"), [frozenset({"a", "b"})])
    made_up = study(design(2), noise(0), 3)
    comparison = compare(made_up)
    for seeds in (3, 5):
        base = np.array([0.0, 0.3, -0.2, 0.1])[None, :, None]
        scores = base + rng.normal(0, 1, (2000, 1, seeds)) + rng.normal(0, 0.5, (2000, 4, seeds))
        each = np.array([contrasts.per_pair(weights, one)[0] for one in scores])
        names = [str(i) for i in range(2000)]
        judged = judge(names, each, scores[0], comparison, orders=[2] * 2000, simple=[()] * 2000)
        excluded = [one.interval is not None and not one.interval.low <= 0 <= one.interval.high for one in judged]
        assert abs(np.mean(excluded) - 0.05) < 0.01


def test_holm_holds_the_family() -> None:
    """2,000 studies of a 2^3 without any effect: one of the six effects is called sure in 5 % of them at most."""
    rng = np.random.default_rng(1)
    made_up = study(design(3, sesoi=1e-9), noise(0), 3)
    comparison = compare(made_up)
    high = np.array(list(itertools.product((False, True), repeat=3)))
    wanted = contrasts.distinct(NAMES[:3], (), 2)
    weights = contrasts.coefficients(high, NAMES[:3], wanted)
    names = [str(i) for i in range(6)]
    false = 0
    for _ in range(2000):
        scores = rng.normal(2, 0.01, (8, 3))
        each = contrasts.per_pair(weights, scores)
        judged = judge(names, each, scores, comparison, orders=[1] * 6, simple=[()] * 6)
        false += any(one.word != "undecided" for one in judged)
    assert 0.03 < false / 2000 < 0.06, "the effects are independent, so Holm wastes little"
