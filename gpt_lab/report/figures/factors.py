"""Interaction plot: does the effect of one factor depend on the level of another?"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from gpt_lab.analysis.comparison import Row
from gpt_lab.metrics import axis
from gpt_lab.report.figures.base import COLOURS, DASHES, MARKERS, Drawing, canvas, ellipsis, reach
from gpt_lab.report.figures.material import Material
from gpt_lab.study.design import Design
from gpt_lab.study.design import shown as as_written

MOST_PANELS = 6
MOST_LINES = 8


@dataclass(frozen=True)
class Square:
    """Two crossed factors, all others as in the baseline: (level of x, level of line) -> row."""

    x: str
    line: str
    x_levels: list[str]
    line_levels: list[str]
    cells: dict[tuple[str, str], Row]


def draw(material: Material) -> Drawing | None:
    """One panel for each pair of crossed factors; None where no two factors have a complete 2 x 2."""
    squares = [s for pair in itertools.combinations(material.design.factors, 2) if (s := _square(material, *pair))]
    if not squares:
        return None
    shown = squares[:MOST_PANELS]
    columns = min(len(shown), 2)
    lines = math.ceil(len(shown) / columns)
    figure = canvas(0.3 + 3.1 * lines)
    panels = figure.subplots(lines, columns, sharey=True, squeeze=False)
    limits = reach([row.mean for s in shown for row in s.cells.values() if row.mean is not None])
    beyond = sorted(
        {r.arm for s in shown for r in s.cells.values() if r.mean is not None and not limits[0] <= r.mean <= limits[1]}
    )
    for ax, square in zip(panels.flat, shown, strict=False):
        _panel(ax, square, material)
        ax.set_ylim(*limits)
    for ax in panels.flat[len(shown) :]:
        ax.set_visible(False)
    for line in panels:
        line[0].set_ylabel(axis(material.metric))
    text = "Mean of the finished runs, strokes from the lowest to the highest: parallel lines mean no interaction."
    if len(material.design.factors) > 2:
        text += " The other factors are as in the baseline."
    if beyond:
        text += f" Beyond the axis: {', '.join(map(str, beyond))}."
    if len(squares) > MOST_PANELS:
        text += f" The first {MOST_PANELS} of {len(squares)} pairs of factors are drawn."
    if any(len(square.line_levels) > MOST_LINES for square in shown):
        text += f" The first {MOST_LINES} levels of a factor have a line."
    return Drawing("interaction", "Interaction of factors", text, figure)


def _square(material: Material, first: str, second: str) -> Square | None:
    design = material.design
    others = [factor for factor in design.factors if factor not in (first, second)]
    base = dict(design.baseline_arm.texts) if design.baseline_arm else {}
    if others and not base:
        return None
    cells: dict[tuple[str, str], Row] = {}
    for row in material.rows:
        levels = dict(row.arm.texts)
        if row.mean is not None and all(levels[o] == base[o] for o in others):
            cells[levels[first], levels[second]] = row
    a, b = (_ordered([*dict.fromkeys(key[i] for key in cells)], design, (first, second)[i]) for i in (0, 1))
    if not any(
        {(p, q), (p, s), (r, q), (r, s)} <= cells.keys()
        for p, r in itertools.combinations(a, 2)
        for q, s in itertools.combinations(b, 2)
    ):
        return None
    if len(a) >= len(b):
        return Square(first, second, a, b, cells)
    return Square(second, first, b, a, {(q, p): row for (p, q), row in cells.items()})


def _ordered(levels: list[str], design: Design, factor: str) -> list[str]:
    """Numbers by size, names as the sweep orders them, else by the alphabet."""
    order = [as_written(value) for value in design.values.get(factor, ())]
    try:
        return sorted(levels, key=float)
    except ValueError:
        return sorted(levels, key=lambda level: (order.index(level) if level in order else len(order), level))


def _panel(ax: Axes, square: Square, material: Material) -> None:
    handles = []
    lines = square.line_levels[:MOST_LINES]
    for number, level in enumerate(lines):
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number]
        dash = DASHES[number // len(COLOURS)]
        shift = 0.05 * (number - (len(lines) - 1) / 2)
        spots = [(i, row) for i, x in enumerate(square.x_levels) if (row := square.cells.get((x, level)))]
        places = [i + shift for i, _ in spots]
        ax.plot(places, [row.mean or 0.0 for _, row in spots], color=colour, ls=dash, marker=marker, ms=5, zorder=4)
        for place, (_, row) in zip(places, spots, strict=True):
            scores = material.scores(row)
            if len(scores) > 1:
                ax.plot([place, place], [scores.min(), scores.max()], color=colour, lw=0.9, alpha=0.7, zorder=3)
        handles.append(Line2D([], [], color=colour, ls=dash, marker=marker, ms=4.5, label=ellipsis(level, 24)))
    ax.set_xticks(range(len(square.x_levels)), [ellipsis(x, 14) for x in square.x_levels])
    if sum(len(x) for x in square.x_levels) > 32:
        ax.tick_params(axis="x", labelrotation=30)
    ax.set_xlim(-0.4, len(square.x_levels) - 0.6)
    ax.grid(axis="x", visible=False)
    ax.set_xlabel(square.x)
    ax.legend(
        handles=handles, title=square.line, loc="lower left", bbox_to_anchor=(0, 1), ncols=3, alignment="left",
        borderaxespad=0.2, columnspacing=1.0, title_fontsize=7.5, handlelength=2.2,
    )  # fmt: skip
