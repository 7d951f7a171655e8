"""Effects of several factors with their intervals; of one replicate, their sizes against half-normal chance."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from gpt_lab.analysis.sections.effects import Effect, listed
from gpt_lab.analysis.sections.factorial import analyse
from gpt_lab.analysis.wording import amount, common_digits, grey_band, percent, with_interval
from gpt_lab.metrics import axis
from gpt_lab.report.figures.base import BAND, COLOURS, INK, MUTED, PAPER, Drawing, canvas, ellipsis, folded, reach
from gpt_lab.report.figures.material import Material
from gpt_lab.stats.contrasts import half_normal

MOST = 40
"""Effects that still can be read at one height."""
MOST_NAMES = 12
"""Contrasts that get their name beside them."""
STYLES = {"matters": (COLOURS[0], True), "real but small": (COLOURS[3], True), "negligible": (COLOURS[2], True)}
"""Colour and whether filled, by what is said of an effect; anything else is grey and empty."""


def draw(material: Material) -> Drawing | None:
    """One line for each effect or interaction; None without an interval."""
    found = analyse(material.comparison, material.study)
    effects = [effect for effect in found.effects if effect.interval is not None] if found else []
    if found is None or not effects:
        return None
    shown = effects
    if len(effects) > MOST:
        order = sorted(effects, key=lambda effect: -abs(effect.estimate))[:MOST]
        shown = [effect for effect in effects if effect in order]
    names = [folded(effect.name.replace(" × ", ", ")).replace(", ", " × ").replace(",\n", " ×\n") for effect in shown]
    heights = [0.24 + 0.13 * name.count("\n") for name in names]
    figure = canvas(0.95 + sum(heights))
    ax = figure.add_subplot()
    places = [-(sum(heights[:i]) + heights[i] / 2) / 0.24 for i in range(len(shown))]
    ax.set_ylim(-sum(heights) / 0.24 - 0.1, 0.1)
    band = material.comparison.band
    ends = [end for effect in shown if effect.interval for end in (effect.interval.low, effect.interval.high)]
    left, right = reach(ends, [-1.3 * band, 0.0, 1.3 * band])
    ax.set_xlim(left, right)
    ax.axvspan(-band, band, color=BAND, zorder=0, lw=0)
    ax.axvline(0, color=INK, lw=0.9, zorder=1)
    beyond = sum(_line(ax, place, effect) for place, effect in zip(places, shown, strict=True))
    ax.grid(axis="y", visible=False)
    ax.set_yticks(places, names)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    digits = common_digits([effect.interval for effect in shown if effect.interval])
    beside = ax.secondary_yaxis("right")
    beside.set_yticks(places, [f"{with_interval(e.interval, digits)}  {e.word}" for e in shown if e.interval])
    beside.tick_params(axis="y", length=0, pad=8)
    beside.spines["right"].set_visible(False)
    for label, effect in zip(beside.get_yticklabels(), shown, strict=True):
        label.set_color(STYLES.get(effect.word, (MUTED, False))[0])
    what = "effect" if found.coded else "interaction"
    ax.set_xlabel(f"{what} in {axis(material.metric)}")
    caption = _caption(material, found.coded, effects, beyond)
    return Drawing("effects", f"{what.capitalize()}s of the factors", caption, figure)


def _line(ax: Axes, place: float, effect: Effect) -> bool:
    """Draws one effect; whether a part of it lies beyond the axis."""
    assert effect.interval is not None
    left, right = ax.get_xlim()
    low, high = effect.interval.low, effect.interval.high
    colour, filled = STYLES.get(effect.word, (MUTED, False))
    ax.plot([max(low, left), min(high, right)], [place, place], color=colour, lw=1.6, solid_capstyle="butt", zorder=2)
    for end, outside, sign in ((left, low < left, "<"), (right, high > right, ">")):
        if outside:
            ax.plot([end], [place], marker=sign, color=colour, ms=5, clip_on=False, zorder=3)
    if left <= effect.estimate <= right:
        marker = "o" if effect.order == 1 else "D"
        face = colour if filled else PAPER
        ax.plot([effect.estimate], [place], marker=marker, ms=5.5, color=colour, mfc=face, mew=1.2, zorder=4)
    return low < left or high > right


def _caption(material: Material, coded: bool, effects: list[Effect], beyond: int) -> str:
    comparison, design = material.comparison, material.design
    if coded:
        text = (
            f"Mean {design.metric} at a factor's high level minus that at its low one, the baseline's; diamonds are "
            "interactions: half of what one factor's effect gains at the other's high level."
        )
    else:
        text = "Differences of differences: what two changes do together, less what each does alone."
    text += (
        f" {percent(design.alpha)} intervals over the {design.pair}s; words after Holm's "
        f"correction.{grey_band(comparison)}"
    )
    if beyond:
        text += f" {beyond} {'line reaches' if beyond == 1 else 'lines reach'} beyond the axis (arrows)."
    if len(effects) > MOST:
        text += f" The largest {MOST} of {len(effects)} are drawn."
    return text


def half_normal_plot(material: Material) -> Drawing | None:
    """Sizes of the contrasts of one replicate against half-normal quantiles; None with more, or with too few."""
    found = analyse(material.comparison, material.study)
    if found is None or found.lenth is None or found.lenth.pse == 0:
        return None
    scale = found.lenth
    sizes = np.abs([value for _, value in found.singles])
    quantiles = half_normal(sizes)
    figure = canvas(3.4)
    ax = figure.add_subplot()
    most = float(quantiles.max())
    ax.set_ylim(0, 1.08 * most)
    ax.set_xlim(0, 1.35 * max(float(sizes.max()), scale.simultaneous))
    line = min(most, float(ax.get_xlim()[1]) / scale.pse)
    ax.plot([0, line * scale.pse], [0, line], color=MUTED, lw=0.9, zorder=1)
    for where, dash, text in ((scale.margin, (0, (1.2, 1.4)), "one"), (scale.simultaneous, (0, (5, 1.6)), "all")):
        ax.axvline(where, color=MUTED, lw=0.9, ls=dash, zorder=1)
        ax.text(where, 1.08 * most, f" {text}", color=MUTED, va="bottom", ha="center", fontsize=7.5)
    beyond = sizes > scale.margin
    for mask, filled in ((~beyond, False), (beyond, True)):
        face = COLOURS[0] if filled else PAPER
        colour = COLOURS[0] if filled else MUTED
        ax.plot(sizes[mask], quantiles[mask], "o", ms=5, color=colour, mfc=face, mew=1.1, ls="none", zorder=3)
    order = [i for i in np.argsort(-sizes) if beyond[i]][:MOST_NAMES]
    for i in order:
        name, value = found.singles[i]
        sign = "−" if value < 0 else "+"
        ax.annotate(
            f"{ellipsis(name, 40)} ({sign})", (sizes[i], quantiles[i]), xytext=(6, 0), textcoords="offset points",
            va="center", fontsize=7.5, color=INK,
        )  # fmt: skip
    ax.set_xlabel(f"size of the contrast in {axis(material.metric)}")
    ax.set_ylabel("half-normal quantile")
    names = [found.singles[i][0] for i in order]
    text = (
        f"One replicate: the {len(sizes)} contrasts by size (Daniel 1959). Chance alone lies along the line, size = "
        f"quantile times Lenth's pseudo standard error, {amount(scale.pse)}. Dotted: margin of error of one contrast, "
        f"{amount(scale.margin)}; dashed: of all together, {amount(scale.simultaneous)} (Lenth 1989, level "
        f"{percent(material.design.alpha)}). Beyond the first: {listed(names, MOST_NAMES) if names else 'none'}."
    )
    return Drawing("half_normal", "Contrasts of one replicate", text, figure)
