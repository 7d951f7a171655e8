"""Where each variant ended, and where the baseline's loss curve reaches that loss."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from gpt_lab.analysis.sections.baseline_curve import Curve
from gpt_lab.analysis.sections.equal_cost import Line, answer
from gpt_lab.analysis.wording import short
from gpt_lab.metrics import axis
from gpt_lab.report.figures.base import INK, MUTED, PAPER, Drawing, canvas, ellipsis, thinned
from gpt_lab.report.figures.material import Material
from gpt_lab.stats.speedup import LIMIT, Reach

MOST = 12


def draw(material: Material) -> Drawing | None:
    """Loss over tokens, one curve for each baseline; None where no speed-up is determined."""
    found = answer(material.comparison, material.study)
    reached = [(line, line.reach) for line in found.lines if line.reach is not None] if found else []
    if found is None or not reached:
        return None
    shown = reached[:MOST]
    figure = canvas(4.0)
    ax = figure.add_subplot()
    rough, drawn = False, set()
    for line, reach in shown:
        source = found.curves[line.base]
        if isinstance(source, Curve) and (key := source.losses.tobytes()) not in drawn:
            drawn.add(key)
            rough |= source.rough
            _curve(ax, reach)
    for line, reach in shown:
        _variant(ax, line, reach, material)
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    ax.xaxis.set_minor_formatter(FuncFormatter(lambda _value, _: ""))
    if len(ticks := sorted({float(b) for _, reach in shown for b in reach.budgets})) <= 6:
        ax.set_xticks(ticks)
    ax.set_xlabel("training tokens")
    ax.set_ylabel(axis(material.metric))
    figure.legend(loc="outside lower center", ncols=2)
    text = (
        "Circles: the baseline's runs, mean over the pairs, and E + A·D⁻ᵃ through them (dotted beyond them). Marks: "
        f"the variants' ends; a line leads to where the baseline's curve is as low, an arrow beyond {LIMIT:g} times or "
        "half the tokens, where nothing is extrapolated."
    )
    if rough:
        text += " The baseline's points are losses in mid-schedule: rough."
    if len(reached) > len(shown):
        text += f" The first {MOST} of {len(reached)} arms are drawn."
    return Drawing("speedup", "Speed-up over the baseline", text, figure)


def _curve(ax: Axes, reach: Reach) -> None:
    budgets, means = reach.budgets, reach.losses.mean(0)
    logs = np.log(budgets)
    shown = thinned(logs, means)
    ax.plot(budgets[shown], means[shown], "o", color=INK, ms=5, mfc=PAPER, zorder=3)
    inside = np.geomspace(budgets[0], budgets[-1], 80)
    ax.plot(inside, reach.law.at(inside[:, None])[:, 0], color=INK, lw=1.2, zorder=2)
    for low, high in ((budgets[0] / LIMIT, budgets[0]), (budgets[-1], budgets[-1] * LIMIT)):
        beyond = np.geomspace(low, high, 30)
        ax.plot(beyond, reach.law.at(beyond[:, None])[:, 0], color=MUTED, lw=1, ls=(0, (1, 1.5)), zorder=2)


def _variant(ax: Axes, line: Line, reach: Reach, material: Material) -> None:
    style = material.styles[line.row.arm]
    at, share = reach.anchor, float(reach.reached[0])
    loss = float(reach.law.at(at)[0] + reach.change[0])
    end = at * min(max(share, 1 / LIMIT), LIMIT)
    ax.plot([at, end], [loss, loss], color=style.colour, ls=style.dash, lw=1.1, zorder=4)
    if end != at * share:
        ax.plot([end], [loss], ">" if share > 1 else "<", color=style.colour, ms=5, zorder=5)
    ax.plot(
        [at], [loss], style.marker, color=style.colour, mec=PAPER, ms=6, zorder=5,
        label=ellipsis(material.names[line.row.arm], 40),
    )  # fmt: skip
