"""The effect of each variant against the size of the model, where a study compares within scales."""

from __future__ import annotations

import numpy as np
from matplotlib.ticker import FuncFormatter

from gpt_lab.analysis.sections.ladder import Trend, trends
from gpt_lab.analysis.wording import grey_band, percent, short, within
from gpt_lab.metrics import axis
from gpt_lab.report.figures.base import BAND, INK, PAPER, Drawing, canvas, ellipsis
from gpt_lab.report.figures.base import COLOURS as HUES
from gpt_lab.report.figures.base import MARKERS as SIGNS
from gpt_lab.report.figures.material import Material

MOST = 6


def draw(material: Material) -> Drawing | None:
    """Differences with intervals over non-embedding parameters, and their trends; None without a ladder of scales."""
    found = [trend for trend in trends(material.comparison, material.study) if _known(trend)]
    shown = found[:MOST]
    sizes = [size for trend in shown for size, _, _, _ in _known(trend)]
    if not shown or max(sizes) <= min(sizes):
        return None
    design, band = material.design, material.comparison.band
    figure = canvas(3.4)
    ax = figure.add_subplot()
    ax.axhspan(-band, band, color=BAND, zorder=0, lw=0)
    ax.axhline(0, color=INK, lw=0.8, zorder=1)
    for number, trend in enumerate(shown):
        colour, aside = HUES[number], 1 + 0.02 * (number - (len(shown) - 1) / 2)
        points = np.array(_known(trend))
        x, y = points[:, 0] * aside, points[:, 1]
        ax.vlines(x, points[:, 2], points[:, 3], color=colour, lw=1.2, zorder=3)
        ax.plot(x, y, SIGNS[number], color=colour, mec=PAPER, ms=6, zorder=4, label=ellipsis(trend.variant, 40))
        if trend.slope is not None:
            logs = np.log10(points[:, 0])
            ax.plot(x, y.mean() + trend.slope.estimate * (logs - logs.mean()), color=colour, lw=1, zorder=2)
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    ax.xaxis.set_minor_formatter(FuncFormatter(lambda _value, _: ""))
    ticks = sorted(set(sizes))
    ax.set_xticks(ticks)
    ax.set_xlim(ticks[0] / 1.25, ticks[-1] * 1.25)
    ax.set_xlabel("parameters beside the embeddings")
    ax.set_ylabel(f"difference in {axis(design.metric)}")
    figure.legend(loc="outside lower center", ncols=2)
    caption = (
        f"Variant minus {design.baseline_arm}{within(design)}, with {percent(design.alpha)} intervals (moved aside a "
        f"little where they would hide each other); lines: the trends."
        f"{grey_band(material.comparison)}"
    )
    if len(found) > len(shown):
        caption += f" The first {MOST} of {len(found)} variants are drawn."
    return Drawing("ladder", "Effect against scale", caption, figure)


def _known(trend: Trend) -> list[tuple[float, float, float, float]]:
    """Size, difference and the ends of its interval, at the scales that have them."""
    return [
        (rung.size, rung.row.delta.estimate, rung.row.delta.low, rung.row.delta.high)
        for rung in trend.rungs
        if rung.row.delta is not None and np.isfinite([rung.size, rung.row.delta.low, rung.row.delta.high]).all()
    ]
