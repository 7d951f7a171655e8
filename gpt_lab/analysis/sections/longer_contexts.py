"""How the final weights do in windows longer than the training context, arm by arm, on the same validation targets.

Two questions. Does an arm itself do better or worse in longer windows: the change within each run from its windows of
one context, whose weights and targets are the same. And how far apart are the arms there: the paired difference to the
baseline at each multiple, with p-values corrected over all arms and multiples beyond 1. Both are secondary: the
report's verdicts rest on its metric alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from gpt_lab import context_multiples, metrics
from gpt_lab.analysis import wording
from gpt_lab.analysis.comparison import Comparison
from gpt_lab.analysis.sections.baseline_curve import per_pair
from gpt_lab.analysis.table import Table, columns
from gpt_lab.frame.paired_scores import Paired, fresh, pair_up, references
from gpt_lab.frame.study import Study
from gpt_lab.stats.decision import holm
from gpt_lab.stats.interval import Interval
from gpt_lab.stats.paired import Array, Fit, paired_t
from gpt_lab.stats.tiers import CONFIRMS, FEWEST
from gpt_lab.study.arm_names import short_names
from gpt_lab.study.design import Settings

TITLE = "Beyond the training context"
MEASURES = tuple(sorted(metrics.LONGER, key=lambda name: name not in metrics.FIRST))
"""What is shown of longer windows, the first that the runs have: those that dashboards show first."""
MOST = 20
"""Arms that the table shows."""


@dataclass(frozen=True)
class Line:
    """One arm in windows of `times` contexts; numbers are None where there are none.

    Fields:
        mean: of the metric over the runs.
        change: from the same runs' windows of one context. delta: variant - baseline. p: of delta, corrected.
    """

    arm: Settings
    times: int
    mean: float | None
    change: Interval | None = None
    delta: Interval | None = None
    p: float | None = None


@dataclass(frozen=True)
class Lengths:
    """The runs of a study at several multiples of their context.

    Fields:
        times: the multiples, 1 first. values: (multiples, arms, pairs) of the metric, NaN where there is none.
        lines: by arm in the order of the comparison, then by multiple. family: how many p-values were corrected.
        excess: arm -> (k - 1,) mean excess of each context's length from the second, in windows of the largest k.
    """

    metric: str
    times: tuple[int, ...]
    paired: Paired
    values: Array
    lines: tuple[Line, ...]
    family: int
    excess: dict[Settings, Array]

    @property
    def lower_is_better(self) -> bool:
        return metrics.goal(self.metric) == "minimize"


def measure(comparison: Comparison, study: Study) -> Lengths | None:
    """What the runs say of longer contexts; None where none was measured."""
    runs, design = study.runs, comparison.design
    metric, times = _measured(runs, design.metric)
    if not times:
        return None
    paired = pair_up(runs, design)
    values = np.stack([per_pair(runs, paired, f"summary.{context_multiples.at(metric, k)}") for k in (1, *times)])
    values = np.where(np.isfinite(values), values, np.nan)
    if np.isnan(values[1:]).all():
        return None
    rows = {row.arm: row for row in comparison.rows}
    place = {arm: i for i, arm in enumerate(paired.arms)}
    order = [row.arm for row in comparison.rows if row.arm in place]
    alpha = design.alpha

    known = {arm: other for arm, other in references(design, paired.arms).items() if other in rows}
    variants = {arm: v for v, arm in enumerate(arm for arm in order if known.get(arm, arm) != arm)}
    at, bases = [place[arm] for arm in variants], [place[known[arm]] for arm in variants]
    differences = values[:, at] - values[:, bases]
    if variants:
        differences = np.where(fresh(paired, at, bases, CONFIRMS).usable, differences, np.nan)
    deltas = [paired_t(found) for found in differences]
    adjusted = _adjusted([fit.p() for fit in deltas[1:]], deltas[1:])
    judged = int(sum(int((fit.pairs >= FEWEST).sum()) for fit in deltas[1:]))

    changes = [paired_t(values[k] - values[0]) for k in range(1, len(times) + 1)]
    lines = []
    for arm in order:
        i = place[arm]
        for number, k in enumerate((1, *times)):
            delta, p = None, None
            if arm in variants and number:
                v = variants[arm]
                delta, p = _interval(deltas[number], v, alpha), float(adjusted[number - 1, v])
            elif arm in variants:
                own = deltas[0], variants[arm]
                delta = rows[arm].delta if design.metric == metric else _interval(*own, alpha)
            change = _interval(changes[number - 1], i, alpha) if number else None
            shown = p if p is not None and math.isfinite(p) else None
            lines.append(Line(arm, k, _mean(values[number, i]), change, delta, shown))
    names = [f"summary.{context_multiples.part(times[-1], part)}" for part in range(2, times[-1] + 1)]
    parts = [per_pair(runs, paired, name) for name in names]
    excess = {arm: np.array([_mean(part[place[arm]]) for part in parts], float) for arm in order}
    return Lengths(metric, (1, *times), paired, values, tuple(lines), judged, excess)


def make(comparison: Comparison, study: Study) -> list[Table]:
    """The section of a report; none where no run was validated at a longer context."""
    found = measure(comparison, study)
    if found is None:
        return []
    arms = list(dict.fromkeys(line.arm for line in found.lines))
    shown, names = arms[:MOST], short_names(arms)
    places = wording.common_digits([line.delta for line in found.lines if line.delta is not None])
    finer = wording.common_digits([line.change for line in found.lines if line.change is not None])
    lines = [line for line in found.lines if line.arm in shown and (line.mean is not None or line.times == 1)]
    rows = tuple(
        (
            names[line.arm] if line.times == 1 else "",
            f"{line.times}x",
            wording.plain(line.mean),
            "–" if line.change is None else wording.with_interval(line.change, finer),
            "–" if line.delta is None else wording.with_interval(line.delta, places),
            wording.p_value(line.p),
        )
        for line in lines
    )
    heads = ("arm", "context", found.metric, "change from 1x", f"Δ {found.metric}", "p")
    said = [*_explained(found, comparison, study), *_answers(found, names), *_lacking(found, study, names)]
    if len(arms) > len(shown):
        said.append(f"The first {MOST} of {len(arms)} arms are shown.")
    return [Table(TITLE, tuple(said), columns(heads, range(2, len(heads))), rows)]


def _measured(runs: pd.DataFrame, headline: str) -> tuple[str, tuple[int, ...]]:
    """The metric that is shown of longer windows, and the multiples beyond 1 that some run has."""
    by_metric: dict[str, set[int]] = {}
    for column in runs.columns:
        metric, times = context_multiples.split(str(column).removeprefix("summary."))
        if (
            times > 1
            and str(column) == f"summary.{context_multiples.at(metric, times)}"
            and f"summary.{metric}" in runs
        ):
            by_metric.setdefault(metric, set()).add(times)
    for metric in (context_multiples.split(headline)[0], *MEASURES):
        if metric in by_metric and metric in MEASURES:
            return metric, tuple(sorted(by_metric[metric]))
    return "", ()


def _adjusted(p: Sequence[Array], fits: Sequence[Fit]) -> Array:
    """Corrected over all arms and multiples (multiples, arms); NaN below the fewest pairs, which are not counted."""
    able = np.array([(fit.pairs >= FEWEST) & np.isfinite(one) for one, fit in zip(p, fits, strict=True)])
    found = np.full(able.shape, np.nan)
    if able.any():
        found[able] = holm(np.array(p)[able])
    return found


def _interval(fit: Fit, i: int, alpha: float) -> Interval | None:
    """None without a pair; without ends below the fewest pairs."""
    if fit.pairs[i] == 0:
        return None
    mean, half = float(fit.estimate[i]), float(fit.half_width(alpha)[i])
    if fit.pairs[i] < FEWEST:
        half = math.nan
    return Interval(mean, mean - half, mean + half, float(fit.df[i]), float(fit.p()[i]))


def _mean(values: Array) -> float | None:
    there = values[np.isfinite(values)]
    return float(there.mean()) if len(there) else None


def _explained(found: Lengths, comparison: Comparison, study: Study) -> list[str]:
    design = comparison.design
    context = study.runs.get("config.scale.context", pd.Series(dtype=float)).dropna().unique()
    tokens = f" of {int(context[0])} tokens" if len(context) == 1 else ""
    same = "over the same targets" if found.metric != "val/accuracy" else "of the task made for it"
    text = (
        f"Final weights in windows of several training contexts{tokens}, {same}; secondary to the verdicts on "
        f"{design.metric}. Change: of the same runs from 1x, {wording.percent(design.alpha)} interval."
    )
    if design.baseline_arm is not None:
        text += f" Δ: to {design.baseline_arm}{wording.within(design)} at the same length."
    if found.family:
        text += f" p: of Δ, corrected by Holm over {found.family} comparisons."
    return [text]


def _answers(found: Lengths, names: Mapping[Settings, str]) -> list[str]:
    """Who gains and who loses at the longest windows, surely."""
    last = found.times[-1]
    groups: dict[str, list[str]] = {"better": [], "worse": [], "no sure change": []}
    for line in found.lines:
        if line.times == last and line.change is not None and math.isfinite(line.change.low):
            sure = line.change.low > 0 or line.change.high < 0
            better = (line.change.estimate < 0) == found.lower_is_better
            groups["no sure change" if not sure else "better" if better else "worse"].append(
                names[line.arm] or "all runs"
            )
    said = "; ".join(f"{word}: {', '.join(arms[:MOST])}" for word, arms in groups.items() if arms)
    return [f"At {last}x against 1x: {said}."] if said else []


def _lacking(found: Lengths, study: Study, names: Mapping[Settings, str]) -> list[str]:
    """Arms without numbers, and why."""
    runs = study.runs[study.runs["state"] == "finished"]
    lacking = [line.arm for line in found.lines if line.times == found.times[-1] and line.mean is None]
    said = []
    for arm in lacking:
        own = runs[runs["arm"] == arm]
        if not len(own):
            continue
        asked = own.get("config.eval.contexts", pd.Series([None] * len(own)))
        parts = list(own.get("config.position.name", pd.Series(dtype=str)).dropna().unique())
        wanted = any(isinstance(one, list | tuple) and found.times[-1] in one for one in asked)
        why = f"position={parts[0]} has no positions past the training context" if len(parts) == 1 else "not measured"
        said.append(f"Without {found.times[-1]}x: {names[arm] or 'all runs'}; {why if wanted else 'not asked for'}.")
    return said
