"""What figures draw from: the runs behind each row of the comparison, their curves, one style per arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from gpt_lab.analysis.comparison import Comparison, Row
from gpt_lab.frame.paired_scores import references
from gpt_lab.frame.study import Study, over_tokens, side_by_side
from gpt_lab.report.figures.base import COLOURS, DASHES, INK, MARKERS
from gpt_lab.study.arm_names import short_names
from gpt_lab.study.design import Settings

MOST_ARMS = 12
"""Arms that a figure of curves shows: more cannot be told apart."""
MOST_PAIRS = 50
"""Pairs whose runs are drawn one by one."""


@dataclass(frozen=True)
class Style:
    """How an arm looks in every figure."""

    colour: str
    marker: str
    dash: str | tuple[int, tuple[float, ...]]
    width: float


class Material:
    """A comparison and its study, asked for by the figures.

    Fields:
        rows: arms with finished runs, best first.
        names: arm -> its short name.
        baseline: the arm of the rows that all others are compared with; None if there is none with finished runs.
        references: arm -> the arm that it is compared with, where that has finished runs.
    """

    def __init__(self, comparison: Comparison, study: Study) -> None:
        self.comparison = comparison
        self.study = study
        self.design = comparison.design
        self.metric = comparison.design.metric
        self.rows = [row for row in comparison.rows if row.runs > 0]
        self.names = short_names(row.arm for row in comparison.rows)
        found = [row.arm for row in self.rows if row.arm == comparison.design.baseline_arm]
        self.baseline = found[0] if found else None
        known = {row.arm for row in self.rows}
        pairs = references(self.design, [row.arm for row in self.rows])
        self.references = {arm: other for arm, other in pairs.items() if other in known}

    @cached_property
    def styles(self) -> Mapping[Settings, Style]:
        """The baseline in ink, the others by the order of the sweep, so that a colour outlives a change of rank.

        Of more arms than can be told apart, those of crowded figures come first.
        """
        order = list(dict.fromkeys([*self.study.runs["arm"], *(row.arm for row in self.comparison.rows)]))
        if len(self.rows) > MOST_ARMS:
            first = {row.arm for row in self.shown()}
            order.sort(key=lambda arm: arm not in first)
        styles: dict[Settings, Style] = {}
        number = 0
        for arm in order:
            if arm == self.design.baseline_arm:
                styles[arm] = Style(INK, "o", "solid", 1.8)
                continue
            dash = DASHES[number // len(COLOURS) % len(DASHES)]
            styles[arm] = Style(COLOURS[number % len(COLOURS)], MARKERS[(number + 1) % len(MARKERS)], dash, 1.3)
            number += 1
        return styles

    @cached_property
    def used(self) -> pd.DataFrame:
        """The finished runs that the comparison's numbers come from: those at the nuisance values chosen."""
        runs = self.study.runs
        runs = runs[(runs["state"] == "finished") & np.isfinite(runs["score"])]
        if self.design.tuning_pairs:
            runs = runs[~runs["pair"].map(self.design.tunes).to_numpy(bool)]
        chosen = runs["arm"].map({row.arm: row.tuning for row in self.rows})
        return runs[chosen.notna() & (~chosen.astype(bool) | (chosen == runs["tuning"]))]

    @cached_property
    def _by_arm(self) -> Mapping[Settings, pd.DataFrame]:
        return dict(list(self.used.groupby("arm", sort=False)))

    def finished(self, row: Row) -> pd.DataFrame:
        """The runs behind the row's numbers."""
        return self._by_arm.get(row.arm, self.used.iloc[:0])

    @cached_property
    def pairs(self) -> set[str]:
        """The pairs that are drawn one by one."""
        return set(self.used["pair"].astype(str).unique()[:MOST_PAIRS])

    def scores(self, row: Row) -> pd.Series[float]:
        """Final metric by pair."""
        runs = self.finished(row)
        scores = pd.Series(runs["score"].to_numpy(float), index=runs["pair"].astype(str).to_numpy(), dtype=float)
        return scores.groupby(level=0, sort=False).mean()

    def shown(self, most: int = MOST_ARMS) -> list[Row]:
        """The rows that a crowded figure shows: the best, and the baseline always."""
        if len(self.rows) <= most:
            return self.rows
        best = [row for row in self.rows if row.arm != self.baseline][: most - (self.baseline is not None)]
        return [row for row in self.rows if row.arm == self.baseline or row in best]

    def cut(self, shown: Sequence[Row], what: str = "arms") -> str:
        """A sentence that says how many arms a figure leaves out; empty if none."""
        if len(shown) >= len(self.rows):
            return ""
        beside = " and the baseline" if self.baseline else ""
        best = len(shown) - (self.baseline is not None)
        return f" Only the best {best} of {len(self.rows)} {what}{beside} are drawn."

    def sample(self) -> str:
        """A sentence that says how many pairs are drawn where there are too many; empty if all are."""
        number = self.used["pair"].nunique()
        return f" Of {number} pairs the first {MOST_PAIRS} are drawn." if number > MOST_PAIRS else ""

    @cached_property
    def curves(self) -> Mapping[Settings, Mapping[str, pd.Series[float]]]:
        """Arm -> pair -> the metric over tokens, of the arms shown and their finished runs; empty curves left out."""
        wanted = {row.arm: self.runs_of(row) for row in self.shown()}
        tables = self.study.curves([run for runs in wanted.values() for run in runs])
        curves: dict[Settings, dict[str, pd.Series[float]]] = {}
        for arm, runs in wanted.items():
            found = {str(pair): over_tokens(tables.get(run), self.metric) for pair, run in runs.items()}
            curves[arm] = {pair: line for pair, line in found.items() if len(line)}
        return curves

    def runs_of(self, row: Row) -> pd.Series[str]:
        """The runs that are drawn one by one, by pair."""
        runs = self.finished(row)
        runs = runs[runs["pair"].astype(str).isin(self.pairs)].drop_duplicates("pair", keep="last")
        return runs.set_index("pair")["run"].astype(str)

    @cached_property
    def diverged(self) -> Mapping[str, pd.Series[float]]:
        """Run -> its curve, of the diverged runs of the arms shown at the values chosen; at most 20."""
        runs = self.study.runs
        arms = {row.arm: row.tuning for row in self.shown()}
        mask = (runs["state"] == "diverged") & runs["arm"].isin(list(arms))
        lost = runs[mask]
        if self.design.nuisance and len(lost):  # an empty list would choose columns
            used = zip(lost["arm"], lost["tuning"], lost["pair"], strict=True)
            lost = lost[[(not arms[a] or t == arms[a]) and not self.design.tunes(p) for a, t, p in used]]
        lost = lost.head(20)
        tables = self.study.curves(lost["run"].astype(str).tolist()) if len(lost) else {}
        found = {str(run): over_tokens(tables.get(str(run)), self.metric) for run in lost["run"]}
        return {run: line for run, line in found.items() if len(line)}


def together(curves: Sequence[pd.Series[float]], points: int = 60) -> tuple[pd.DataFrame, bool]:
    """Curves on one grid of tokens (rows), one column each, and whether values between evaluations were interpolated.

    The places that all of them have, if these are half of the shortest curve or more; else places between the latest
    first and the earliest last one.
    """
    common = side_by_side(curves, range(len(curves)))
    if not curves or 2 * len(common) >= min(len(line) for line in curves):
        return common, False
    low, high = max(line.index[0] for line in curves), min(line.index[-1] for line in curves)
    if low >= high:
        return common, False
    grid = np.linspace(low, high, points)
    columns = {i: np.interp(grid, line.index.to_numpy(float), line.to_numpy()) for i, line in enumerate(curves)}
    return pd.DataFrame(columns, index=grid), True
