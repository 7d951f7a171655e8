"""From scores to claims: which pairs are compared, in which tier, what the numbers alone say, and how surely.

The tier is each arm's: `confirm` from 5 pairs on whose seeds did not also choose its or the baseline's nuisance values,
were all planned before the first run, and of which no single one turns a claim; else `screen`. Where 5 or more fresh
pairs exist, only they are compared. Where seeds were added until an arm was decided, the tier is `sequential` and
sequential.py gives the numbers.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtri, stdtrit

from gpt_lab.analysis import looks
from gpt_lab.analysis.comparison import RowTier, VerdictName
from gpt_lab.frame.paired_scores import Paired, fresh
from gpt_lab.stats import decision, power_analysis
from gpt_lab.stats.paired import ROUNDING, Array, Fit, paired_t
from gpt_lab.stats.robustness import LeftOut, by_medians, left_out, medians
from gpt_lab.stats.tiers import CONFIRMS
from gpt_lab.study.design import Design

LIKELY = 0.2
"""One minus the level of the intervals of effect and spread from which a range of seeds is told."""
REACH = 100
"""Seeds beyond which a decision counts as out of reach."""


WORDS: dict[int, VerdictName] = {
    decision.SMALL: "real but small",
    decision.EQUIVALENT: "equivalent",
    decision.OPEN: "undecided",
}


@dataclass(frozen=True)
class Verdicts:
    """Arrays over the variants: the fit, and what decision.decide made of it.

    Fields:
        differences: (variants, pairs) that are compared, NaN elsewhere.
        half: of the interval at level 1 - alpha, of the arm alone. p: of no difference; p_adjusted: over the family.
        fresh: the seeds that are compared chose nothing. late: some were not planned when the first run began.
        flat: every pair differs by the same number. skewed: the median does not make the claim that the mean does.
        dropped: arms that are compared on fresh seeds only.
    """

    fit: Fit
    differences: Array
    half: Array
    p: Array
    p_adjusted: Array
    claim: NDArray[np.int64]
    tiers: tuple[RowTier, ...]
    fresh: NDArray[np.bool_]
    late: NDArray[np.bool_]
    flat: NDArray[np.bool_]
    skewed: NDArray[np.bool_]
    medians: Array
    left_out: LeftOut
    dropped: int = 0


def verdict(claim: int, goal: str) -> VerdictName:
    """The word for a claim of stats/decision.py on variant - baseline."""
    if claim in (decision.LOWER, decision.HIGHER):
        return "better" if (claim == decision.LOWER) == (goal == "minimize") else "worse"
    return WORDS[claim]


def judge(
    paired: Paired,
    variants: Sequence[int],
    bases: Sequence[int],
    design: Design,
    sesoi: float,
    wish: str = "auto",
    planned: Collection[str] | None = None,
    to_come: Sequence[bool] | None = None,
) -> Verdicts:
    """What the numbers alone say of every variant.

    Args:
        variants, bases: places of the arms and of what each is compared with.
        sesoi: 0: none is stated.
        wish: the tier asked for (compare.compare).
        planned: the pairs that were stated before the first run; None: nobody knows.
        to_come: of each variant whether some of its runs, or its baseline's, have not ended; None: of none.
    """
    found = fresh(paired, variants, bases, CONFIRMS)
    scores = paired.scores
    differences = np.where(found.usable, scores[list(variants)] - scores[list(bases)], np.nan)
    flat = _flat(differences, scores)
    unplanned = np.array([planned is not None and pair not in planned for pair in paired.pairs], bool)
    late = (~np.isnan(differences) & unplanned).any(1)
    fit = paired_t(differences)
    able = found.fresh & (fit.pairs >= CONFIRMS)
    eligible = ~flat & (able if wish == "confirm" else np.ones_like(able))
    said = decision.decide(fit, alpha=design.alpha, sesoi=sesoi, eligible=eligible)
    without = left_out(differences, said.claim, alpha=design.alpha, sesoi=sesoi, eligible=eligible)
    apart = by_medians(differences, said.claim, alpha=design.alpha, sesoi=sesoi, eligible=eligible)
    alone = able & ~late & ~_fragile(said.claim, without.turns, apart)
    if to_come is not None:
        alone &= ~np.array(to_come, bool)
    confirm = (np.full_like(alone, wish == "confirm") | alone) & (wish != "screen")
    return Verdicts(
        fit=fit,
        differences=differences,
        half=fit.half_width(design.alpha),
        p=fit.p(),
        p_adjusted=said.p_adjusted,
        claim=said.claim,
        tiers=tuple("confirm" if high else "screen" for high in confirm),
        fresh=found.fresh,
        late=late,
        flat=flat,
        skewed=apart,
        medians=medians(differences),
        left_out=without,
        dropped=found.dropped,
    )


def judge_looks(
    paired: Paired, variants: Sequence[int], bases: Sequence[int], design: Design, sesoi: float
) -> Verdicts:
    """The same of a study whose seeds were added until each arm was decided."""
    assert design.looks is not None
    scores, pairs = paired.scores, paired.pairs
    every = scores[list(variants)] - scores[list(bases)]
    ordered, places = looks.ordered(every, pairs, design)
    found = looks.decide(ordered, design.looks, design.alpha, sesoi)
    differences = np.where(looks.used(found.standings, places, len(pairs)), every, np.nan)
    fit = paired_t(differences)
    flat = _flat(differences, scores)
    without = left_out(differences, found.claim, alpha=design.alpha, sesoi=sesoi, eligible=~flat)
    apart = by_medians(differences, found.claim, alpha=design.alpha, sesoi=sesoi, eligible=~flat)
    weak = (fit.pairs >= CONFIRMS) & _fragile(found.claim, without.turns, apart)
    none = np.zeros(len(fit.pairs), bool)
    return Verdicts(
        fit=fit,
        differences=differences,
        half=found.half,
        p=found.p,
        p_adjusted=found.p_adjusted,
        claim=found.claim,
        tiers=tuple("screen" if low else "sequential" for low in weak),
        fresh=~none,
        late=none,
        flat=flat,
        skewed=apart,
        medians=medians(differences),
        left_out=without,
    )


def seeds_to_plan(
    estimate: float, error: float, pairs: int, *, sesoi: float, alpha: float, arms: int
) -> tuple[int, int | None] | None:
    """Seeds of a new study that decides with a power of 80 %, from the least to the most that effect and spread allow.

    Decided is an arm that is called better, worse or equivalent. The truth is taken from 80 % intervals of the effect
    and of the spread; where it may be one that no number of seeds decides, there is no most.

    Args:
        error: standard error of the estimate over `pairs` pairs. sesoi: 0: none is stated.

    Returns:
        None: not within reach (more than REACH seeds at the least).
    """
    df = pairs - 1
    if df < 1 or not error > 0:
        return None
    deviation = error * pairs**0.5
    spread = [deviation * (df / float(chdtri(df, tail))) ** 0.5 for tail in (LIKELY / 2, 1 - LIKELY / 2)]
    half = float(stdtrit(df, 1 - LIKELY / 2)) * error
    size = abs(estimate)

    def needed(true: float, sd: float) -> int | None:
        if true >= sesoi:
            return power_analysis.sample_size_alone((true - sesoi) / sd, level=alpha / arms)
        return power_analysis.sample_size_alone((sesoi - true) / sd, word="equivalent", level=alpha / arms)

    likely = (max(size - half, 0.0), size, size + half)
    least = min((n for true in likely if (n := needed(true, min(spread))) is not None), default=None)
    if least is None or least > REACH:
        return None
    if likely[0] <= sesoi <= likely[2]:
        return least, None
    every = [needed(true, max(spread)) for true in likely]
    most = None if None in every else max(n for n in every if n is not None)
    return least, most if most is not None and most <= 10 * REACH else None


def _fragile(claim: NDArray[np.int64], turns: NDArray[np.bool_], apart: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Better and worse that one seed, or the median in the mean's place, would turn."""
    return np.isin(claim, (decision.LOWER, decision.HIGHER)) & (turns.any(1) | apart)


def _flat(differences: Array, scores: Array) -> NDArray[np.bool_]:
    """Arms of two pairs or more whose differences are all the same to rounding."""
    size = np.max(np.abs(scores), initial=0.0, where=~np.isnan(scores))
    shown = ~np.isnan(differences)
    high = np.where(shown, differences, -np.inf).max(1, initial=-np.inf)
    low = np.where(shown, differences, np.inf).min(1, initial=np.inf)
    with np.errstate(invalid="ignore"):
        return np.asarray((shown.sum(1) >= 2) & (high - low <= ROUNDING * size))
