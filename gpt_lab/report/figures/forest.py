"""Forest plot: each arm's difference to the baseline with its interval, best first, and what is too small to matter."""

from __future__ import annotations

import math

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from gpt_lab.analysis.comparison import Row
from gpt_lab.analysis.wording import common_digits, grey_band, percent, verdict, with_interval, within
from gpt_lab.metrics import axis
from gpt_lab.report.figures.base import BAND, INK, MUTED, PAPER, VERDICTS, Drawing, canvas, folded, near, reach
from gpt_lab.report.figures.material import Material
from gpt_lab.stats.interval import Interval

MOST = 60
"""Rows that still can be read at one height."""


def draw(material: Material) -> Drawing | None:
    """The forest plot; None without a difference to draw."""
    comparison, design = material.comparison, material.design
    rows = [row for row in comparison.rows if row.delta is not None and row.verdict != "baseline"]
    if not rows or design.baseline_arm is None:
        return None
    kept = rows[:MOST]
    lines: list[tuple[str, Interval | None, Row | None]] = [(material.names[row.arm], row.delta, row) for row in kept]
    if comparison.noise is not None:
        lines.insert(0, ("baseline against itself", comparison.noise, None))
    names = [folded(name) for name, _, _ in lines]
    heights = [0.24 + 0.13 * name.count("\n") for name in names]
    figure = canvas(0.95 + sum(heights))
    ax = figure.add_subplot()
    places = [-(sum(heights[:i]) + heights[i] / 2) / 0.24 for i in range(len(lines))]
    ax.set_ylim(-sum(heights) / 0.24 - 0.1, 0.1)
    left, right = _limits(lines, comparison.band)
    ax.set_xlim(left, right)
    ax.axvspan(-comparison.band, comparison.band, color=BAND, zorder=0, lw=0)
    ax.axvline(0, color=INK, lw=0.9, zorder=1)
    beyond = 0
    for place, (_, interval, row) in zip(places, lines, strict=True):
        assert interval is not None
        beyond += _line(ax, place, interval, row)
    if comparison.noise is not None:
        ax.axhline((places[0] + places[1]) / 2 if len(places) > 1 else -1, color=MUTED, lw=0.6, ls=(0, (1, 2)))
    ax.grid(axis="y", visible=False)
    ax.set_yticks(places, names)
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    _words(ax, places, lines)
    better, worse = ("← better", "worse →") if design.goal == "minimize" else ("← worse", "better →")
    ax.set_title(better, loc="left", color=MUTED)
    ax.set_title(worse, loc="right", color=MUTED)
    base = folded(material.names.get(design.baseline_arm) or str(design.baseline_arm), 40, 1)
    ax.set_xlabel(f"difference in {axis(design.metric)} to {base}{within(design)}")
    return Drawing("forest", "Differences to the baseline", _caption(material, rows, beyond), figure)


def _limits(lines: list[tuple[str, Interval | None, Row | None]], band: float) -> tuple[float, float]:
    keep = [-1.3 * band, 0.0, 1.3 * band]
    inside = near([i.estimate for _, i, _ in lines if i is not None], keep)
    shown = [i for _, i, _ in lines if i is not None and i.estimate in inside]
    return reach([v for i in shown for v in (i.low, i.high, i.estimate) if math.isfinite(v)], keep)


def _line(ax: Axes, place: float, interval: Interval, row: Row | None) -> bool:
    """Draws one row; whether a part of it lies beyond the axis."""
    left, right = ax.get_xlim()
    colour, marker, filled = (MUTED, "d", False) if row is None else VERDICTS.get(row.verdict, VERDICTS["no data"])
    low = interval.low if math.isfinite(interval.low) else interval.estimate
    high = interval.high if math.isfinite(interval.high) else interval.estimate
    ax.plot([max(low, left), min(high, right)], [place, place], color=colour, lw=1.6, solid_capstyle="butt", zorder=2)
    for end, outside, sign in ((left, low < left, "<"), (right, high > right, ">")):
        if outside:
            ax.plot([end], [place], marker=sign, color=colour, ms=5, clip_on=False, zorder=3)
    if left <= interval.estimate <= right:
        face, edge, size = (colour, 0.0, 7.0) if filled else (PAPER, 1.2, 5.5)
        ax.plot([interval.estimate], [place], marker=marker or "o", ms=size, color=colour, mfc=face, mew=edge, zorder=4)
    return low < left or high > right


def _words(ax: Axes, places: list[float], lines: list[tuple[str, Interval | None, Row | None]]) -> None:
    """Numbers and verdict right of each row."""
    texts = []
    digits = common_digits([interval for _, interval, _ in lines if interval is not None])
    for _, interval, row in lines:
        assert interval is not None
        said = with_interval(interval, digits)
        texts.append(said if row is None else f"{said}  {verdict(row)}")
    beside = ax.secondary_yaxis("right")
    beside.set_yticks(places, texts)
    beside.tick_params(axis="y", length=0, pad=8)
    beside.spines["right"].set_visible(False)
    for label, (_, _, row) in zip(beside.get_yticklabels(), lines, strict=True):
        label.set_color(MUTED if row is None else VERDICTS.get(row.verdict, VERDICTS["no data"])[0])


def _caption(material: Material, rows: list[Row], beyond: int) -> str:
    comparison, design = material.comparison, material.design
    text = (
        f"Mean of the paired differences in {design.metric}, variant minus {design.baseline_arm}{within(design)}, with "
        f"{percent(design.alpha)} intervals, each of the arm alone.{grey_band(comparison)} Verdicts are corrected for "
        f"the number of comparisons: {comparison.correction}."
    )
    if comparison.noise is not None:
        text += " First row: what a variant equal to the baseline would show."
    if beyond:
        what = "1 row reaches" if beyond == 1 else f"{beyond} rows reach"
        text += f" {what} beyond the axis (arrows); the numbers on the right are complete."
    if len(rows) > MOST:
        text += f" The best {MOST} of {len(rows)} arms are drawn."
    without = [row for row in comparison.rows if row.delta is None and row.verdict != "baseline"]
    if without:
        names = ", ".join(str(row.arm) for row in without[:5]) + (" …" if len(without) > 5 else "")
        text += f" Without a difference to draw: {names}."
    return text
