"""Speed-ups, and verdicts at equal tokens, FLOPs and seconds: from a study to the sections of its report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gpt_lab import metrics
from gpt_lab.analysis import wording
from gpt_lab.analysis.comparison import Comparison, Row, VerdictName
from gpt_lab.analysis.judge import verdict
from gpt_lab.analysis.sections.baseline_curve import Curve, Schedules, curve, per_pair, shared
from gpt_lab.analysis.table import Table, columns
from gpt_lab.frame.paired_scores import Paired, fresh, pair_up, references
from gpt_lab.frame.study import Study
from gpt_lab.stats.decision import decide
from gpt_lab.stats.interval import Interval
from gpt_lab.stats.paired import Array, Fit
from gpt_lab.stats.power_law import PowerLaw
from gpt_lab.stats.speedup import FEWEST_PAIRS, Matched, Ratio, Reach, usable
from gpt_lab.stats.tiers import CONFIRMS
from gpt_lab.study.design import Settings
from gpt_lab.validity.compared import PLACES, SAME
from gpt_lab.validity.measures import uneven
from gpt_lab.validity.rule import Doubt

COSTS = {"tokens": "per token", "flops": "per FLOP", "seconds": "per second"}
NAMES = {"tokens": "tokens", "flops": "FLOPs", "seconds": "seconds"}


@dataclass(frozen=True)
class AtCost:
    """A variant against a baseline that spends as much.

    Fields:
        verdict: None where it is not determined, for the `reason`; the reason may also forbid a verdict.
    """

    verdict: VerdictName | None
    delta: Interval | None = None
    reason: str = ""


@dataclass
class Line:
    """One variant.

    Fields:
        index, base: places of its arm and its baseline's among the arms.
        compared: the pairs that the report compares.
        used: those of them that have the whole curve. reach: None where the curve tells nothing, for the `reason`.
        ratios, verdicts: by kind of cost (COSTS).
    """

    row: Row
    index: int
    base: int
    compared: NDArray[np.bool_]
    used: NDArray[np.bool_]
    reach: Reach | None = None
    reason: str = ""
    ratios: dict[str, Ratio] = field(default_factory=dict)
    verdicts: dict[str, AtCost] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """All variants, the curve of each baseline (or why there is none), and what the runs spent (arms, pairs)."""

    lines: tuple[Line, ...]
    curves: Mapping[int, Curve | str]
    paired: Paired
    spent: Mapping[str, Array]


def answer(comparison: Comparison, study: Study) -> Answer | None:
    """The numbers behind the sections; None where nothing is compared or the metric is no loss."""
    design, runs = comparison.design, study.runs
    rows = [row for row in comparison.rows if row.delta is not None and row.n >= FEWEST_PAIRS]
    metric = metrics.TABLE.get(design.metric)
    is_loss = metric is not None and metric.loss and design.goal == metric.goal
    if not rows or design.baseline is None or not is_loss:
        return None
    paired = pair_up(runs, design)
    place = {arm: i for i, arm in enumerate(paired.arms)}
    known = {arm: other for arm, other in references(design, paired.arms).items() if other is not None}
    at = [(place[row.arm], place[known[row.arm]]) for row in rows]
    chosen = fresh(paired, [i for i, _ in at], [base for _, base in at], CONFIRMS)
    spent = {cost: per_pair(runs, paired, cost) for cost in COSTS}
    bases = {base for _, base in at}
    found = Answer(
        tuple(Line(row, i, base, used, used) for row, (i, base), used in zip(rows, at, chosen.usable, strict=True)),
        {base: curve(study, paired, design, base, spent["tokens"]) for base in bases},
        paired,
        spent,
    )
    blocked = {row.arm: comparison.doubted(row.arm, "equal cost") for row in rows}
    apart = _apart(runs[paired.finished])
    used = runs[paired.finished]
    schedules = Schedules(used)
    laws: dict[tuple[int, bytes], PowerLaw] = {}
    for line in found.lines:
        forbidden = next((doubt.text for doubt in blocked[line.row.arm] if "all" in doubt.blocks), "")
        line.reason = forbidden or _reach(line, found, schedules, design.alpha, laws)
        if apart:
            line.ratios.pop("seconds", None)
    _judge(found, apart, {base: uneven(used, paired.arms[base]) for base in bases}, blocked, comparison)
    return found


def _reach(
    line: Line, found: Answer, schedules: Schedules, alpha: float, laws: dict[tuple[int, bytes], PowerLaw]
) -> str:
    """Fills in a variant's reach and speed-ups; why there are none, or nothing.

    Args:
        laws: takes each fitted law by its baseline and pairs, which most variants share.
    """
    of_base = found.curves[line.base]
    if isinstance(of_base, str):
        return of_base
    arms = found.paired.arms
    if of_base.evaluations and not schedules.same(arms[line.index], arms[line.base]):
        return "its schedule or its tokens are not those of the baseline's curve"
    line.used = line.compared & np.isfinite(of_base.losses).all(1)
    if line.used.sum() < FEWEST_PAIRS:
        return f"fewer than {FEWEST_PAIRS} pairs have every point of the baseline's curve"
    anchor = shared(found.spent["tokens"][line.base, line.used])
    if anchor is None or shared(found.spent["tokens"][line.index, line.used]) is None:
        return "its runs, or the baseline's, differ in tokens"
    scores = found.paired.scores[:, line.used]
    losses, fitted = of_base.losses[line.used], (line.base, line.used.tobytes())
    reach = Reach(of_base.budgets, losses, scores[line.index] - scores[line.base], anchor, laws.get(fitted))
    laws[fitted] = reach.law
    if reach.refused:
        return reach.refused
    line.reach = reach
    for cost, spent in found.spent.items():
        base, mine = spent[line.base, line.used], spent[line.index, line.used]
        if usable(base) and usable(mine):
            line.ratios[cost] = reach.speedup(base, mine, alpha, interval=not of_base.rough)
    return ""


def _judge(
    found: Answer,
    apart: str,
    unlike: Mapping[int, Mapping[Settings, str]],
    blocked: Mapping[Settings, Sequence[Doubt]],
    comparison: Comparison,
) -> None:
    """Fills in the verdicts, those of all kinds of cost corrected together.

    Args:
        apart: why no seconds compare. unlike: by baseline and arm, why theirs do not.
    """
    estimates: dict[tuple[int, str], Matched] = {}
    for number, line in enumerate(found.lines):
        of_base = found.curves[line.base]
        busy = unlike.get(line.base, {}).get(line.row.arm, "")
        for cost in COSTS:
            spent, elsewhere = found.spent[cost], (apart or busy) if cost == "seconds" else ""
            base, mine = spent[line.base, line.compared], spent[line.index, line.compared]
            if elsewhere or not (usable(base) and usable(mine)):
                line.verdicts[cost] = AtCost(None, reason=elsewhere or f"{NAMES[cost]} are not recorded")
            elif abs(float(mine.mean() / base.mean()) - 1) <= SAME:
                line.verdicts[cost] = AtCost(line.row.verdict, line.row.delta)
            elif line.reach is None or isinstance(of_base, str):
                line.verdicts[cost] = AtCost(None, reason=line.reason)
            elif of_base.rough:
                line.verdicts[cost] = AtCost(None, reason="the baseline's curve is one in mid-schedule")
            else:
                one = line.reach.matched(spent[line.base, line.used], spent[line.index, line.used])
                if one.estimate is None:
                    line.verdicts[cost] = AtCost(None, reason=one.reason)
                else:
                    estimates[number, cost] = one
    for (number, cost), decided in _decided(estimates, found.lines, blocked, comparison).items():
        found.lines[number].verdicts[cost] = decided


def _decided(
    estimates: Mapping[tuple[int, str], Matched],
    lines: Sequence[Line],
    blocked: Mapping[Settings, Sequence[Doubt]],
    comparison: Comparison,
) -> dict[tuple[int, str], AtCost]:
    """Over the family of what is estimated here and of the report's own comparisons, which count as not rejected."""
    design, known = comparison.design, list(estimates.values())
    rest = len(comparison.rows) - 1
    fit = Fit(
        np.array([*(math.nan if one.estimate is None else one.estimate for one in known), *[math.nan] * rest]),
        np.array([*(one.error for one in known), *[math.nan] * rest]),
        np.array([*(one.pairs - 1.0 for one in known), *[math.nan] * rest]),
        np.array([*(one.pairs for one in known), *[0] * rest], np.int64),
    )
    claims = decide(fit, alpha=design.alpha, sesoi=comparison.band).claim
    half, p = fit.half_width(design.alpha), fit.p()
    result = {}
    for k, ((number, cost), one) in enumerate(estimates.items()):
        assert one.estimate is not None
        ends = (one.estimate - float(half[k]), one.estimate + float(half[k]))
        delta = Interval(one.estimate, *ends, one.pairs - 1.0, float(p[k]))
        name = verdict(int(claims[k]), design.goal)
        against = [doubt for doubt in blocked[lines[number].row.arm] if name in doubt.blocks]
        result[number, cost] = AtCost("undecided", delta, against[0].text) if against else AtCost(name, delta)
    return result


