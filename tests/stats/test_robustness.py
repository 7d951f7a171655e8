"""One seed that turns a claim, and differences whose mean is not their middle."""

from __future__ import annotations

import numpy as np
import pytest

from gpt_lab.stats.decision import LOWER, OPEN, decide
from gpt_lab.stats.paired import paired_t
from gpt_lab.stats.robustness import by_medians, left_out, medians

SURE = [-1.0, -1.1, -0.9, -1.05, -0.95]


def test_a_clear_claim_needs_no_single_seed() -> None:
    claim = decide(paired_t([SURE]), alpha=0.05).claim
    found = left_out([SURE], claim, alpha=0.05, sesoi=0.0, eligible=[True])
    assert claim.tolist() == [LOWER] and not found.turns.any()
    assert (found.low[0], found.high[0]) == pytest.approx((-4.1 / 4, -3.9 / 4))


def test_the_seed_that_turns_a_claim_is_named() -> None:
    """Without the one large difference the others are not sure; without another one the claim may stay."""
    d = np.array([[-0.9, -1.3, -0.4, -1.0, -2.0, np.nan], [*SURE, -1.0]])
    claim = decide(paired_t(d), alpha=0.05, sesoi=0.3).claim
    found = left_out(d, claim, alpha=0.05, sesoi=0.3, eligible=[True, True])
    for place in range(6):
        alone = decide(paired_t(np.delete(d, place, 1)), alpha=0.05, sesoi=0.3).claim
        assert found.turns[:, place].tolist() == [
            bool(a != b and np.isfinite(x)) for a, b, x in zip(alone, claim, d[:, place], strict=True)
        ]
    assert found.turns[0].any() and not found.turns[1].any()


def test_a_seed_that_an_arm_lacks_turns_nothing_of_it() -> None:
    """Without the first seed both claims fall, for the arms are corrected together; only one arm has that seed."""
    d = np.array([[-1.7, -1.9, -0.6, -0.5, -1.6], [np.nan, -0.7, -0.5, -1.1, -0.3]])
    claim = decide(paired_t(d), alpha=0.05).claim
    assert claim.tolist() == [LOWER, LOWER]
    assert decide(paired_t(d[:, 1:]), alpha=0.05).claim.tolist() == [OPEN, OPEN]
    assert left_out(d, claim, alpha=0.05, sesoi=0.0, eligible=[True, True]).turns[:, 0].tolist() == [True, False]


def test_too_few_pairs_have_nothing_to_leave_out() -> None:
    found = left_out([[np.nan, 0.5]], [OPEN], alpha=0.05, sesoi=0.0, eligible=[True])
    assert not found.turns.any() and np.isnan(found.low[0]) and np.isnan(found.high[0])


def test_a_mean_that_is_not_the_middle() -> None:
    """One bad run draws the mean to `higher` where the median is not; a clear difference has both."""
    d = [[0.0, 0.01, 0.02, 0.0, 0.2, 0.35, 0.34], [0.5, 0.6, 0.5, 0.5, 0.45, 0.55, 0.5], [np.nan] * 7]
    assert medians(d)[:2].tolist() == [0.02, 0.5] and np.isnan(medians(d)[2])
    claim = decide(paired_t(d), alpha=0.2).claim
    assert by_medians(d, claim, alpha=0.2, sesoi=0.0, eligible=[True] * 3).tolist() == [True, False, False]
