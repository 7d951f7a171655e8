"""The effect of each variant against scale: one baseline for each scale, and a trend over the logarithm of its size.

The trend is the slope of the paired differences over log10 of the baseline's non-embedding parameters, one slope for
each pair (its runs at all scales), so that what a seed does at every scale cancels. Its interval is a plain t.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from gpt_lab.analysis import wording
from gpt_lab.analysis.comparison import Comparison, Row
from gpt_lab.analysis.table import Table, columns
from gpt_lab.frame.paired_scores import Paired, fresh, pair_up, references
from gpt_lab.frame.study import Study
from gpt_lab.stats.interval import Interval
from gpt_lab.stats.paired import Array, paired_t
from gpt_lab.stats.tiers import CONFIRMS, FEWEST
from gpt_lab.study.design import Design, Settings

SIZE = "parameters_non_embedding"
DISTINCT = 0.02
"""Relative difference from which on two scales differ in size."""


Sizes = dict[Settings, float]


@dataclass(frozen=True)
class Rung:
    """One scale: its name, its size (non-embedding parameters of the baseline), and the variant's row there."""

    scale: str
    size: float
    row: Row


@dataclass(frozen=True)
class Trend:
    """One variant over the scales, smallest first.

    Fields:
        variant: its settings without the scale.
        slope: change of the difference for ten times the parameters; None where `reason` says why.
        pairs: that the slope rests on.
    """

    variant: str
    rungs: tuple[Rung, ...]
    slope: Interval | None
    pairs: int
    reason: str = ""

    @property
    def turns(self) -> tuple[Rung, Rung] | None:
        """Neighbouring scales with opposite signs: both surely, else one of them; None without any."""
        known = [rung for rung in self.rungs if rung.row.delta is not None]
        sure = [rung for rung in known if _sure(rung)]
        pairs = [*itertools.pairwise(sure), *((a, b) for a, b in itertools.pairwise(known) if _sure(a) or _sure(b))]
        return next((pair for pair in pairs if _estimate(pair[0]) * _estimate(pair[1]) < 0), None)


def _sure(rung: Rung) -> bool:
    """Whether the interval excludes 0."""
    return rung.row.delta is not None and (rung.row.delta.low > 0 or rung.row.delta.high < 0)


def _estimate(rung: Rung) -> float:
    return math.nan if rung.row.delta is None else rung.row.delta.estimate


def trends(comparison: Comparison, study: Study) -> list[Trend]:
    """One for each variant of a design whose `within` is a scale; [] of others, and with fewer than two scales."""
    design = comparison.design
    if not _is_ladder(design):
        return []
    paired = pair_up(study.runs, design)
    known = {arm: other for arm, other in references(design, paired.arms).items() if other is not None}
    place = {arm: i for i, arm in enumerate(paired.arms)}
    rows = {row.arm: row for row in comparison.rows}
    sizes = _sizes(study.runs, paired)
    variants: dict[Settings, list[Settings]] = {}
    for arm in paired.arms:
        if known.get(arm, arm) != arm and arm in rows:
            variants.setdefault(arm.without(design.within), []).append(arm)
    order = {name: sorted(arms, key=lambda arm: sizes[known[arm]]) for name, arms in variants.items()}
    scales = len({_scale(design, arm) for arm in paired.arms})
    slopes, reasons = [], []
    for arms in order.values():
        slope, reason = _slopes(paired, [(place[arm], place[known[arm]]) for arm in arms], sizes, scales)
        slopes.append(slope)
        reasons.append(reason)
    intervals = _intervals(slopes, design.alpha)
    found = []
    for (name, arms), interval, slope, reason in zip(order.items(), intervals, slopes, reasons, strict=True):
        rungs = tuple(Rung(_scale(design, arm), sizes[known[arm]], rows[arm]) for arm in arms)
        found.append(Trend(str(name), rungs, interval, int(np.isfinite(slope).sum()), reason))
    return found