def _apart(runs: pd.DataFrame) -> str:
    """Why seconds cannot be compared; empty where they can."""
    for name in PLACES:
        column = f"env.{name}"
        if column in runs and runs[column].astype(str).nunique() > 1:
            return f"the runs differ in {name}: their seconds do not compare"
    return ""


def make(comparison: Comparison, study: Study) -> list[Table]:
    """The sections of a report; none where there is nothing to say."""
    found = answer(comparison, study)
    if found is None:
        return []
    base = f"{comparison.design.baseline_arm}{wording.within(comparison.design)}"
    if all(line.reach is None for line in found.lines):
        return []
    return [_speedups(found, comparison, base), _verdicts(found, comparison)]


def _speedups(found: Answer, comparison: Comparison, base: str) -> Table:
    costs = [cost for cost in COSTS if any(cost in line.ratios for line in found.lines)]
    rows = tuple(
        (str(line.row.arm), *(_ratio(line, cost, found) for cost in costs))
        for line in found.lines
        if line.reach is not None
    )
    said = [
        (
            f"What {base} must spend to end where the arm ended, over what the arm spent: above 1 the arm is faster. "
            f"{wording.percent(comparison.design.alpha)} intervals over pairs; beyond twice or half its tokens nothing "
            "is extrapolated."
        )
    ]
    sources = {c.said: c for c in found.curves.values() if isinstance(c, Curve)}
    for text, source in sources.items():
        said.append(f"The baseline's loss curve E + A·D⁻ᵃ goes through {text}.")
        if source.rough:
            said.append(
                "Warning: these are losses in mid-schedule, and a run that ends there would have ended lower. The "
                "speed-ups are rough, and no interval would cover that error: sweep several budgets for exact ones."
            )
    said += _reasons([(str(line.row.arm), line.reason) for line in found.lines if line.reach is None])
    heads = ("arm", *(NAMES[cost] for cost in costs))
    return Table(f"Speed-up over {base}", tuple(said), columns(heads, {1, 2, 3}), rows)


