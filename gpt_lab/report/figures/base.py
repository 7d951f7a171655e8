"""What all figures share: size, colours, fonts, axes, and writing them so that equal data give equal files."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from gpt_lab.analysis.wording import SUPERSCRIPTS
from gpt_lab.stats.paired import Array
from gpt_lab.store.atomic_files import write_atomic

WIDTH = 6.9
"""Inches: 8 point text is 11 pixels high when the figure is shown 640 pixels wide."""
PNG_DPI = 200
COLUMNS = 400
"""Pixel columns of axes in a figure that is shown 640 pixels wide: no line needs more places than these show."""

INK = "#1f2329"
MUTED = "#5b6570"
GRID = "#dde2e7"
BAND = "#e9edf1"
PAPER = "#fefefe"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#c98500", "#3f9fd8")
"""Okabe and Ito 2008, which colour-blind readers can tell apart; orange and sky blue darkened for white paper."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h", "*")
DASHES: tuple[str | tuple[int, tuple[float, ...]], ...] = ("solid", (0, (5, 1.6)), (0, (1.2, 1.4)))

VERDICTS = {
    "better": ("#0072b2", "o", True),
    "worse": ("#d55e00", "X", True),
    "equivalent": ("#009e73", "s", True),
    "real but small": ("#a4629f", "D", True),
    "undecided": (MUTED, "o", False),
    "no data": (MUTED, "", False),
}
"""Colour, marker, filled: a verdict is told by shape and word too."""

VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--grid",
    BAND: "--band",
    PAPER: "--paper",
    "#0072b2": "--blue",
    "#d55e00": "--vermillion",
    "#009e73": "--green",
    "#cc79a7": "--pink",
    "#c98500": "--orange",
    "#3f9fd8": "--sky",
    "#a4629f": "--purple",
}
"""Every colour of a figure, and the variable of the page's light and dark scheme that stands for it there."""

SETTINGS = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial", "sans-serif"],  # the first is the widest: others fit
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "axes.titlelocation": "left",
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.facecolor": PAPER,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "axes.formatter.use_mathtext": False,
    "grid.color": GRID,
    "grid.linewidth": 0.5,
    "text.color": INK,
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "lines.linewidth": 1.3,
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "svg.fonttype": "none",  # text stays text: small, searchable, and the page's own font fits
    "svg.hashsalt": "gpt_lab",
    "path.simplify": True,
}


class Canvas(Figure):
    """A figure that a notebook shows where it is the last word of a cell, without pyplot."""

    def _repr_svg_(self) -> str:
        text = io.StringIO()
        with look():
            self.savefig(text, format="svg", metadata={"Date": None})
        return text.getvalue()


@dataclass(frozen=True)
class Drawing:
    """A figure before it is written."""

    name: str
    title: str
    caption: str
    canvas: Canvas


