"""Every finished run as a dot, runs of one pair joined: the data behind the intervals."""

from __future__ import annotations

import math

from gpt_lab.metrics import axis
from gpt_lab.report.figures.base import GRID, INK, Drawing, canvas, folded, reach
from gpt_lab.report.figures.material import Material

MOST = 30


def draw(material: Material) -> Drawing | None:
    """Dots of the final metric by arm; None without two finished runs."""
    rows = material.shown(MOST)
    means = [material.scores(row).mean() for row in rows]
    scores = [line[line.index.isin(material.pairs)] for line in map(material.scores, rows)]
    values = [v for line in scores for v in line if math.isfinite(v)]
    if len(values) < 2:
        return None
    names = [folded(material.names[row.arm]) + " (baseline)" * (row.verdict == "baseline") for row in rows]
    heights = [0.24 + 0.13 * name.count("\n") for name in names]
    figure = canvas(0.75 + sum(heights))
    ax = figure.add_subplot()
    places = [-(sum(heights[:i]) + heights[i] / 2) / 0.24 for i in range(len(rows))]
    ax.set_ylim(-sum(heights) / 0.24 - 0.1, 0.1)
    left, right = reach(values)
    ax.set_xlim(left, right)
    pairs = sorted({pair for line in scores for pair in line.index})
    if len(rows) > 1 and len(pairs) <= 20:
        for pair in pairs:
            spots = [(line[pair], place) for line, place in zip(scores, places, strict=True) if pair in line.index]
            ax.plot([x for x, _ in spots], [y for _, y in spots], color=GRID, lw=0.9, zorder=1)
    beyond = 0
    for row, line, mean, place in zip(rows, scores, means, places, strict=True):
        style = material.styles[row.arm]
        inside = [v for v in line if left <= v <= right]
        beyond += len(line) - len(inside)
        ax.plot(inside, [place] * len(inside), style.marker, color=style.colour, ms=4.5, mew=0, alpha=0.75, zorder=3)
        if any(v > right for v in line):
            ax.plot([right], [place], ">", color=style.colour, ms=5, clip_on=False, zorder=3)
        if any(v < left for v in line):
            ax.plot([left], [place], "<", color=style.colour, ms=5, clip_on=False, zorder=3)
        if left <= mean <= right:
            ax.plot([mean, mean], [place - 0.32, place + 0.32], color=INK, lw=1.4, zorder=4)
    ax.grid(axis="y", visible=False)
    ax.set_yticks(places, names)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.set_xlabel(axis(material.metric))
    caption = f"Final {material.metric} of the finished runs; the stroke is the arm's mean."
    if len(rows) > 1 and len(pairs) <= 20:
        caption += f" Grey lines join the runs of one {material.design.pair}."
    if beyond:
        caption += f" {beyond} {'run lies' if beyond == 1 else 'runs lie'} beyond the axis (arrows)."
    return Drawing("seeds", "All finished runs", caption + material.sample() + material.cut(rows), figure)
