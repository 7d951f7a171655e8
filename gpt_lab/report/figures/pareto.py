"""The metric against what it cost: training FLOPs and parameters; the front joined."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from gpt_lab.analysis.comparison import Row
from gpt_lab.analysis.wording import count, power, short
from gpt_lab.metrics import axis
from gpt_lab.report.figures.base import GRID, INK, MUTED, Drawing, canvas, ellipsis, near, reach, scaled
from gpt_lab.report.figures.material import Material
from gpt_lab.study.design import Settings

COSTS = {"flops": "training FLOPs", "parameters": "parameters"}
SAME = {"flops": 0.002, "parameters": 0.002}
"""Costs that differ by less than this share are the same. Seconds are none: they tell how busy a machine was."""


def draw(material: Material) -> Drawing | None:
    """One panel for each cost that differs between arms; None without two arms or where every cost is the same."""
    rows = [row for row in material.rows if row.mean is not None]
    if len(rows) < 2:
        return None
    costs = {name: _costs(material, name) for name in COSTS}
    said, panels = [], []
    for name, by_arm in costs.items():
        values = np.array([by_arm[row.arm] for row in rows if row.arm in by_arm])
        if len(values) < 2:
            said.append(f"{COSTS[name]}: not recorded")
        elif np.ptp(values) <= SAME[name] * values.max():
            said.append(f"{COSTS[name]}: the same for all arms, {_amount(name, float(np.median(values)))}")
        else:
            panels.append(name)
    if not panels:
        return None
    shown = rows if len(rows) <= 12 else [row for row in material.shown() if row in rows]
    columns = 2 if max(len(material.names[row.arm]) for row in shown) > 22 else 3
    figure = canvas(3.0 + 0.19 * math.ceil((len(shown) + 2) / columns))
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    limits = _limits(rows, shown, material)
    for ax, name in zip(axes, panels, strict=True):
        _panel(ax, name, costs[name], rows, shown, limits, material)
        ax.set_ylim(*limits)
    axes[0].set_ylabel(axis(material.metric))
    handles = [_handle(material, row) for row in shown]
    handles.append(
        Line2D([], [], color=MUTED, lw=1, ls=(0, (4, 2)), marker="o", ms=9, mfc="none", label="on the front")
    )
    if len(shown) < len(rows):
        handles.append(Line2D([], [], ls="none", marker="o", ms=4, color=GRID, label="other arms"))
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, handletextpad=0.5, columnspacing=1.4)
    return Drawing("pareto", "What it costs", _caption(material, rows, said, limits), figure)


def _limits(rows: list[Row], shown: list[Row], material: Material) -> tuple[float, float]:
    """All means but those far out, and the strokes of those that have one."""
    inside = near([row.mean for row in rows if row.mean is not None])
    strokes = [material.scores(row) for row in shown if row.mean in inside]
    return reach((), keep=[*inside, *(end for line in strokes for end in (line.min(), line.max()))])


def _costs(material: Material, name: str) -> dict[Settings, float]:
    """Median cost of the finished runs by arm; arms without one are left out."""
    values = pd.to_numeric(material.used[name], errors="coerce")
    values = values[np.isfinite(values) & (values > 0)]
    return {arm: float(v) for arm, v in values.groupby(material.used["arm"]).median().items()}


def _panel(
    ax: Axes,
    name: str,
    costs: dict[Settings, float],
    rows: list[Row],
    shown: list[Row],
    limits: tuple[float, float],
    material: Material,
) -> None:
    points = [(costs[row.arm], float(row.mean or 0.0), row) for row in rows if row.arm in costs]
    values = [x for x, _, _ in points]
    logarithmic = max(values) > 10 * min(values)
    front = front_of([(x, y) for x, y, _ in points], material.design.goal == "maximize")
    steps = [points[i] for i in front]
    ax.plot([x for x, _, _ in steps], [y for _, y, _ in steps], color=MUTED, lw=1, ls=(0, (4, 2)), zorder=2)
    ax.plot([x for x, _, _ in steps], [y for _, y, _ in steps], "o", ms=10, mfc="none", mec=MUTED, mew=0.9, zorder=2)
    names = {row.arm for row in shown}
    others = [(x, y) for x, y, row in points if row.arm not in names]
    ax.plot([x for x, _ in others], [y for _, y in others], "o", color=GRID, ms=4, mew=0, zorder=1)
    low, high = limits
    for x, y, row in points:
        if row.arm not in names:
            continue
        style = material.styles[row.arm]
        if not low <= y <= high:
            ax.plot([x], [max(low, min(y, high))], "^" if y > high else "v", color=style.colour, ms=5, clip_on=False)
            continue
        scores = material.scores(row)
        if len(scores) > 1:
            ax.plot([x, x], [scores.min(), scores.max()], color=style.colour, lw=0.9, alpha=0.7, zorder=3)
        edge = INK if row.verdict == "baseline" else style.colour
        ax.plot([x], [y], style.marker, color=style.colour, ms=6, mec=edge, mew=0.8, zorder=4)
    if logarithmic:
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
        ax.xaxis.set_minor_formatter(FuncFormatter(lambda _value, _: ""))
    size, power = (1.0, "") if logarithmic else scaled(max(values))
    if not logarithmic:
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / size:g}"))
        ax.xaxis.set_major_locator(MaxNLocator(4))
        ax.margins(x=0.12)
    units = {"flops": f"{power}FLOPs", "parameters": power.strip()}
    ax.set_xlabel(f"{COSTS[name]} ({units[name]})" if units[name] else COSTS[name])


def front_of(points: list[tuple[float, float]], maximise: bool = False) -> list[int]:
    """Indices of the points that no other beats in both cost and metric, by rising cost."""
    sign = -1.0 if maximise else 1.0
    best, front = math.inf, []
    for i in sorted(range(len(points)), key=lambda i: (points[i][0], sign * points[i][1])):
        if sign * points[i][1] < best:
            best = sign * points[i][1]
            front.append(i)
    return front


def _handle(material: Material, row: Row) -> Line2D:
    style = material.styles[row.arm]
    name = ellipsis(material.names[row.arm], 34) + (" (baseline)" if row.verdict == "baseline" else "")
    return Line2D([], [], ls="none", marker=style.marker, ms=5, color=style.colour, label=name)


def _amount(name: str, value: float) -> str:
    return {"flops": power(value), "parameters": count(value)}[name]


def _caption(material: Material, rows: list[Row], said: list[str], limits: tuple[float, float]) -> str:
    better = "lower" if material.design.goal == "minimize" else "higher"
    text = (
        f"Mean {material.metric} ({better} is better) against the median cost of an arm's finished runs; strokes reach "
        "from the lowest to the highest run. Ringed: no other arm is both cheaper and better on average; "
        "differences may be within the noise."
    )
    if said:
        text += f" Not drawn: {'; '.join(said)}."
    outside = [str(row.arm) for row in rows if row.mean is not None and not limits[0] <= row.mean <= limits[1]]
    if outside:
        text += (
            f" Beyond the axis: {', '.join(outside[:5])}{f' and {len(outside) - 5} more' if len(outside) > 5 else ''}."
        )
    return text
