"""One forest plot of each kind of parts: every option's effect on each corpus, one row an option."""

from __future__ import annotations

import math

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from gpt_lab.analysis.comparison import Row
from gpt_lab.atlas.answers import Chapter
from gpt_lab.report.figures.base import BAND, INK, MUTED, PAPER, VERDICTS, Drawing, canvas, near, reach

MARKERS = ("o", "s")
ROW = 0.3
"""Inches of a row."""


def draw(chapter: Chapter) -> Drawing | None:
    """The plot of a kind; None without an effect to draw. Call it inside figures.base.look()."""
    entries = [entry for entry in chapter.entries if any(row.delta is not None for row in entry.rows.values())]
    if not entries:
        return None
    corpora = list(chapter.answers)
    band = max(answer.comparison.band for answer in chapter.answers.values())
    figure = canvas(0.95 + ROW * len(entries))
    ax = figure.add_subplot()
    ax.set_ylim(len(entries) - 0.5, -0.5)
    ax.set_xlim(*_limits([row for entry in entries for row in entry.rows.values()], band))
    ax.axvspan(-band, band, color=BAND, zorder=0, lw=0)
    ax.axvline(0, color=INK, lw=0.9, zorder=1)
    beyond = 0
    for place, entry in enumerate(entries):
        for number, corpus in enumerate(corpora):
            row = entry.rows.get(corpus)
            if row is not None and row.delta is not None:
                offset = 0.3 * (number - (len(corpora) - 1) / 2)
                beyond += _line(ax, place + offset, row, MARKERS[number % len(MARKERS)])
    ax.grid(axis="y", visible=False)
    ax.set_yticks(range(len(entries)), [entry.option for entry in entries])
    ax.xaxis.set_major_locator(MaxNLocator(6))
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.set_title("← better", loc="left", color=MUTED)
    ax.set_title("worse →", loc="right", color=MUTED)
    ax.set_xlabel(f"difference in bits per byte to {chapter.kind}={chapter.baseline}")
    handles = [
        Line2D([], [], color=MUTED, marker=MARKERS[number % len(MARKERS)], ls="", label=corpus)
        for number, corpus in enumerate(corpora)
    ]
    figure.legend(handles=handles, loc="outside lower right", ncols=len(handles))
    caption = (
        f"Options of {chapter.kind}, variant minus {chapter.baseline}, with 95 % intervals that hold after stopping. "
        "Grey band: too small to matter. Blue is better, red worse, green equivalent, purple real but small; hollow is "
        "undecided."
    )
    if beyond:
        caption += " Arrows: beyond the axis; the table has the numbers."
    return Drawing(chapter.kind, f"{chapter.kind}: what helps", caption, figure)


def _limits(rows: list[Row], band: float) -> tuple[float, float]:
    keep = [-1.3 * band, 0.0, 1.3 * band]
    deltas = [row.delta for row in rows if row.delta is not None]
    inside = near([delta.estimate for delta in deltas], keep)
    shown = [delta for delta in deltas if delta.estimate in inside]
    return reach([v for d in shown for v in (d.low, d.high, d.estimate) if math.isfinite(v)], keep)


def _line(ax: Axes, place: float, row: Row, marker: str) -> bool:
    """Draws one effect; whether a part of it lies beyond the axis."""
    assert row.delta is not None
    left, right = ax.get_xlim()
    colour, _, filled = VERDICTS.get(row.verdict, VERDICTS["no data"])
    value = row.delta.estimate
    low = row.delta.low if math.isfinite(row.delta.low) else value
    high = row.delta.high if math.isfinite(row.delta.high) else value
    ax.plot([max(low, left), min(high, right)], [place, place], color=colour, lw=1.4, solid_capstyle="butt", zorder=2)
    for end, outside, sign in ((left, low < left, "<"), (right, high > right, ">")):
        if outside:
            ax.plot([end], [place], marker=sign, color=colour, ms=4.5, clip_on=False, zorder=3)
    if left <= value <= right:
        face = colour if filled else PAPER
        ax.plot([value], [place], marker=marker, ms=5, color=colour, mfc=face, mew=1.1, zorder=4)
    return low < left or high > right
