"""What pairing was worth, against the definition, simulated studies and real runs of known correlation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import optimize, stats

from gpt_lab.analysis.compare import compare
from gpt_lab.stats import pairing_gain
from tests.report.made import arm, of_size, row, study


@pytest.mark.parametrize("pairs, correlation", [(3, 0.9), (5, 0.5), (5, 0.8), (5, 0.0), (7, -0.5), (20, 0.8)])
def test_an_unpaired_interval_of_so_many_runs_is_as_wide(pairs: int, correlation: float) -> None:
    found = pairing_gain.pairing_gain(pairs, correlation)
    assert found is not None
    paired = stats.t.ppf(0.975, pairs - 1) ** 2 * 2 * (1 - correlation) / pairs
    unpaired = stats.t.ppf(0.975, 2 * found.unpaired - 2) ** 2 * 2 / found.unpaired
    assert unpaired == pytest.approx(paired, rel=1e-6)
    assert found.by_error == pytest.approx(pairs / (1 - correlation))
    assert found.unpaired <= found.by_error, "pairing halves the degrees of freedom, which is never free"


def test_the_unpaired_runs_are_those_of_a_root_finder() -> None:
    for pairs in (3, 5, 50):
        for rho in (-0.9, 0.0, 0.7, 0.999, 1 - 1e-7):
            found = pairing_gain.pairing_gain(pairs, rho)
            wanted = stats.t.ppf(0.975, pairs - 1) ** 2 * (1 - rho) / pairs
            assert found is not None
            if found.unpaired > 2:
                width = lambda m, wanted=wanted: stats.t.ppf(0.975, 2 * m - 2) ** 2 / m - wanted  # noqa: E731
                assert found.unpaired == pytest.approx(optimize.brentq(width, 2, 1e9), rel=1e-8)
    beyond = pairing_gain.pairing_gain(500, 1 - 2e-9)
    assert beyond is not None and beyond.unpaired == pairing_gain.MOST


def test_saved_runs() -> None:
    """5 pairs at 0.8 stand for 13.7 unpaired runs of each arm, 17 more in both; many pairs come near n / (1 - rho)."""
    for pairs, correlation, saved in ((5, 0.8, 17), (5, 0.5, 2), (5, 0.0, -2), (5, -0.5, -3), (3, 0.5, 0)):
        found = pairing_gain.pairing_gain(pairs, correlation)
        assert found is not None and found.saved == saved
    many = pairing_gain.pairing_gain(400, 0.8)
    assert many is not None and many.unpaired == pytest.approx(many.by_error, rel=0.01)
    four = pairing_gain.pairing_gain(5, 0.8, arms=4)
    assert four is not None and four.saved == 34
    least = pairing_gain.pairing_gain(3, -1.0)
    assert least is not None and least.unpaired == 2, "fewer have no interval"


def test_where_nothing_can_be_said() -> None:
    assert (
        pairing_gain.pairing_gain(2, 0.5) is None
        and pairing_gain.pairing_gain(5, 1.0) is None
        and pairing_gain.pairing_gain(5, math.nan) is None
    )
    same = np.array([1.0, 1.0, 1.0, 1.0])
    assert pairing_gain.of_arm(same, same, 0.05) is None
    assert pairing_gain.of_all(np.zeros((1, 4)), np.zeros(1), 1, 0.05) is None


@pytest.mark.parametrize("truth", [0.8, 0.0, -0.4])
def test_a_planted_correlation_is_found(truth: float) -> None:
    """300 pairs: rho within its interval's reach, runs saved about 2 n rho / (1 - rho)."""
    rng = np.random.default_rng(5)
    scores = 2 + 0.01 * rng.multivariate_normal([0, 0], [[1, truth], [truth, 1]], 300).T
    found = compare(study(arm("rope", scores[0]) + arm("a", scores[1])))
    mine = row(found, "a")
    assert mine.rho == pytest.approx(truth, abs=0.1)
    worth = pairing_gain.of_arm(scores[1], scores[0], 0.05)
    assert worth is not None and worth.rho == mine.rho
    assert worth.saved == pytest.approx(600 * truth / (1 - truth), abs=0.1 * 600 / (1 - truth) ** 2)
    assert ("pairing saved" in found.details[0]) is (truth > 0 or worth.saved == 0)


def test_the_share_of_noise_counts_where_one_arm_is_noisier() -> None:
    """A perfect correlation of a noisy arm with a calm baseline takes little of the noise away."""
    calm = np.array([0.0, 1.0, 2.0, 3.0, 4.0])
    found = pairing_gain.of_arm(10 * calm, calm, 0.05)
    assert found is not None and found.rho == pytest.approx(1 - 81 / 101)


def test_in_words() -> None:
    found = compare(of_size(0.0, 0.01, seeds=7, spread=0.0005))
    (note,) = found.details
    assert "runs with the same seed correlate by 0.9" in note and "between 0." in note
    assert "as narrow as these 7 pairs give" in note and "pairing saved" in note
    assert "Each arm against its baseline: position=a 0.9" in note
    costs = pairing_gain.pairing_gain(5, -0.5)
    assert costs is not None and pairing_gain.describe(costs, "seed", {}).endswith("pairing cost 3 runs.")
    nothing = pairing_gain.pairing_gain(3, 0.5)
    assert nothing is not None and pairing_gain.describe(nothing, "seed", {}).endswith("pairing saved no run.")
