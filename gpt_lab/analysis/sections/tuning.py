"""How each arm was tuned: the value chosen, how wide its optimum is, and how many tuning runs diverged."""

from __future__ import annotations

import math

import pandas as pd

from gpt_lab import metrics
from gpt_lab.analysis import wording
from gpt_lab.analysis.comparison import Comparison, Row
from gpt_lab.analysis.table import Table, columns
from gpt_lab.frame import tuned
from gpt_lab.frame.study import Study
from gpt_lab.frame.tuned import SettingTuning
from gpt_lab.stats import optimum
from gpt_lab.study.design import Design, Settings, shown

HEADS = ("arm", "setting", "chosen", "best tried", "values", "within", "width", "diverged")


def make(comparison: Comparison, study: Study) -> list[Table]:
    """The section of a report; none where no number was tuned."""
    design = comparison.design
    if not design.nuisance:
        return []
    by_arm = dict(list(study.runs.groupby("arm", sort=False)))
    found = [(row, leg) for row in comparison.rows if row.arm in by_arm for leg in _legs(by_arm[row.arm], design)]
    if not any(len(leg.curve) > 1 for _, leg in found):
        return []
    rows = tuple(_cells(row, leg, comparison) for row, leg in found)
    sentences = [*_how(design, found)]
    if comparison.sesoi is not None:
        sentences.append(
            f"Within: the values that cost at most {wording.amount(comparison.sesoi)} {metrics.unit(design.metric)} "
            "(the smallest effect size of interest) more than the chosen one, by the parabola and "
            "interpolation; ≥: that loss was not reached within what was tried."
        )
    return [Table("Tuning", tuple(sentences), columns(HEADS, {2, 3, 4}), rows)]


def _legs(runs: pd.DataFrame, design: Design) -> tuple[SettingTuning, ...]:
    return tuned.read(runs, design).legs if design.tuning_pairs else tuned.ladder(runs, design)


def _how(design: Design, found: list[tuple[Row, SettingTuning]]) -> list[str]:
    if not design.tuning_pairs:
        return []
    counts: dict[Settings, int] = {}
    for row, leg in found:
        counts[row.arm] = counts.get(row.arm, 0) + leg.runs
    each = " or ".join(map(str, sorted(set(counts.values()))))
    seeds = ", ".join(map(shown, design.tuning_pairs))
    text = (
        f"Each arm was tuned with {each} runs on {design.pair} {seeds}, and is compared on others at what it chose: "
        "the vertex of a parabola in the logarithm around the best value tried, or that value where the parabola has "
        "no lowest point there."
    )
    text += (
        " Intervals and verdicts hold for the arms at these values, not for what tuning on other seeds would choose."
    )
    more = " Settings were tuned one after the other, later ones at their start." if len(design.nuisance) > 1 else ""
    return [text + more]


def _cells(row: Row, leg: SettingTuning, comparison: Comparison) -> tuple[str, ...]:
    chosen = row.tuning.text(leg.key, "–")
    lost = sum(leg.diverged.values())
    return (
        str(row.arm),
        leg.key,
        chosen + (" (edge)" if leg.best.edge is not None and leg.best.tried is not None else ""),
        "–" if leg.best.tried is None else shown(leg.best.tried),
        f"{len(leg.curve)}",
        *_width(leg, comparison.sesoi),
        f"{lost} of {leg.runs}" if lost else f"none of {leg.runs}",
    )


def _width(leg: SettingTuning, loss: float | None) -> tuple[str, str]:
    """The range of good values, and how wide it is."""
    found = None if loss is None else optimum.range_within(leg.curve, loss)
    if found is None:
        return "–", "–"
    low, high, is_open = found
    width = f"{'≥ ' if is_open else ''}{high / low:.2g}× ({math.log2(high / low):.1f} octaves)"
    return f"{low:.2g} to {high:.2g}", width
