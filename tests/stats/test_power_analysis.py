"""Planned power is the power of the printed word: against statsmodels, and against studies simulated here."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from statsmodels.stats.power import TTestPower

from gpt_lab.stats.decision import EQUIVALENT, LOWER, decide
from gpt_lab.stats.paired import paired_t
from gpt_lab.stats.power_analysis import MOST, detectable, narrowest, power, sample_size


@pytest.mark.parametrize("n", [3, 5, 20])
def test_one_arm_is_the_noncentral_t(n: int) -> None:
    expected = TTestPower().solve_power(nobs=n, alpha=0.05, power=0.8, alternative="two-sided")
    assert detectable(n) == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("arms, n", [(1, 5), (4, 3), (4, 8)])
@pytest.mark.parametrize("rho", [0.0, 0.9])
def test_at_the_planned_size_80_percent_of_studies_get_the_word(arms: int, n: int, rho: float) -> None:
    rng = np.random.default_rng([arms, n])
    studies, run_sd = 4000, 0.02
    sd = run_sd * math.sqrt(2 * (1 - rho))
    common = rng.standard_normal((studies, 1, n))
    own = rng.standard_normal((studies, arms + 1, n))
    scores = run_sd * (math.sqrt(rho) * common + math.sqrt(1 - rho) * own)
    sesoi = 0.01
    scores[:, 1] -= sesoi + detectable(n, arms=arms) * sd
    claim = decide(paired_t(scores[:, 1:] - scores[:, :1]), alpha=0.05, sesoi=sesoi).claim
    assert 0.75 < (claim[:, 0] == LOWER).mean() < 0.85
    scores[:, 1] += sesoi + detectable(n, arms=arms) * sd
    sesoi = narrowest(n, arms=arms) * sd
    claim = decide(paired_t(scores[:, 1:] - scores[:, :1]), alpha=0.05, sesoi=sesoi).claim
    assert 0.75 < (claim == EQUIVALENT).mean() < 0.85


@pytest.mark.parametrize("arms, n", [(4, 3), (8, 5), (20, 4)])
def test_arms_that_share_the_baselines_runs_are_equivalent_as_often_as_planned(arms: int, n: int) -> None:
    scores = np.random.default_rng([arms, n, 1]).standard_normal((10_000, arms + 1, n)) * math.sqrt(0.5)
    claim = decide(paired_t(scores[:, 1:] - scores[:, :1]), alpha=0.05, sesoi=narrowest(n, arms=arms)).claim
    assert (claim == EQUIVALENT).mean() == pytest.approx(0.8, abs=0.017)


def test_seeds_are_the_fewest() -> None:
    for word in ("better", "equivalent"):
        n = sample_size(1.0, word=word, arms=3)
        assert n is not None and power(1.0, n, word=word, arms=3) >= 0.8 > power(1.0, n - 1, word=word, arms=3)
    assert sample_size(50.0) == 3
    assert sample_size(0.0) is None and sample_size(0.01) is None
    assert power(0.01, MOST) < 0.8


def test_more_seeds_and_fewer_arms_help() -> None:
    assert detectable(10) < detectable(5) < detectable(3) < detectable(3, arms=4)
    assert narrowest(10) < narrowest(5) and narrowest(5) > detectable(5)
    assert math.isinf(detectable(2))
    with pytest.raises(ValueError, match="pairs=1: a whole number, 2 at least"):
        power(1.0, 1)


@pytest.mark.parametrize(
    "call, said",
    [
        (lambda: power(math.nan, 5), "size=nan"),
        (lambda: sample_size(math.nan), "size=nan"),
        (lambda: power(1.0, math.nan), "pairs=nan"),  # type: ignore[arg-type]
        (lambda: power(1.0, 2.5), "pairs=2.5: a whole number"),  # type: ignore[arg-type]
        (lambda: power(1.0, 5, arms=1.5), "arms=1.5"),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_number_of_pairs_arms_or_units_is_refused(call: Callable[[], object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        call()