def _ratio(line: Line, cost: str, found: Answer) -> str:
    ratio, source = line.ratios.get(cost), found.curves[line.base]
    if ratio is None:
        return "–"
    return f"about {ratio.text}" if isinstance(source, Curve) and source.rough else ratio.text


def _verdicts(found: Answer, comparison: Comparison) -> Table:
    unit = metrics.unit(comparison.design.metric)
    rows = tuple((str(line.row.arm), *(_verdict(line.verdicts[cost]) for cost in COSTS)) for line in found.lines)
    said = [
        (
            f"The difference ({unit}) to a baseline that spends as many tokens, FLOPs or seconds as the arm: the "
            "baseline's own runs where they did (within 1 %), else they are moved along its curve. Corrected by Holm "
            "over all arms and columns. FLOPs count the keys that a causal query sees; what a kernel computes beyond "
            "them shows in seconds."
        )
    ]
    reasons = [
        (f"{line.row.arm}, {COSTS[cost]}", at.reason)
        for line in found.lines
        for cost, at in line.verdicts.items()
        if at.reason and at.reason != line.reason
    ]
    return Table("Verdicts at equal cost", (*said, *_reasons(reasons)), columns(("arm", *COSTS.values())), rows)


def _verdict(at: AtCost) -> str:
    if at.verdict is None:
        return "not determined"
    return at.verdict if at.delta is None else f"{at.verdict} {wording.with_interval(at.delta)}"


def _reasons(found: Sequence[tuple[str, str]]) -> list[str]:
    """`a; b: why`, each reason once."""
    grouped: dict[str, list[str]] = {}
    for who, why in found:
        grouped.setdefault(why, []).append(who)
    return [f"{'; '.join(who)}: {why}." for why, who in grouped.items()]