def make(comparison: Comparison, study: Study) -> list[Table]:
    """The section of a report; none where the study has no ladder of scales."""
    found = trends(comparison, study)
    if not found:
        return []
    design = comparison.design
    rows = tuple(
        (
            trend.variant if first else "",
            rung.scale,
            wording.count(rung.size),
            "–" if rung.row.delta is None else wording.with_interval(rung.row.delta),
            wording.verdict(rung.row),
            "" if not first else "–" if trend.slope is None else wording.with_interval(trend.slope),
        )
        for trend in found
        for first, rung in zip((True, *[False] * len(trend.rungs)), trend.rungs, strict=False)
    )
    said = [
        (
            f"Each difference in {design.metric} is to {design.baseline_arm}{wording.within(design)}. Trend: its "
            f"change for ten times the non-embedding parameters, {wording.percent(design.alpha)} interval."
        )
    ]
    for trend in found:
        if trend.slope is not None:
            said.append(f"{trend.variant}: {_direction(trend.slope, design)} ({trend.pairs} pairs).")
        else:
            said.append(f"{trend.variant}: no trend, {trend.reason}.")
        if turn := trend.turns:
            said.append(f"{trend.variant}: {_turn(*turn)}")
    heads = ("variant", " · ".join(design.within), "parameters", f"Δ {design.metric}", "verdict", "trend")
    return [Table("Effect against scale", (*said, *_cautions(study, design)), columns(heads, {2, 3, 5}), rows)]


def _is_ladder(design: Design) -> bool:
    return (
        bool(design.within)
        and design.baseline is not None
        and all(key.split(".")[0] == "scale" for key in design.within)
    )


def _scale(design: Design, arm: Settings) -> str:
    texts = [(key, arm.text(key)) for key in design.within]
    return " · ".join(text if key == "scale" else f"{key.partition('.')[2]}={text}" for key, text in texts)


def _sizes(runs: pd.DataFrame, paired: Paired) -> Sizes:
    """Median size of each arm's runs; NaN where it is not known."""
    sizes = pd.to_numeric(runs[SIZE], errors="coerce") if SIZE in runs else pd.Series(math.nan, runs.index)
    medians = sizes.groupby(runs["arm"]).median()
    return {arm: float(medians.get(arm, math.nan)) for arm in paired.arms}


def _slopes(
    paired: Paired, at: Sequence[tuple[int, int]], sizes: dict[Settings, float], scales: int
) -> tuple[Array, str]:
    """The slope of each pair (pairs,) over log10 of the size, NaN where a scale lacks it; or why there is none."""
    none = np.full(len(paired.pairs), np.nan)
    if len(at) < scales:
        return none, "it, or its baseline, was not asked for at every scale"
    size = np.array([sizes[paired.arms[base]] for _, base in at])
    if not np.isfinite(size).all():
        return none, "the size of a scale is not known"
    if size.max() <= (1 + DISTINCT) * size.min():
        return none, "the scales do not differ in parameters beside the embeddings"
    used = fresh(paired, [i for i, _ in at], [base for _, base in at], CONFIRMS).usable
    scores = paired.scores
    differences = np.where(used, scores[[i for i, _ in at]] - scores[[base for _, base in at]], np.nan)
    x = np.log10(size) - np.log10(size).mean()
    slopes = (x[:, None] * differences).sum(0) / (x**2).sum()
    few = int(np.isfinite(slopes).sum())
    if few < FEWEST:
        return none, f"{few} pairs have all its scales and {FEWEST} are the fewest"
    return np.asarray(slopes), ""


def _intervals(slopes: Sequence[Array], alpha: float) -> list[Interval | None]:
    """Of each variant's mean slope."""
    fit = paired_t(np.array(slopes))
    found: list[Interval | None] = []
    for k in range(len(slopes)):
        if fit.pairs[k] < FEWEST:
            found.append(None)
            continue
        mean, half = float(fit.estimate[k]), float(fit.half_width(alpha)[k])
        found.append(Interval(mean, mean - half, mean + half, float(fit.df[k]), float(fit.p()[k])))
    return found


def _direction(slope: Interval, design: Design) -> str:
    if slope.low <= 0 <= slope.high:
        return "no sure trend with scale"
    gains = (slope.estimate < 0) == (design.goal == "minimize")
    return f"it {'gains on' if gains else 'loses against'} the baseline with scale"


def _turn(first: Rung, second: Rung) -> str:
    how = "the sign changes" if _sure(first) and _sure(second) else "the sign may change (an interval holds 0)"
    return f"{how} between {first.scale} and {second.scale}: what holds at one scale does not hold at the other."


def _cautions(study: Study, design: Design) -> list[str]:
    """What else than size may make the trend."""
    runs, said = study.runs, []
    context = "config.scale.context"
    if context in runs and runs[context].dropna().nunique() > 1:
        said.append("The scales differ in context too: the trend is drawn over parameters alone.")
    rates = [key for key in (*design.factors, *design.nuisance) if key.startswith("optim.lr")]
    init = "config.init.name"
    if not rates and (init not in runs or set(runs[init].dropna()) != {"mup"}):
        said.append(
            "One learning rate serves all scales: without init=mup, or tuning at each, a trend may be the rate's."
        )
    return said
