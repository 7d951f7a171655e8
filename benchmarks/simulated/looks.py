"""Whether sequential seeds keep their promise: false verdicts, coverage after stopping, runs against a fixed design.

Studies are made as in studies.py, with all the pairs of the fixed design, and judged twice by the real code:
by looks that take only the first of them, and by the fixed design that takes them all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.simulated.studies import Condition, effects_of, generator, judge, simulate
from gpt_lab.analysis import looks as sequential
from gpt_lab.stats import decision
from gpt_lab.study.design import Looks


@dataclass(frozen=True)
class Looked:
    """Shares over the studies of a condition, at alpha.

    Fields:
        false_differences: of studies that call any arm better or worse that does not lie beyond the band, or real but
            small one that equals the baseline. false_equivalences: any equivalent that does not lie inside it.
        coverage: of true differences inside the interval at the look that stopped; coverage_worst: in the arm with the
            least.
        runs: those used over those of the fixed design. pairs: of an arm, on average.
        decided, decided_fixed: of arms called better, worse or equivalent by the looks, and by the fixed design.
        same: of the fixed design's such verdicts, how many the looks give too. opposite: how many they contradict.
        overstated: of arms called better or worse, mean estimate over the true effect; None without any.
    """

    studies: int
    false_differences: float
    false_equivalences: float
    coverage: float
    coverage_worst: float
    runs: float
    pairs: float
    decided: float
    decided_fixed: float
    same: float | None
    opposite: float | None
    overstated: float | None


def calibrate_looks(
    condition: Condition, first: int, sesoi: float, *, studies: int, seed: int = 0, alpha: float = 0.05
) -> Looked:
    """Simulates and judges studies; the same seed gives the same numbers.

    Args:
        condition: its seeds are the most pairs. first: pairs of the first look.
    """
    scores = simulate(condition, studies, generator(condition, seed))
    differences = scores[:, 1:] - scores[:, :1]
    looks, truth = Looks(first, condition.seeds, condition.arms), effects_of(condition)
    judged = sequential.decide(differences, looks, alpha, sesoi)
    fixed = judge(differences, alpha, sesoi).claim
    claim, pairs, estimate = judged.claim, judged.standings.pairs, judged.standings.estimate
    false = np.select(
        [claim == decision.LOWER, claim == decision.HIGHER, claim == decision.SMALL],
        [truth >= -sesoi, truth <= sesoi, truth == 0],
        False,
    )
    inside = np.abs(estimate - truth) <= judged.half
    words = (decision.LOWER, decision.HIGHER, decision.EQUIVALENT)
    mine, theirs = np.isin(claim, words), np.isin(fixed, words)
    told = np.isin(claim, words[:2]) & (truth != 0)
    ratio = np.where(told, estimate / np.where(truth == 0, 1.0, truth), np.nan)
    return Looked(
        studies=studies,
        false_differences=float(false.any(1).mean()),
        false_equivalences=float(((claim == decision.EQUIVALENT) & (np.abs(truth) >= sesoi)).any(1).mean()),
        coverage=float(inside.mean()),
        coverage_worst=float(inside.mean(0).min()),
        runs=float((pairs.sum(1) + pairs.max(1)).mean() / ((condition.arms + 1) * condition.seeds)),
        pairs=float(pairs.mean()),
        decided=float(mine.mean()),
        decided_fixed=float(theirs.mean()),
        same=float((claim == fixed)[theirs].mean()) if theirs.any() else None,
        opposite=float((mine & (claim != fixed))[theirs].mean()) if theirs.any() else None,
        overstated=float(np.nanmean(ratio)) if told.any() else None,
    )


def beyond(arms: int, seeds: int, distance: float, sesoi: float) -> Condition:
    """Arms that lie this far beyond the band's edges, by turns below and above.

    Args:
        distance, sesoi: in units of the deviation of a pair's difference, which at rho 1/2 is that of a run.
    """
    size = sesoi + distance
    return Condition(arms, seeds, effects=tuple(size if arm % 2 else -size for arm in range(arms)))
