"""What the page's chart of learning curves is drawn from: points that runs logged, thinned, never interpolated."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from gpt_lab import metrics
from gpt_lab.report.figures.base import VARIABLES
from gpt_lab.report.figures.curves import ZOOM
from gpt_lab.report.figures.material import MOST_ARMS, Material

MOST = 30
"""Arms of the chart; as many as the static figure has are on at first."""
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


def data(material: Material) -> dict[str, Any] | None:
    """The chart as plain JSON without NaN; None where no arm has two places.

    `series` holds lists of numbers; a run names its own by their place there: `x` by axis (null where the run lacks
    one of its values) and `y`. An arm's `common` are the tokens at which all its finished runs were evaluated: only
    there is their mean.
    """
    shown = material.shown(MOST)
    finished = {row.arm: material.runs_of(row) for row in shown}
    diverged = {row.arm: [] for row in shown} | _diverged(material)
    wanted = [run for runs in finished.values() for run in runs] + [r for runs in diverged.values() for r in runs]
    tables = material.study.curves(wanted)
    most = max(LEAST_PLACES, min(MOST_PLACES, PLACES // max(len(wanted), 1)))
    points = {run: _points(tables.get(run), material.metric) for run in wanted}
    series, arms, thinned = Series(), [], False
    on = {row.arm for row in material.shown()}
    for row in shown:
        own = {str(pair): points[run] for pair, run in finished[row.arm].items() if len(points[run])}
        lost = [points[run] for run in diverged[row.arm] if len(points[run])]
        if not any(len(table) >= 2 for table in own.values()):
            continue
        common = _common(list(own.values()))
        style = material.styles[row.arm]
        runs = []
        for pair, table in own.items():
            kept = _thin(table, common, most)
            thinned |= len(kept) < len(table)
            runs.append({"pair": pair, **_columns(kept, series)})
        for table in lost:
            runs.append({"pair": "", "diverged": True, **_columns(_thin(table, [], most), series)})
        arms.append(
            {
                "name": material.names[row.arm] or row.arm or "all runs",
                "colour": VARIABLES[style.colour],
                "dash": [] if isinstance(style.dash, str) else list(style.dash[1]),
                "width": style.width,
                "on": row.arm in on,
                "common": series.add(_spread(common, most)),
                "runs": runs,
            }
        )
    if not arms:
        return None
    return {
        "metric": metrics.axis(material.metric),
        "goal": material.design.goal,
        "pair": material.design.pair,
        "zoom": ZOOM,
        "axes": {axis: name for axis, name in AXES.items() if any(r["x"][axis] is not None for r in _runs(arms))},
        "most": most if thinned else 0,
        "series": series.lists,
        "arms": arms,
    }


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
        text += (
            f" Of each run {chart['most']} evaluations or about as many, its last among them; metrics.jsonl has all."
        )
    if any(not arm["on"] for arm in arms):
        text += f" The best {MOST_ARMS} are on at first."
    return text + material.sample() + material.cut(material.shown(MOST))


def _runs(arms: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [run for arm in arms for run in arm["runs"]]


def _diverged(material: Material) -> dict[str, list[str]]:
    arm = dict(zip(material.study.runs["run"].astype(str), material.study.runs["arm"].astype(str), strict=True))
    found: dict[str, list[str]] = {}
    for run in material.diverged:
        found.setdefault(arm[run], []).append(run)
    return found


def _points(table: pd.DataFrame | None, metric: str) -> pd.DataFrame:
    """Axes and `y` of the places with finite tokens and metric, the last of equal tokens, in order."""
    if table is None or metric not in table or "tokens" not in table:
        return pd.DataFrame(columns=[*AXES, "y"], dtype=float)
    columns = {axis: table[axis] if axis in table else math.nan for axis in AXES} | {"y": table[metric]}
    numbers = pd.DataFrame(columns, index=table.index).apply(pd.to_numeric, errors="coerce").astype(float)
    numbers = numbers[np.isfinite(numbers["y"]) & np.isfinite(numbers["tokens"])]
    return numbers.drop_duplicates("tokens", keep="last").sort_values("tokens")


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
