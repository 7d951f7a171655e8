"""Data of the page's chart of learning curves: logged points, thinned, never interpolated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from gpt_lab import metrics
from gpt_lab.analysis.comparison import Row
from gpt_lab.frame.study import numbers
from gpt_lab.report.figures.base import VARIABLES, near
from gpt_lab.report.figures.curves import ZOOM
from gpt_lab.report.figures.material import MOST_ARMS, Material
from gpt_lab.study.design import Settings

MOST = 30
"""Arms of the chart; as many as the static figure has are on at first."""
MOST_RUNS = 400
"""Runs that are read for more arms than the static figure has."""
MOST_PLACES, LEAST_PLACES, PLACES = 200, 16, 24_000
"""Places of a run: at most and at least, and about how many all runs together may have, so that a page stays small."""
AXES = {"step": "steps", "tokens": "tokens", "flops": "FLOPs", "seconds": "seconds"}
"""Column of a run's curve to what its axis is called."""


class Series:
    """Lists of numbers, each kept once: runs of equal budgets share their axes."""

    def __init__(self) -> None:
        self.lists: list[list[float]] = []
        self._known: dict[tuple[float, ...], int] = {}

    def add(self, values: Sequence[float]) -> int:
        """The place of the list among all; six digits of each number are kept, whole numbers as they are."""
        rounded = tuple(_short(value) for value in values)
        if rounded not in self._known:
            self._known[rounded] = len(self.lists)
            self.lists.append(list(rounded))
        return self._known[rounded]


