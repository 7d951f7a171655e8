"""The metric over the settings that were tuned within each arm (a learning rate), chosen values marked."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from gpt_lab.analysis.comparison import Row
from gpt_lab.frame import tuned
from gpt_lab.metrics import axis
from gpt_lab.report.figures.base import INK, MUTED, Drawing, canvas, ellipsis, reach
from gpt_lab.report.figures.material import Material
from gpt_lab.study.design import Settings


@dataclass(frozen=True)
class Ladder:
    """One arm over the values of one setting, in order.

    Fields:
        places: the values' places on x. means: over the finished runs, the best over the other tuned settings;
            NaN without one. dots: (place, score) of each of these runs. lost: places where runs diverged.
        chosen: index of the value that the comparison uses; None if it is not among them.
        spot: the place and the mean of what is compared; None without it.
        fresh: (place, score) of the runs that are compared, where these did not tune. fit: points of the parabola.
    """

    row: Row
    places: list[float]
    means: list[float]
    dots: list[tuple[float, float]]
    lost: list[float]
    chosen: int | None
    spot: tuple[float, float] | None
    fresh: list[tuple[float, float]]
    fit: list[tuple[float, float]]

    @property
    def on_edge(self) -> bool:
        """The value chosen is the first or last of its ladder, where a better one may lie beyond."""
        ends = (0, len(self.places) - 1)
        return self.row.on_edge and len(self.places) > 1 and self.chosen in ends


def draw(material: Material) -> Drawing | None:
    """One panel for each tuned setting; None unless an arm finished with two values of it."""
    drawn: list[tuple[str, list[str], list[Ladder]]] = []
    for key in material.design.nuisance:
        order = _values(material, key)
        numeric = all(_number(value) is not None for value in order)
        found = [ladder for row in material.shown() if (ladder := _ladder(material, row, key, order, numeric))]
        if any(sum(math.isfinite(mean) for mean in ladder.means) >= 2 for ladder in found):
            drawn.append((key, order, found))
    if not drawn:
        return None
    rows = [row for row in material.shown() if any(lad.row is row for _, _, found in drawn for lad in found)]
    names = max(len(material.names[row.arm]) for row in rows)
    columns = 2 if names > 22 else 3
    lines = math.ceil((len(rows) + 3) / columns)
    figure = canvas(0.4 + 2.7 * len(drawn) + 0.19 * lines)
    panels = figure.subplots(len(drawn), 1, squeeze=False)[:, 0]
    outside = False
    for ax, (key, order, found) in zip(panels, drawn, strict=True):
        outside |= _panel(ax, key, order, found, material)
    handles = [
        Line2D([], [], color=s.colour, ls=s.dash, marker=s.marker, ms=4.5, label=ellipsis(material.names[row.arm], 34))
        for row in rows
        for s in [material.styles[row.arm]]
    ]
    handles.append(Line2D([], [], ls="none", marker="o", ms=9, mfc="none", mec=INK, label="chosen"))
    if any(ladder.fresh for _, _, found in drawn for ladder in found):
        handles.append(Line2D([], [], ls="none", marker="D", ms=3.5, mfc="none", mec=MUTED, label="fresh seeds"))
    if any(ladder.fit for _, _, found in drawn for ladder in found):
        handles.append(Line2D([], [], color=MUTED, lw=3, alpha=0.3, label="parabola"))
    if any(ladder.on_edge for _, _, found in drawn for ladder in found):
        handles.append(Line2D([], [], ls="none", marker="s", ms=9, mfc="none", mec=INK, label="chosen, at the edge"))
    if any(ladder.lost for _, _, found in drawn for ladder in found):
        handles.append(Line2D([], [], ls="none", marker="x", ms=5, color=MUTED, label="diverged"))
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, handletextpad=0.6, columnspacing=1.4)
    return Drawing("tuning", "Tuned settings", _caption(material, drawn, outside), figure)


def _values(material: Material, key: str) -> list[str]:
    """All values of a tuned setting as text, numbers in order of size, others in order of appearance."""
    runs = _tuning_runs(material)
    order = list(dict.fromkeys(text for tuning in runs["tuning"].unique() if (text := tuning.text(key))))
    if all(_number(value) is not None for value in order):
        order.sort(key=lambda value: _number(value) or 0.0)
    return order


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _ladder(material: Material, row: Row, key: str, order: list[str], numeric: bool) -> Ladder | None:
    if material.design.tuning_pairs:
        return _leg(material, row, key)
    runs = material.study.runs
    runs = runs[runs["arm"] == row.arm]
    values = runs["tuning"].map(lambda tuning: tuning.text(key))
    place = {value: (float(value) if numeric else float(i)) for i, value in enumerate(order)}
    chosen_value = row.tuning.text(key)
    sign = 1.0 if material.design.goal == "minimize" else -1.0
    used, means, dots, lost = [], [], [], []
    for value in order:
        here = runs[values == value]
        if here.empty:
            continue
        done = here[(here["state"] == "finished") & here["score"].notna()]
        by_tuning = done.groupby("tuning")["score"].mean()
        if value == chosen_value and row.tuning in by_tuning.index:
            best: Settings | None = row.tuning
        else:
            best = (sign * by_tuning).idxmin() if len(by_tuning) else None
        used.append(value)
        means.append(float(by_tuning[best]) if best is not None else math.nan)
        scores = done[done["tuning"] == best]["score"] if best is not None else []
        dots += [(place[value], float(score)) for score in scores]
        if (here["state"] == "diverged").any():
            lost.append(place[value])
    if not used:
        return None
    chosen = used.index(chosen_value) if chosen_value in used else None
    places = [place[value] for value in used]
    spot = None if chosen is None else (places[chosen], means[chosen])
    return Ladder(row, places, means, dots, lost, chosen, spot, [], [])


def _tuning_runs(material: Material) -> pd.DataFrame:
    """The runs that tuned: with `tune` those on its own pairs, else all."""
    runs = material.study.runs
    return runs[runs["pair"].map(material.design.tunes).to_numpy(bool)] if material.design.tuning_pairs else runs


def _leg(material: Material, row: Row, key: str) -> Ladder | None:
    """An arm's ladder under `tune`: its tuning runs, the parabola, and the fresh runs at the value chosen."""
    runs, sign = material.study.runs, 1.0 if material.design.goal == "minimize" else -1.0
    found = tuned.read(runs[runs["arm"] == row.arm], material.design)
    leg = next((leg for leg in found.legs if leg.key == key), None)
    if leg is None or not leg.curve:
        return None
    places = sorted(leg.curve)
    means = [math.nan if (score := leg.curve[place]) is None else sign * score for place in places]
    value = _number(row.tuning.text(key))
    fresh = [] if value is None else [(value, float(score)) for score in material.finished(row)["score"]]
    fit = []
    if leg.best.fit is not None and leg.best.value is not None:
        low, high = leg.best.fit.low, leg.best.fit.high
        fit = [(float(x), sign * leg.best.fit.at(float(x))) for x in np.geomspace(low, high, 30)]
    spot = (fresh[0][0], float(np.mean([score for _, score in fresh]))) if fresh else None
    chosen = places.index(value) if value in places else None
    return Ladder(row, places, means, leg.dots, sorted(leg.diverged), chosen, spot, fresh, fit)


