"""Learning curves, whole and at the end, and the curves of paired differences."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from scipy.special import stdtrit

from gpt_lab import metrics
from gpt_lab.analysis.comparison import Row
from gpt_lab.analysis.wording import percent, plain, signed, within
from gpt_lab.metrics import axis
from gpt_lab.report.figures.base import (
    BAND,
    COLUMNS,
    INK,
    MUTED,
    PAPER,
    Drawing,
    canvas,
    ellipsis,
    folded,
    label_ends,
    near,
    reach,
    thinned,
    tokens_axis,
)
from gpt_lab.report.figures.material import Material, together
from gpt_lab.stats.paired import Array
from gpt_lab.study.design import Settings
from gpt_lab.validity.compared import SAME

ZOOM = 0.6
"""Share of the tokens that the lower panel leaves out."""


@dataclass(frozen=True)
class Line:
    """The curves of an arm on one grid of tokens: one column per pair."""

    arm: Settings
    values: pd.DataFrame
    interpolated: bool

    @property
    def mean(self) -> pd.Series[float]:
        return self.values.mean(axis=1)


def draw(material: Material) -> Drawing | None:
    """Mean over seeds with the range of the seeds; None where no run was evaluated at two places."""
    lines = []
    for row in material.shown():
        values, interpolated = together(list(material.curves.get(row.arm, {}).values()))
        if len(values) >= 2:
            lines.append(Line(row.arm, values, interpolated))
    if not lines:
        return None
    most = max(line.values.index[-1] for line in lines)
    start = min(ZOOM * most, max(line.values.index[-2] for line in lines))
    figure = canvas(6.3)
    whole, end = figure.subplots(2, 1, height_ratios=(1, 1.2))
    floors = _floors(material)
    left = start - 0.02 * (most - start)
    for line in lines:
        _curve(whole, line, material)
        _curve(end, line, material, left)
    for run in material.diverged.values():
        _line(whole, run.index.to_numpy(float), run.to_numpy(), color=MUTED, lw=0.8, ls=(0, (1, 1.5)), zorder=2)
        whole.plot(run.index[-1:], run.to_numpy()[-1:], "x", color=MUTED, ms=5, zorder=3)
    values = np.concatenate([line.values.to_numpy().ravel() for line in lines])
    whole.set_ylim(*reach((), keep=[*values, *floors.values()]))
    whole.set_xlim(0, most * 1.01)
    inside = near([float(line.mean.iloc[-1]) for line in lines], jump=3.0)
    late = [ln.values[ln.values.index >= start].to_numpy().ravel() for ln in lines if ln.mean.iloc[-1] in inside]
    end.set_ylim(*reach((), keep=np.concatenate(late).tolist()))
    end.set_xlim(left, most + 0.02 * (most - start))
    whole.axvspan(start, most, color=BAND, zorder=0, lw=0)
    for ax in (whole, end):
        _draw_floors(ax, floors, beside=ax is whole)
        ax.set_ylabel(axis(material.metric))
    tokens_axis(whole, most, label=False)
    tokens_axis(end, most)
    end.set_title("the end of training, enlarged (grey part of the panel above)", color=MUTED)
    low, high = end.get_ylim()
    ends = []
    for line in lines:
        last, name = float(line.mean.iloc[-1]), material.names[line.arm]
        arrow = " ↑" if last > high else " ↓" if last < low else ""
        ends.append((last, ellipsis(name, 28) + arrow, material.styles[line.arm].colour))
    label_ends(end, ends, height=2.6)
    return Drawing("curves", "Learning curves", _caption(material, lines, floors, end.get_ylim()), figure)


def _curve(ax: Axes, line: Line, material: Material, left: float = 0.0) -> None:
    """Args: left: where the axes begin, in tokens."""
    style = material.styles[line.arm]
    values, above = line.values, line.arm == material.baseline
    if len(values) > COLUMNS:
        values = values.iloc[max(int(values.index.searchsorted(left)) - 1, 0) :]
    grid, mean = values.index.to_numpy(float), values.mean(axis=1).to_numpy()
    if values.shape[1] > 1:
        low, high = values.min(axis=1).to_numpy(), values.max(axis=1).to_numpy()
        _band(ax, grid, low, high, color=style.colour, alpha=0.16, lw=0, zorder=2)
    _line(ax, grid, mean, color=style.colour, ls=style.dash, lw=style.width, zorder=5 if above else 4)
    ax.plot(grid[-1:], mean[-1:], style.marker, color=style.colour, ms=4.5, zorder=6)


def _line(ax: Axes, x: Array, y: Array, columns: int = COLUMNS, **look: Any) -> None:
    kept = thinned(x, y, columns=columns)
    ax.plot(x[kept], y[kept], **look)


def _band(ax: Axes, x: Array, low: Array, high: Array, columns: int = COLUMNS, **look: Any) -> None:
    kept = thinned(x, low, high, columns)
    ax.fill_between(x[kept], low[kept], high[kept], **look)


def _floors(material: Material) -> dict[str, float]:
    """N-gram floors where all finished runs have the same; they are bits per byte, so for that metric alone."""
    if not metrics.has_floors(material.metric):
        return {}
    runs = material.study.runs
    runs = runs[runs["state"] == "finished"]
    found = {}
    for name in metrics.FLOORS:
        values = pd.to_numeric(runs[f"floor_{name}"], errors="coerce").dropna()
        if len(values) and np.isclose(values.min(), values.max(), rtol=1e-6):
            found[name] = float(values.iloc[0])
    return found


def _draw_floors(ax: Axes, floors: dict[str, float], beside: bool) -> None:
    low, high = ax.get_ylim()
    inside = {name: value for name, value in floors.items() if low <= value <= high}
    for value in inside.values():
        ax.axhline(value, color=MUTED, lw=0.8, ls=(0, (4, 2, 1, 2)), zorder=1)
    if beside:
        label_ends(ax, [(value, f"{name} floor {value:.3f}", MUTED) for name, value in inside.items()], height=2.0)
    else:
        for name, value in inside.items():
            ax.annotate(
                f"{name} floor", (0, value), xycoords=("axes fraction", "data"), xytext=(3, 2),
                textcoords="offset points", color=MUTED, fontsize=7, zorder=7,
                bbox={"facecolor": PAPER, "edgecolor": "none", "alpha": 0.8, "pad": 0.6},
            )  # fmt: skip


def _caption(material: Material, lines: list[Line], floors: dict[str, float], end: tuple[float, float]) -> str:
    text = f"{material.metric} over training, mean of each arm's finished runs"
    many = [line for line in lines if line.values.shape[1] > 1]
    text += "; band: lowest to highest run." if many else "."
    if floors:
        text += " Dash-dotted: what counting n-grams alone reaches on the same text."
    if any(line.interpolated for line in lines):
        text += " Runs evaluated at different tokens: values between evaluations are interpolated."
    if len(material.diverged):
        text += f" Dotted, ending in ×: {len(material.diverged)} diverged."
    outside = [line for line in lines if not end[0] <= line.mean.iloc[-1] <= end[1]]
    if outside:
        names = ", ".join(f"{line.arm} ({plain(float(line.mean.iloc[-1]), 3)})" for line in outside)
        text += f" Beyond the lower panel: {names}."
    return text + material.sample() + material.cut(material.shown())


def differences(material: Material) -> Drawing | None:
    """Variant minus baseline over tokens, one panel per arm; None where no two runs of a pair share a grid."""
    found = [
        (row, line)
        for row in material.shown()
        if row.arm != material.references.get(row.arm, row.arm)
        if (line := _difference(row, material))
    ]
    if not found:
        return None
    band = material.comparison.band
    inside = near([_last(line) for _, line in found], keep=(-1.5 * band, 1.5 * band))
    beyond = [(row, line) for row, line in found if _last(line) not in inside]
    found = [(row, line) for row, line in found if _last(line) in inside]
    columns = min(len(found), 2 if len(found) <= 4 else 3)
    lines = math.ceil(len(found) / columns)
    figure = canvas(0.6 + (2.4 if lines == 1 else 1.7) * lines)
    panels = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    most = max(line.values.index[-1] for _, line in found)
    limits = _limits(found, material)
    sizes = {line.values.shape[1] for _, line in found}
    for ax, (row, line) in zip(panels.flat, found, strict=False):
        _panel(ax, row, line, material, COLUMNS // columns)
        title = folded(material.names[row.arm], 52 // columns + 10)
        ax.set_title(title if len(sizes) == 1 else f"{title} (n = {line.values.shape[1]})")
        ax.set_ylim(*limits)
        ax.set_xlim(0, most * 1.01)
        tokens_axis(ax, most, label=False)
    for ax in panels.flat[len(found) :]:
        ax.set_visible(False)
        panels[-2 if lines > 1 else -1][list(panels[-1]).index(ax)].tick_params(labelbottom=True)
    tokens_axis(panels[-1][0], most)
    figure.supxlabel(panels[-1][0].get_xlabel(), fontsize=8)
    panels[-1][0].set_xlabel("")
    figure.supylabel(f"difference in {axis(material.metric)}", fontsize=8)
    return Drawing("differences", "Paired differences over training", _said(found, beyond, limits, material), figure)


def _difference(row: Row, material: Material) -> Line | None:
    variant, base = material.curves.get(row.arm, {}), material.curves.get(material.references[row.arm], {})
    columns, interpolated = [], False
    for pair in variant:
        if pair in base:
            both, between = together([variant[pair], base[pair]])
            if len(both) >= 2:
                columns.append(both[0] - both[1])
                interpolated |= between
    values, again = together(columns)
    return Line(row.arm, values, interpolated or again) if len(values) >= 2 else None


def _limits(found: list[tuple[Row, Line]], material: Material) -> tuple[float, float]:
    """From the later two thirds of training: what comes before is often tens of times larger."""
    late = [
        line.values[line.values.index >= line.values.index[-1] / 3].to_numpy().ravel().tolist() for _, line in found
    ]
    band = material.comparison.band
    ends = [end for _, line in found for end in _interval(line.values.iloc[-1:], material.design.alpha) if len(end)]
    return reach(
        [v for values in late for v in values], keep=(-1.5 * band, 1.5 * band, *(float(e.iloc[0]) for e in ends))
    )


def _panel(ax: Axes, row: Row, line: Line, material: Material, columns: int) -> None:
    """Args: columns: of pixels."""
    style = material.styles[row.arm]
    grid = line.values.index.to_numpy(float)
    band = material.comparison.band
    ax.axhspan(-band, band, color=BAND, zorder=0, lw=0)
    ax.axhline(0, color=INK, lw=0.8, zorder=1)
    n = line.values.shape[1]
    if n > 1:
        low, high = (side.to_numpy() for side in _interval(line.values, material.design.alpha))
        _band(ax, grid, low, high, columns, color=style.colour, alpha=0.18, lw=0, zorder=2)
        for values in line.values.to_numpy().T:
            _line(ax, grid, values, columns, color=style.colour, lw=0.6, alpha=0.55, zorder=3)
    _line(ax, grid, line.mean.to_numpy(), columns, color=style.colour, lw=1.6, zorder=4)


def _interval(values: pd.DataFrame, alpha: float) -> tuple[pd.Series[float], ...]:
    """Ends of the t interval of each row's mean; none with one column."""
    n = values.shape[1]
    if n < 2:
        return ()
    half = stdtrit(n - 1, 1 - alpha / 2) * values.std(axis=1, ddof=1) / math.sqrt(n)
    return values.mean(axis=1) - half, values.mean(axis=1) + half