@contextmanager
def look() -> Iterator[None]:
    """The lab's look for figures made and written inside; matplotlib's settings are as before afterwards."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        # a name may hold signs that the PNG's font lacks; a browser finds another font for the SVG
        warnings.filterwarnings("ignore", message=".*missing from (current )?font", category=UserWarning)
        matplotlib.style.use(["default", SETTINGS])
        yield


def canvas(height: float, width: float = WIDTH) -> Canvas:
    """An empty figure (inches) whose parts find their own room."""
    figure = Canvas(figsize=(width, height), layout="constrained")
    engine = figure.get_layout_engine()
    assert engine is not None
    engine.set(w_pad=0.06, h_pad=0.06)  # type: ignore[call-arg]
    return figure


def write(drawing: Drawing, folder: Path) -> tuple[Path, Path]:
    """NAME.svg and NAME.png in the folder, each whole or not at all; equal drawings give equal bytes."""
    paths = folder / f"{drawing.name}.svg", folder / f"{drawing.name}.png"
    metadata = ({"Date": None, "Creator": None}, {"Software": None})
    for path, meta in zip(paths, metadata, strict=True):
        buffer = io.BytesIO()
        drawing.canvas.savefig(buffer, format=path.suffix[1:], dpi=PNG_DPI, metadata=meta)
        drawing.canvas.set_layout_engine(None)  # the layout that was found is kept: finding it again takes as long
        write_atomic(path, buffer.getvalue())
    return paths


def ellipsis(name: str, most: int = 44) -> str:
    """A name of at most so many signs: its middle is left out."""
    name = " ".join(name.split())
    if len(name) <= most:
        return name
    head = (most - 1) // 2
    return f"{name[: most - 1 - head]}…{name[-head:]}"


def folded(name: str, most: int = 30, lines: int = 2) -> str:
    """A name over at most so many lines, broken where its settings end."""
    words = " ".join(name.split()).split(", ")
    rows = [words[0]]
    for word in words[1:]:
        if len(rows[-1]) + len(word) + 2 <= most:
            rows[-1] += f", {word}"
        else:
            rows[-1] += ","
            rows.append(word)
    if len(rows) > lines:
        rows = [*rows[: lines - 1], ", ".join(row.rstrip(",") for row in rows[lines - 1 :])]
    return "\n".join(ellipsis(row, most) for row in rows)


def reach(values: Sequence[float], keep: Sequence[float] = (), jump: float = 6.0) -> tuple[float, float]:
    """Limits that show `values`, but for a few so far out that nothing else could be read.

    A value is far out if it and all beyond it are `jump` times further from the middle than any other; at most a third
    may be.

    Args:
        keep: values inside the limits whatever they are.
    """
    inside = [*near(values, keep, jump), *keep] or [0.0]
    room = 0.05 * (max(inside) - min(inside) or abs(inside[0]) or 1.0)
    return min(inside) - room, max(inside) + room


def near(values: Sequence[float], keep: Sequence[float] = (), jump: float = 6.0) -> list[float]:
    """The values that `reach` shows."""
    finite = sorted(v for v in values if math.isfinite(v))
    if not finite:
        return []
    middle = finite[len(finite) // 2]
    by_distance = sorted(finite, key=lambda v: abs(v - middle))
    least = max((abs(v - middle) for v in keep), default=0.0)
    for i in range(math.ceil(2 * len(finite) / 3), len(finite)):
        before = max(abs(by_distance[i - 1] - middle), least)
        if before > 0 and abs(by_distance[i] - middle) > jump * before:
            return by_distance[:i]
    return finite


def thinned(x: Array, low: Array, high: Array | None = None, columns: int = COLUMNS) -> NDArray[np.intp]:
    """Which points of a line, or of the band between two, are drawn: all, or where there are more than pixel columns
    those that make the same picture, of each column the first, the last, the lowest and the highest.

    Paper: Jugel et al. 2014, M4, a visualization-oriented time series data aggregation.

    Args:
        x: ascending (points,). low, high: the values there, without NaN (points,); high None: a line.
    """
    if len(x) <= columns:
        return np.arange(len(x))
    column = np.minimum((x - x[0]) / (x[-1] - x[0]) * columns, columns - 1).astype(np.intp)
    first = np.flatnonzero(np.diff(column, prepend=-1))
    last = np.append(first[1:], len(x)) - 1
    lowest = np.lexsort((low, column))[first]
    highest = np.lexsort((low if high is None else high, column))[last]
    return np.unique(np.concatenate([first, last, lowest, highest]))


def tokens_axis(ax: Axes, most: float, label: bool = True) -> None:
    """Tokens on x, in thousands, millions or billions, as the largest value wants it."""
    size, name = next(
        ((s, n) for s, n in ((1e9, "billions"), (1e6, "millions"), (1e3, "thousands")) if most >= s),
        (1, ""),
    )
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / size:g}"))
    ax.xaxis.set_major_locator(MaxNLocator(5))
    if label:
        ax.set_xlabel(f"training tokens ({name})" if name else "training tokens")


def scaled(most: float) -> tuple[float, str]:
    """A power of 1000 for large values of an axis, and how its label names it: (1e12, "10¹² ")."""
    if most < 1e4 or not math.isfinite(most):
        return 1.0, ""
    power = 3 * math.floor(math.log10(most) / 3)
    return 10.0**power, f"10{str(power).translate(SUPERSCRIPTS)} "


def spread_out(places: Sequence[float], least: float, low: float = 0.0, high: float = 1.0) -> list[float]:
    """The places moved as little as needed so that neighbours are `least` apart, within low..high."""
    if not places:
        return []
    least = min(least, (high - low) / max(len(places) - 1, 1))
    order = sorted(range(len(places)), key=lambda i: places[i])
    groups: list[tuple[list[int], float]] = []
    for i in order:
        members, centre = [i], places[i]
        centre = min(max(centre, low), high)
        while True:
            half = least * (len(members) - 1) / 2
            centre = min(max(centre, low + half), high - half)
            if not groups:
                break
            before, middle = groups[-1]
            if middle + least * (len(before) - 1) / 2 + least <= centre - half + 1e-12:
                break
            groups.pop()
            total = len(before) + len(members)
            centre = (middle * len(before) + centre * len(members)) / total
            members = before + members
        groups.append((members, centre))
    moved = [0.0] * len(places)
    for members, centre in groups:
        for place, i in enumerate(members):
            moved[i] = centre + least * (place - (len(members) - 1) / 2)
    return moved


def label_ends(ax: Axes, ends: Sequence[tuple[float, str, str]], height: float) -> None:
    """Names right of the axes beside the values (value, name, colour) where their lines end, without overlap.

    Args:
        height: of the axes, in inches, about.
    """
    low, high = ax.get_ylim()
    places = [(value - low) / (high - low) for value, _, _ in ends]
    least = 10.5 / (72 * height)
    for (value, name, colour), place, moved in zip(ends, places, spread_out(places, least), strict=True):
        if math.isfinite(value):
            ax.plot(
                [1.005, 1.03], [min(max(place, 0), 1), moved], color=colour, lw=0.7,
                transform=ax.transAxes, clip_on=False, zorder=1,
            )  # fmt: skip
            ax.text(1.04, moved, name, color=INK, va="center", ha="left", transform=ax.transAxes, fontsize=7.5)