def _panel(ax: Axes, key: str, order: list[str], found: list[Ladder], material: Material) -> bool:
    """Draws one setting; whether a mean lies beyond the axis."""
    places = sorted({p for ladder in found for p in ladder.places})
    numeric = all(_number(value) is not None for value in order)
    if numeric and places[0] > 0 and places[-1] >= 4 * places[0]:
        ax.set_xscale("log")
    means = [m for ladder in found for m in ladder.means if math.isfinite(m)]
    picked = tuple(
        score for ladder in found if ladder.spot for score in (ladder.spot[1], *(y for _, y in ladder.fresh))
    )
    limits = reach(means, keep=tuple(m for m in picked if math.isfinite(m)), jump=2.5)
    top = limits[1] + 0.07 * (limits[1] - limits[0])
    for number, ladder in enumerate(found):
        style = material.styles[ladder.row.arm]
        ax.plot(ladder.places, ladder.means, color=style.colour, ls=style.dash, marker=style.marker, ms=4.5, zorder=4)
        ax.plot(*zip(*ladder.dots, strict=True), ".", color=style.colour, ms=3.5, alpha=0.55, zorder=3)
        if ladder.lost:
            high = top - 0.02 * number * (limits[1] - limits[0]) / max(len(found), 1)
            ax.plot(ladder.lost, [high] * len(ladder.lost), "x", color=style.colour, ms=5, zorder=5)
        if ladder.fit:
            ax.plot(*zip(*ladder.fit, strict=True), color=style.colour, lw=3, alpha=0.3, zorder=2)
        for place, score in ladder.fresh:
            ax.plot([place], [score], "D", ms=3.5, mfc="none", mec=style.colour, mew=0.8, zorder=5)
        if ladder.spot is not None:
            shape = "s" if ladder.on_edge else "o"
            ax.plot(*([x] for x in ladder.spot), shape, ms=10, mfc="none", mec=INK, mew=0.9, zorder=6)
    ax.set_ylim(limits[0], top + 0.03 * (limits[1] - limits[0]))
    spots = [float(value) for value in order] if numeric else [float(i) for i in range(len(order))]
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xticks(spots, _with_room(ax, spots, [ellipsis(value, 16) for value in order]))
    ax.set_xlabel(key)
    ax.set_ylabel(axis(material.metric))
    return bool(np.any([(m < limits[0]) or (m > limits[1]) for m in means]))


def _with_room(ax: Axes, spots: list[float], labels: list[str]) -> list[str]:
    """The labels, without those that would touch the one before."""
    low, high = (float(ax.transScale.transform((x, 1.0))[0]) for x in ax.get_xlim())
    kept, until = [], -math.inf
    for spot, text in zip(spots, labels, strict=True):
        place = (float(ax.transScale.transform((spot, 1.0))[0]) - low) / (high - low)
        half = 0.006 * (len(text) + 1)  # of the axis: a sign is about 5 of its 430 points wide
        kept.append(text if place - half >= until else "")
        until = place + half if kept[-1] else until
    return kept


def _caption(material: Material, drawn: list[tuple[str, list[str], list[Ladder]]], outside: bool) -> str:
    text = "Mean over the finished runs at each value; dots are runs. Circled: the value that the comparison uses."
    if material.design.tuning_pairs:
        text = (
            "Mean over the tuning seeds at each value, and the parabola around the best one. Circled: mean of the "
            "fresh seeds (diamonds) at the value chosen, which alone are compared."
        )
    elif len(material.design.nuisance) > 1:
        text += " Where other settings were tuned too, their best value is taken at each place."
    edges = list(dict.fromkeys(str(ld.row.arm) for _, _, found in drawn for ld in found if ld.on_edge))
    if edges:
        text += (
            f" Squared: the best value is the last of its ladder, so a better one may lie beyond: {', '.join(edges)}."
        )
    if any(ladder.lost for _, _, found in drawn for ladder in found):
        text += " × at the top: runs diverged there."
    if outside:
        text += " The axis is cut where results are far from the best."
    return text + material.cut(material.shown())
