"""The metric in windows longer than the training context, and what the tokens past it cost by their place."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter

from gpt_lab.analysis.sections.longer_contexts import TITLE, Lengths, measure
from gpt_lab.metrics import axis
from gpt_lab.report.figures.base import INK, PAPER, Drawing, canvas, ellipsis
from gpt_lab.report.figures.material import Material
from gpt_lab.study.design import Settings

MOST = 12


def draw(material: Material) -> Drawing | None:
    """One line for each arm over the multiples, and one over places in the longest window; None without any."""
    found = measure(material.comparison, material.study)
    if found is None:
        return None
    arms = [row.arm for row in material.shown(MOST)]
    measured = [arm for arm in arms if any(line.arm == arm and line.mean is not None for line in found.lines)]
    by_place = [arm for arm in measured if np.isfinite(found.excess[arm]).any()]
    figure = canvas(3.5)
    whole, *places = figure.subplots(1, 2 if by_place else 1, squeeze=False)[0]
    for arm in measured:
        _over_multiples(whole, found, arm, material)
    whole.set_xscale("log", base=2)
    whole.set_xticks(found.times, [f"{k}x" for k in found.times])
    whole.xaxis.set_minor_formatter(NullFormatter())
    whole.set_xlabel("length of the windows, in training contexts")
    whole.set_ylabel(axis(found.metric))
    for ax in places:
        _over_places(ax, found, by_place, material)
    figure.legend(*whole.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    caption = (
        "Final weights in windows of several training contexts: mean of the runs, band from the lowest to the highest."
    )
    if by_place:
        caption += (
            f" Right: targets by their place in windows of {found.times[-1]} contexts, less what the same targets cost "
            "in windows of one context; the first context's length is 0 by construction."
        )
    lacking = [material.names[arm] for arm in measured if _last(found, arm) is None]
    if lacking:
        caption += f" Not measured beyond the training context: {', '.join(lacking)}."
    return Drawing("lengths", TITLE, caption + material.cut(material.shown(MOST)), figure)


def _last(found: Lengths, arm: Settings) -> float | None:
    return next(line.mean for line in found.lines if line.arm == arm and line.times == found.times[-1])


def _over_multiples(ax: Axes, found: Lengths, arm: Settings, material: Material) -> None:
    style = material.styles[arm]
    values = found.values[:, found.paired.arms.index(arm)]
    known = np.isfinite(values).any(1)
    x, y = np.array(found.times)[known], values[known]
    if np.isfinite(y).sum(1).max() > 1:
        ax.fill_between(x, np.nanmin(y, 1), np.nanmax(y, 1), color=style.colour, alpha=0.16, lw=0, zorder=2)
    ax.plot(
        x, np.nanmean(y, 1), color=style.colour, ls=style.dash, lw=style.width, marker=style.marker, ms=5,
        mec=PAPER, zorder=5 if arm == material.baseline else 4, label=ellipsis(material.names[arm], 40),
    )  # fmt: skip


def _over_places(ax: Axes, found: Lengths, arms: list[Settings], material: Material) -> None:
    ax.axhline(0, color=INK, lw=0.8, zorder=1)
    number = found.times[-1]
    for arm in arms:
        style = material.styles[arm]
        ax.plot(
            range(1, number + 1), [0.0, *found.excess[arm]], color=style.colour, ls=style.dash, lw=style.width,
            marker=style.marker, ms=4, mec=PAPER, zorder=5 if arm == material.baseline else 4,
        )  # fmt: skip
    ax.set_xticks(range(1, number + 1) if number <= 16 else np.linspace(1, number, 8).round().astype(int))
    ax.set_xlabel(f"place in a window of {number} contexts (1: the first)")
    ax.set_ylabel("nats per token more than in windows of 1x")
