"""Speed-ups and differences at equal cost: planted ones, what is never extrapolated, and the coverage of intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gpt_lab.stats.power_law import fit
from gpt_lab.stats.speedup import Ratio, Reach, interaction, jackknife, left_out

BUDGETS = np.array([1e6, 2e6, 4e6])
FLOOR, DROP, EXPONENT = 1.5, 0.6, 0.3


def loss(budget: float | np.ndarray) -> np.ndarray:
    return np.asarray(FLOOR + DROP * (np.asarray(budget) / 4e6) ** -EXPONENT)


def runs(rng: np.random.Generator, speedup: float, *, pairs: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """The baseline's losses (pairs, budgets) and the differences of a variant as good as `speedup` times the tokens."""
    of_seed = rng.normal(0, 0.01, (pairs, 1))
    baseline = loss(BUDGETS) + of_seed + rng.normal(0, noise, (pairs, 3))
    variant = loss(4e6 * speedup) + of_seed[:, 0] + rng.normal(0, noise, pairs)
    return baseline, variant - baseline[:, -1]


def reach(speedup: float, *, pairs: int = 5, noise: float = 1e-5, seed: int = 0) -> Reach:
    return Reach(BUDGETS, *runs(np.random.default_rng(seed), speedup, pairs=pairs, noise=noise), 4e6)


ONES = np.ones(5)


@pytest.mark.parametrize("planted", [0.6, 0.9, 1.0, 1.3, 1.9])
def test_planted_speedups_are_found(planted: float) -> None:
    found = reach(planted).speedup(4e6 * ONES, 4e6 * ONES, 0.05)
    assert found.estimate == pytest.approx(planted, rel=2e-3)
    assert found.low < planted < found.high
    assert found.text.startswith(f"{planted:.2f}x [")


def test_costs_scale_it() -> None:
    """1.5 times the tokens, each 1.2 times as dear for the variant: 1.25."""
    found = reach(1.5).speedup(ONES, 1.2 * ONES, 0.05)
    assert found.estimate == pytest.approx(1.25, rel=2e-3)
    assert reach(1.5).speedup(ONES, 2.0 * ONES, 0.05).estimate == pytest.approx(0.75, rel=2e-3)


def test_no_difference_is_exactly_one() -> None:
    rng = np.random.default_rng(1)
    losses = loss(BUDGETS) + rng.normal(0, 0.01, (5, 3))
    same = Reach(BUDGETS, losses, np.zeros(5), 4e6).speedup(ONES, ONES, 0.05)
    assert (same.estimate, same.low, same.high) == pytest.approx((1.0, 1.0, 1.0))


@pytest.mark.parametrize("planted, said", [(2.3, ">2x"), (40.0, ">2x"), (0.4, "<0.5x"), (0.05, "<0.5x")])
def test_nothing_beyond_twice_or_half_is_a_number(planted: float, said: str) -> None:
    assert reach(planted).speedup(ONES, ONES, 0.05).text.split()[0] == said


def test_limits_follow_the_cost() -> None:
    """Twice the tokens is where the curve ends; at 1.25 times the cost per token that is 1.6 times the cost."""
    assert reach(3.0).speedup(ONES, 1.25 * ONES, 0.05).text.startswith(">1.6x")
    assert Ratio(1.9, 1.5, 2.4).text == "1.90x [1.50, >2]"
    assert Ratio(None, reason="why").text == "–"
    assert Ratio(1.3).text == "1.30x"


def test_a_loss_below_the_floor_is_beyond_and_has_no_interval() -> None:
    losses = loss(BUDGETS) + np.linspace(-0.001, 0.001, 5)[:, None]
    found = Reach(BUDGETS, losses, np.full(5, -1.0), 4e6).speedup(ONES, ONES, 0.05)
    assert found.text == ">2x"