@dataclass(frozen=True)
class Curves:
    """An arm's runs that are drawn: by pair, and those that diverged; tables of AXES and `y`, ascending in tokens."""

    row: Row
    finished: Mapping[str, pd.DataFrame]
    diverged: Sequence[pd.DataFrame]

    @property
    def values(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """All values of the finished runs."""
        return np.concatenate([table["y"].to_numpy(float) for table in self.finished.values()])

    @property
    def end(self) -> float:
        """Mean of the runs' last values."""
        return float(np.mean([table["y"].iloc[-1] for table in self.finished.values()]))


def data(material: Material) -> dict[str, Any] | None:
    """The chart as plain JSON without NaN; None where no arm has two places.

    `series` holds lists of numbers; a run names its own by their place there: `x` by axis (null where the run lacks
    one of its values) and `y`. An arm's `common` are the tokens at which all its finished runs were evaluated: only
    there is their mean. `far` names the arms that are off because they lie far off, `without` those without a curve.
    """
    shown = rows(material)
    found = _read(material, shown)
    arms = [curves for curves in found if any(len(table) >= 2 for table in curves.finished.values())]
    if not arms:
        return None
    number = sum(len(curves.finished) + len(curves.diverged) for curves in arms)
    most = max(LEAST_PLACES, min(MOST_PLACES, PLACES // number))
    longest = max(len(table) for curves in arms for table in curves.finished.values())
    far = _far(arms, material.baseline)
    first = {row.arm for row in material.shown()} - far
    series = Series()
    drawn = [_arm(curves, material, series, most) | {"on": curves.row.arm in first} for curves in arms]
    known = {curves.row.arm for curves in arms}
    return {
        "metric": metrics.axis(material.metric),
        "goal": material.design.goal,
        "zoom": ZOOM,
        "axes": {axis: name for axis, name in AXES.items() if any(r["x"][axis] is not None for r in _runs(drawn))},
        "most": most if longest > most else 0,
        "far": [_name(curves.row, material) for curves in arms if curves.row.arm in far],
        "without": [_name(row, material) for row in shown if row.arm not in known],
        "series": series.lists,
        "arms": drawn,
    }


def rows(material: Material) -> list[Row]:
    """The arms of the chart: the best, and the baseline; as few as in the static figure where runs are many."""
    shown = material.shown(MOST)
    return shown if sum(len(material.runs_of(row)) for row in shown) <= MOST_RUNS else material.shown()


def _read(material: Material, shown: Sequence[Row]) -> list[Curves]:
    finished = {row.arm: material.runs_of(row) for row in shown}
    arms = dict(zip(material.study.runs["run"].astype(str), material.study.runs["arm"], strict=True))
    lost = list(material.diverged)
    tables = material.study.curves([*(run for runs in finished.values() for run in runs), *lost])
    points = {run: table for run, found in tables.items() if len(table := _points(found, material.metric))}
    return [
        Curves(
            row,
            {str(pair): points[run] for pair, run in finished[row.arm].items() if run in points},
            [points[run] for run in lost if arms[run] == row.arm and run in points],
        )
        for row in shown
    ]


def _arm(curves: Curves, material: Material, series: Series, most: int) -> dict[str, Any]:
    style, common = material.styles[curves.row.arm], _common(list(curves.finished.values()))
    runs = [{"pair": pair, **_columns(_thin(table, common, most), series)} for pair, table in curves.finished.items()]
    lost = [{"diverged": True, **_columns(_thin(table, [], most), series)} for table in curves.diverged]
    return {
        "name": _name(curves.row, material),
        "colour": VARIABLES[style.colour],
        "dash": [] if isinstance(style.dash, str) else list(style.dash[1]),
        "width": style.width,
        "common": series.add(_spread(common, most)),
        "runs": [*runs, *lost],
    }


def _far(arms: Sequence[Curves], baseline: Settings | None) -> set[Settings]:
    """Arms that end so far off that the curves of the others would lie flat beside theirs; never the baseline."""
    ends = {curves.row.arm: curves.end for curves in arms}
    inside = set(near(list(ends.values()), jump=3.0))
    others = np.concatenate([curves.values for curves in arms if curves.end in inside])
    low, high = float(others.min()), float(others.max())
    room = (high - low) / 2
    return {arm for arm, end in ends.items() if arm != baseline and not low - room <= end <= high + room}


def _name(row: Row, material: Material) -> str:
    return material.names[row.arm] or "all runs"


def caption(chart: Mapping[str, Any], material: Material) -> str:
    """What is drawn, and what was left out of it."""
    arms = chart["arms"]
    text = f"{material.metric} over training: mean of each arm's finished runs where all were evaluated"
    if any(len(arm["runs"]) > 1 for arm in arms):
        text += "; band, lowest to highest run"
    text += ". Values are those of the evaluation nearest to the pointer; the arrow keys move from one to the next."
    if any(len(arm["runs"]) > 1 and len(chart["series"][arm["common"]]) < 2 for arm in arms):
        text += " Runs of an arm that were not evaluated at the same tokens have no mean and are drawn one by one."
    if any(run.get("diverged") for run in _runs(arms)):
        text += " Dotted: runs that diverged."
    if chart["most"]:
        text += f" Of each run about {chart['most']} evaluations, its last among them; metrics.jsonl has all."
    if len(arms) > MOST_ARMS:
        text += f" The best {MOST_ARMS} are on at first."
    if chart["far"]:
        text += f" Off at first, because the others would lie flat beside them: {', '.join(chart['far'])}."
    if chart["without"]:
        text += f" Without a curve: {', '.join(chart['without'])}."
    return text + material.sample() + material.cut(rows(material))


def _runs(arms: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [run for arm in arms for run in arm["runs"]]


def _points(table: pd.DataFrame | None, metric: str) -> pd.DataFrame:
    """Axes and `y` of the places with finite tokens and metric, the last of equal tokens, in order."""
    if table is None or metric not in table or "tokens" not in table:
        return pd.DataFrame(columns=[*AXES, "y"], dtype=float)
    columns = {axis: numbers(table, axis) for axis in AXES} | {"y": numbers(table, metric)}
    keep = np.isfinite(columns["y"]) & np.isfinite(columns["tokens"])
    points = pd.DataFrame(np.column_stack([*columns.values()])[keep], columns=[*columns])
    if (np.diff(columns["tokens"][keep]) > 0).all():
        return points
    return points.drop_duplicates("tokens", keep="last").sort_values("tokens")


def _common(tables: Sequence[pd.DataFrame]) -> list[float]:
    """Tokens that all tables have, if these are half of the shortest table or more; else none."""
    first, *others = (set(table["tokens"]) for table in tables)
    common = sorted(first.intersection(*others))
    return common if 2 * len(common) >= min(len(table) for table in tables) else []


def _spread(places: Sequence[float], most: int) -> list[float]:
    """At most so many of the places, evenly by rank, the first and the last among them."""
    if len(places) <= most:
        return list(places)
    return [places[i] for i in np.linspace(0, len(places) - 1, most).round().astype(int)]


def _thin(table: pd.DataFrame, common: Sequence[float], most: int) -> pd.DataFrame:
    """The table's rows at the common places, or at its own where there are none, thinned; its last row always."""
    own = table["tokens"].tolist()
    if len(own) <= most:
        return table
    return table[table["tokens"].isin({*_spread(common or own, most), own[-1]})]


def _columns(table: pd.DataFrame, series: Series) -> dict[str, Any]:
    axes = {axis: table[axis].to_numpy(float) for axis in AXES}
    x = {axis: series.add(values.tolist()) if np.isfinite(values).all() else None for axis, values in axes.items()}
    return {"x": x, "y": series.add(table["y"].tolist())}


def _short(value: float) -> float:
    if value.is_integer() and abs(value) < 1e15:
        return int(value)
    return float(f"{value:.6g}")
