"""Critical values of looks: known ones, simulated ones, and what p-values and intervals rely on."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import stdtrit

from gpt_lab.stats.alpha_spending import LEVELS, boundaries, spent


def crossed(first: int, last: int, alpha: float, walks: int = 200_000) -> np.ndarray:
    """Share of walks without a drift that have crossed by each look: a plain simulation, which knows no recursion."""
    x = np.random.default_rng(0).standard_normal((walks, last))
    n = np.arange(1, last + 1)
    mean = x.cumsum(1) / n
    spread = np.sqrt(np.maximum((x**2).cumsum(1) - n * mean**2, 1e-300) / np.maximum(n - 1, 1) / n)
    t = np.abs(mean / spread)[:, first - 1 :]
    over = t > boundaries(first, last).critical(np.arange(first, last + 1), alpha)
    return np.array([over[:, : look + 1].any(1).mean() for look in range(over.shape[1])])


@pytest.mark.parametrize("pairs, alpha", [(3, 0.05), (5, 0.05), (5, 0.0125), (10, 0.3)])
def test_a_single_look_is_the_t_test(pairs: int, alpha: float) -> None:
    critical = boundaries(pairs, pairs).critical(pairs, alpha)
    assert critical == pytest.approx(stdtrit(pairs - 1, 1 - alpha / 2), rel=2e-3)


@pytest.mark.parametrize("first, last, alpha", [(3, 10, 0.05), (3, 6, 0.0125), (5, 20, 0.05)])
def test_each_look_spends_its_part(first: int, last: int, alpha: float) -> None:
    expected = np.array([spent(pairs, last, alpha) for pairs in range(first, last + 1)])
    assert expected[-1] == alpha
    found = crossed(first, last, alpha)
    assert np.abs(found - expected).max() < 4 * np.sqrt(alpha / 200_000)


def test_naive_looks_would_not() -> None:
    """The control: the t-test's own critical value after each of eight looks."""
    x = np.random.default_rng(1).standard_normal((20_000, 10))
    n = np.arange(1, 11)
    mean = x.cumsum(1) / n
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.abs(mean) / np.sqrt(((x**2).cumsum(1) - n * mean**2) / (n - 1) / n)
    assert (t[:, 2:] > stdtrit(n[2:] - 1, 0.975)).any(1).mean() == pytest.approx(0.166, abs=0.01)


def test_the_committed_values_of_ten_seeds() -> None:
    found = boundaries(3, 10).critical(np.arange(3, 11), 0.05)
    assert found == pytest.approx([10.965, 6.901, 4.989, 4.085, 3.568, 3.231, 2.990, 2.806], rel=1e-3)


def test_p_values_are_the_levels_that_just_cross() -> None:
    made = boundaries(3, 10)
    at = np.arange(3, 11)
    for alpha in (0.2, 0.05, 0.0125, 0.001):
        assert made.p(at, made.critical(at, alpha)) == pytest.approx(alpha)
        assert made.p(at, -made.critical(at, alpha)) == pytest.approx(alpha)
    assert np.all(np.diff(made.table, axis=1) < 0), "critical values fall with alpha at every look"
    assert made.p(10, 0.0) == 1
    assert made.p([3, 10], np.inf) == pytest.approx([LEVELS[0]] * 2)