def test_points_that_determine_no_curve_give_no_number() -> None:
    rng = np.random.default_rng(0)
    noisy = Reach(BUDGETS, loss(BUDGETS) + rng.normal(0, 0.15, (3, 3)), np.full(3, -0.1), 4e6)
    assert noisy.refused
    assert noisy.speedup(np.ones(3), np.ones(3), 0.05) == Ratio(None, reason=noisy.refused)
    flat = Reach(BUDGETS, np.full((3, 3), 2.0), np.full(3, -0.1), 4e6)
    assert "do not fall" in flat.refused
    assert flat.matched(np.ones(3), 1.5 * np.ones(3)).estimate is None
    with pytest.raises(ValueError, match="2 pairs"):
        Reach(BUDGETS, loss(BUDGETS) * np.ones((2, 1)), np.zeros(2), 4e6)


def test_at_equal_cost_the_baseline_moves_along_its_curve() -> None:
    made = reach(1.0)
    dearer = made.matched(ONES, 1.5 * ONES)
    assert dearer.estimate == pytest.approx(float(loss(4e6) - loss(6e6)), abs=1e-4)
    assert dearer.pairs == 5 and 0 < dearer.error < 1e-4
    level = made.matched(ONES, ONES)
    assert level.estimate == pytest.approx(float(made.change[0]))
    assert level.error == pytest.approx(jackknife(made.change))
    far = made.matched(ONES, 2.5 * ONES)
    assert far.estimate is None and "2.5 times" in far.reason


def test_the_jackknife_of_a_mean_is_its_standard_error() -> None:
    x = np.random.default_rng(0).normal(size=7)
    assert jackknife(left_out(x)) == pytest.approx(x.std(ddof=1) / math.sqrt(7))
    assert left_out(x)[0] == pytest.approx(x.mean()) and left_out(x)[3] == pytest.approx(np.delete(x, 2).mean())


def test_noise_beside_pairs_and_budgets() -> None:
    rng = np.random.default_rng(0)
    losses = rng.normal(0, 0.02, (400, 4)) + rng.normal(0, 1, (400, 1)) + np.arange(4)
    assert math.sqrt(interaction(losses)) == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize("pairs", [3, 5, 10])
@pytest.mark.parametrize("planted", [0.75, 1.0, 1.4])
def test_intervals_cover(pairs: int, planted: float) -> None:
    """The jackknife's 95 % intervals, on 1000 simulated studies: a true coverage of 95 % gives 93.3 to 96.7 %.

    Chosen by this simulation, with a noise of 0.002 to 0.015 and 3 to 6 budgets: the jackknife covers 93 to 96 %, a fit
    for each seed 94 to 96 % but finds no answer in up to 12 % of noisy studies, and the curve taken as known (delta
    method on the differences alone) 74 to 97 %.
    """
    rng = np.random.default_rng(pairs)
    made = [Reach(BUDGETS, *runs(rng, planted, pairs=pairs, noise=0.004), 4e6) for _ in range(1000)]
    ones = np.ones(pairs)
    found = [one.speedup(ones, ones, 0.05) for one in made]
    given = [one for one in found if one.estimate is not None]
    assert len(given) > 990
    share = np.mean([one.low <= planted <= one.high for one in given])
    assert 0.93 <= share <= 0.975
    truth = float(loss(4e6 * planted) - loss(4e6 * 1.3))
    matched = [one.matched(ones, 1.3 * ones) for one in made]
    t = {3: 4.303, 5: 2.776, 10: 2.262}[pairs]
    inside = [abs(one.estimate - truth) <= t * one.error for one in matched if one.estimate is not None]
    assert len(inside) > 990
    assert 0.93 <= np.mean(inside) <= 0.975


def test_the_curve_alone_is_not_the_uncertainty() -> None:
    """An interval from the differences alone, as if the curve were known, is too narrow: what the jackknife mends."""
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(400):
        losses, differences = runs(rng, 1.6, pairs=10, noise=0.006)
        law = fit(BUDGETS, losses.mean(0))
        centre = float(law.budget(law.at(4e6) + differences.mean()))
        slope = float(law.at(centre * 1.001) - law.at(centre)) / math.log(1.001)
        half = 2.262 * differences.std(ddof=1) / math.sqrt(10) / abs(slope)
        covered.append(abs(math.log(centre / 4e6 / 1.6)) <= half)
    assert np.mean(covered) < 0.9
