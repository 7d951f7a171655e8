"""Planted curves are found again, and points that show none are refused."""

from __future__ import annotations

import numpy as np
import pytest

from gpt_lab.stats.power_law import fit, reaches

BUDGETS = np.array([1e6, 2e6, 4e6, 8e6])


@pytest.mark.parametrize("floor", [0.0, 0.7, 1.9])
@pytest.mark.parametrize("exponent", [0.07, 0.3, 1.0])
def test_planted_curves_are_found(floor: float, exponent: float) -> None:
    law = fit(BUDGETS, floor + 0.4 * (BUDGETS / 4e6) ** -exponent)
    assert law.determined
    assert float(law.exponent) == pytest.approx(exponent, rel=1e-3)
    assert float(law.floor) == pytest.approx(floor, abs=2e-3)
    assert float(law.at(3e7)) == pytest.approx(floor + 0.4 * (3e7 / 4e6) ** -exponent, rel=1e-4)
    assert float(law.budget(law.at(5e6))) == pytest.approx(5e6)
    assert law.budget(floor - 0.01) == np.inf


def test_many_curves_at_once_are_each_its_own() -> None:
    """Exactly three budgets: the curve goes through them."""
    exponents, budgets = np.array([0.1, 0.2, 0.5]), BUDGETS[:3]
    losses = 1 + 0.5 * (budgets / 2e6) ** -exponents[:, None]
    together = fit(budgets, losses)
    assert together.exponent == pytest.approx(exponents, rel=1e-3)
    for k in range(3):
        assert float(fit(budgets, losses[k]).exponent) == float(together.exponent[k])
    assert np.sqrt(together.squares) == pytest.approx(0, abs=1e-6)


def test_it_is_least_squares() -> None:
    """No neighbour of the fit under noise is better."""
    losses = 1.5 + 0.6 * (BUDGETS / 4e6) ** -0.3 + np.array([0.004, -0.006, 0.005, -0.002])
    law = fit(BUDGETS, losses)
    for change in (0.98, 1.02):
        exponent = float(law.exponent) * change
        x = np.stack([np.ones(4), (BUDGETS / law.scale) ** -exponent], 1)
        squares = np.linalg.lstsq(x, losses, rcond=None)[1]
        assert float(squares[0]) > float(law.squares)


@pytest.mark.parametrize(
    "losses", [[2, 2, 2, 2], [1.0, 1.1, 1.2, 1.3], [2.0, 1.0, 1.0, 1.0]], ids=["flat", "rising", "one step"]
)
def test_what_is_no_power_law_is_not_determined(losses: list[float]) -> None:
    assert not fit(BUDGETS, losses).determined


def test_a_floor_below_zero_is_none() -> None:
    """A straight fall over log D: the free fit's E would be far below 0."""
    law = fit(BUDGETS, 1.0 - 0.3 * np.log(BUDGETS / 4e6))
    assert float(law.floor) == 0.0


def test_two_budgets_are_no_curve() -> None:
    with pytest.raises(ValueError, match="3 different ones"):
        fit([1e6, 1e6, 2e6], [2.0, 2.0, 1.9])


def test_reaches_tells_how_well_points_determine_an_answer() -> None:
    losses = 1.5 + 0.6 * (BUDGETS / 8e6) ** -0.3
    truth = 8e6 * (0.6 / 0.55) ** (1 / 0.3)
    sharp = reaches(BUDGETS, losses, 8e6, -0.05, 1e-9)
    vague = reaches(BUDGETS, losses, 8e6, -0.05, 1e-3)
    assert sharp == pytest.approx((truth, truth), rel=0.02)
    assert vague[0] < truth < vague[1] and vague[1] > 1.5 * vague[0]
    assert reaches(BUDGETS, losses, 8e6, 0.0, 1e-3) == pytest.approx((8e6, 8e6))
