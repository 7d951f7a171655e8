"""Verdicts of a study whose seeds were added until each arm was decided, and what its looks have spent.

The looks are those of sequential_seeds, taken here again from the runs. Intervals are repeated confidence
intervals at level 1 - alpha: they hold after stopping, whatever the reason. Claims are those of decision.decide with
p-values of the same kind, corrected by Holm over all arms that the sweep file compares. What stopped an arm is
Bonferroni's part of that, so an arm that a look decided stays decided, and the last word may name more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpt_lab.analysis.comparison import Comparison, Row
from gpt_lab.analysis.table import Table, columns
from gpt_lab.frame.study import Study
from gpt_lab.stats import decision
from gpt_lab.stats.alpha_spending import boundaries, spent
from gpt_lab.stats.interval import Interval
from gpt_lab.stats.paired import Array, paired_t
from gpt_lab.study.design import Design, Looks, shown
from gpt_lab.study.format.sequential_seeds import Standings, standings


@dataclass(frozen=True)
class Verdicts:
    """Arrays (..., arms): where each arm stands, and what is claimed of it.

    Fields:
        half: of the repeated interval; NaN before the first look. p: that holds at any look, of no difference.
    """

    standings: Standings
    half: Array
    p: Array
    p_adjusted: Array
    claim: NDArray[np.int64]


def decide(differences: ArrayLike, looks: Looks, alpha: float, sesoi: float) -> Verdicts:
    """The claims over a family (..., arms, pairs), pairs in the order of the seeds."""
    found = standings(differences, looks, alpha, sesoi)
    made = boundaries(looks.first, looks.last)
    judged = found.pairs > 0
    at = np.where(judged, found.pairs, looks.first)
    size = np.abs(found.estimate)

    def tail(distance: Array) -> Array:
        with np.errstate(divide="ignore", invalid="ignore"):
            t = np.where(distance > 0, distance / found.error, 0.0)
        return np.where(judged, made.p(at, t), 1.0)

    def corrected(p: Array) -> Array:
        absent = np.ones((*p.shape[:-1], max(looks.family - p.shape[-1], 0)))
        return decision.holm(np.concatenate([p, absent], -1))[..., : p.shape[-1]]

    p = tail(size)
    nonzero = corrected(p)
    beyond = corrected(tail(size - sesoi)) <= alpha
    inside = corrected(tail(sesoi - size)) <= alpha
    claim = np.select(
        [~judged, beyond & (found.estimate < 0), beyond, inside, nonzero <= alpha],
        [decision.OPEN, decision.LOWER, decision.HIGHER, decision.EQUIVALENT, decision.SMALL],
        decision.OPEN,
    )
    half = np.where(judged, made.critical(at, alpha), np.nan) * found.error
    return Verdicts(found, half, np.where(judged, p, np.nan), np.where(judged, nonzero, np.nan), claim)


def ordered(differences: Array, pairs: Sequence[str], design: Design) -> tuple[Array, NDArray[np.int64]]:
    """Differences (arms, pairs) in the order of the file's seeds, and where each of these stands in the table.

    A seed that the table lacks is NaN, its place -1; seeds that the file does not name are left out.
    """
    assert design.looks is not None
    named = [shown(value) for value in design.values[design.pair]][: design.looks.last]
    places = np.array([pairs.index(name) if name in pairs else -1 for name in named])
    return np.where(places >= 0, differences[:, places], np.nan), places


def used(found: Standings, places: NDArray[np.int64], pairs: int) -> NDArray[np.bool_]:
    """Which pairs (arms, pairs of the table) a verdict rests on: those of the look, or before it all complete ones."""
    kept = np.zeros((len(found.pairs), pairs), bool)
    counts = np.where(found.pairs > 0, found.pairs, found.whole)
    for arm, count in enumerate(counts):
        kept[arm, places[:count]] = True
    return kept


def sections(comparison: Comparison, study: Study) -> list[Table]:
    """The looks of each arm, what they spent, and the runs they saved; [] for a study without looks."""
    looks = comparison.design.looks
    if looks is None:
        return []
    rows = [row for row in comparison.rows if row.verdict != "baseline"]
    table = [_line(row, looks, comparison) for row in rows]
    tuned = study.runs["pair"].map(comparison.design.tunes).to_numpy(bool)
    runs = int((study.runs["state"] != "missing")[~tuned].sum())
    whole = (looks.family + 1) * looks.last
    fixed = f"{looks.last} {comparison.design.pair}s for every arm"
    sentences = [f"{runs} runs of the {whole} that {fixed} would take ({runs / whole:.0%})."]
    if any(0 < row.n < looks.last and row.verdict in ("better", "worse") for row in rows):
        sentences.append(
            "An arm that stopped early looks somewhat more different than it is, as a look decides sooner where chance "
            "adds to the difference: the interval allows for that, the estimate in it does not."
        )
    if any(_open(row, looks) for row in rows):
        sentences.append("Arms that are open get further seeds when the same `sweep` command is given again.")
    heads = ("arm", "looks", f"{comparison.design.pair}s", "alpha spent", "why no more")
    return [Table("Sequential seeds", tuple(sentences), columns(heads, {1, 2, 3}), tuple(table))]


def _line(row: Row, looks: Looks, comparison: Comparison) -> tuple[str, ...]:
    taken = max(row.n - looks.first + 1, 0)
    share = spent(row.n, looks.last, comparison.design.alpha / looks.family) if taken else 0.0
    why = "decided"
    if _open(row, looks):
        why = "open"
    elif row.n >= looks.last:
        why = f"all {looks.last} {comparison.design.pair}s"
    elif row.verdict in ("undecided", "real but small", "no data"):
        why = "lost a run"
    return (str(row.arm), str(taken), f"{row.n} of {looks.last}", f"{share:.2g}" if taken else "0", why)


def _open(row: Row, looks: Looks) -> bool:
    lost = {"diverged", "pruned", "without score"} & set(row.states)
    return row.verdict in ("undecided", "real but small", "no data") and row.n < looks.last and not lost


def correction(design: Design, arms: int) -> str:
    """How the verdicts on this many arms were corrected."""
    looks = design.looks
    assert looks is not None
    family = max(arms, looks.family)
    shared = f", Holm over {family} comparisons" if family > 1 else ""
    return f"alpha spent over looks at {looks.first} to {looks.last} {design.pair}s{shared}"


def floor(differences: Array, runs: int, variance: float, design: Design) -> Interval:
    """The interval of an arm that equals the baseline, after as many pairs as the arms have.

    Args:
        differences: (arms, pairs) that are compared. runs, variance: of the baseline's scores.
    """
    assert design.looks is not None
    fit = paired_t(differences)
    counted = fit.pairs >= 2
    pairs, spread = runs, 2 * variance
    if counted.any():
        pairs, spread = int(np.median(fit.pairs[counted])), float((fit.error**2 * fit.pairs)[counted].mean())
    at = min(max(pairs, design.looks.first), design.looks.last)
    critical = float(boundaries(design.looks.first, design.looks.last).critical(at, design.alpha))
    half = critical * math.sqrt(spread / at)
    return Interval(0.0, -half, half, at - 1.0, 1.0)