def _last(line: Line) -> float:
    return float(line.mean.iloc[-1])


def _uneven(found: list[tuple[Row, Line]], material: Material) -> str:
    """What a reader must know where an arm and its baseline train on other numbers of tokens; "" where none do."""
    ends = {arm: max(line.index[-1] for line in lines.values()) for arm, lines in material.curves.items() if lines}
    arms = [row.arm for row, _ in found]
    pairs = [(arm, material.references[arm]) for arm in arms if arm in ends]
    uneven = [str(arm) for arm, base in pairs if base in ends and abs(ends[arm] - ends[base]) > SAME * ends[base]]
    if not uneven:
        return ""
    return (
        f"{', '.join(uneven)}: its budget is not the baseline's, so that at equal tokens one of the two is in the "
        "middle of its schedule; the verdict is about the ends of both, which this figure cannot show."
    )


def _said(
    found: list[tuple[Row, Line]], beyond: list[tuple[Row, Line]], limits: tuple[float, float], material: Material
) -> str:
    text = (
        f"Variant minus {material.design.baseline_arm}{within(material.design)} at equal tokens: thick, the mean; "
        f"thin, each {material.design.pair}; "
        f"band, a t interval at {percent(material.design.alpha)} for each place by itself. "
        "Grey: too small to matter. "
    )
    text += _uneven(found, material) or "The verdict is about the last place only."
    sizes = {line.values.shape[1] for _, line in found}
    if len(sizes) == 1 and max(sizes) > 1:
        text += f" {max(sizes)} pairs each."
    if beyond:
        text += f" Too far off for these axes: {', '.join(f'{r.arm} ({signed(_last(ln), 3)})' for r, ln in beyond)}."
    least, most = (np.array([end(line.values.to_numpy()) for _, line in found]) for end in (np.min, np.max))
    if least.min() < limits[0] or most.max() > limits[1]:
        text += " The axis is cut at the first part of training, where differences are larger."
    if any(line.interpolated for _, line in found):
        text += " Runs evaluated at different tokens: values between evaluations are interpolated."
    if any(line.values.shape[1] > row.n for row, line in found):
        text += " Pairs that chose a tuned value are drawn; those of the table's n decide."
    if any(line.values.shape[1] == 1 for _, line in found):
        text += " With one pair there is no interval."
    return text + material.sample() + material.cut(material.shown())
