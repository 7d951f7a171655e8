"""Optimum of a tuned number: widened at an edge, then a parabola in its logarithm.

Pure functions of what was tried, so that runner and report choose alike. Lower scores are better here.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Curve = Mapping[float, float | None]
"""Score of each value that was tried; None: a bad place (a run diverged there, or was pruned)."""
Edge = Literal["low", "high"]
WINDOW = 2.05
"""Factor around the best value within which all that was tried is fitted; the next neighbours always are."""
DIGITS = 3
"""Of every value: what is tried again has the same name and the same identity."""


@dataclass(frozen=True)
class ValueGrid:
    """The values of one setting that an arm begins with, in ascending order, and how many it may add."""

    key: str
    values: tuple[float, ...]
    widen: int

    @property
    def start(self) -> float:
        """The middle one."""
        return self.values[len(self.values) // 2]

    @property
    def outwards(self) -> tuple[float, ...]:
        """The values in the order in which they are tried, the middle first."""
        middle = math.log(self.start)
        return tuple(sorted(self.values, key=lambda value: (round(abs(math.log(value) - middle), 6), value)))


@dataclass(frozen=True)
class Parabola:
    """score = level + slope * x + bend * x**2 with x = log(value / centre), fitted between low and high."""

    centre: float
    level: float
    slope: float
    bend: float
    low: float
    high: float

    def at(self, value: float) -> float:
        """The score that it gives a value."""
        x = math.log(value / self.centre)
        return self.level + self.slope * x + self.bend * x * x

    @property
    def vertex(self) -> float | None:
        """Where it is lowest; None unless it is convex and lowest between low and high."""
        if not self.bend > 0:
            return None
        try:
            found = self.centre * math.exp(-self.slope / (2 * self.bend))
        except OverflowError:
            return None
        return found if self.low < found < self.high else None


@dataclass(frozen=True)
class Optimum:
    """What a curve says.

    Fields:
        value: the parabola's vertex, or else the best value that was tried; None if none has a score.
        tried: the best value that was tried. fit: the parabola; None without neighbours on both sides.
        edge: where a better value may lie beyond all that was tried; of a curve without any score, the low end.
    """

    value: float | None
    tried: float | None
    fit: Parabola | None
    edge: Edge | None


def rounded(value: float) -> float:
    """A value to DIGITS digits."""
    return float(f"{value:.{DIGITS}g}")


def ladder(start: float, factor: float, points: int) -> tuple[float, ...]:
    """`points` values (an odd number) around `start`, each `factor` times the one before."""
    half = points // 2
    return tuple(rounded(start * factor**i) for i in range(-half, half + 1))


def optimum(curve: Curve) -> Optimum:
    """The best place of a curve."""
    best, edge = best_tried(curve)
    if best is None:
        return Optimum(None, None, None, edge)
    fit = None if edge else _fit(curve, sorted(curve), best)
    vertex = fit.vertex if fit is not None else None
    return Optimum(best if vertex is None else rounded(vertex), best, fit, edge)


def best_tried(curve: Curve) -> tuple[float | None, Edge | None]:
    """The value with the best score, and the edge that it is on; without any score the lower one of what was tried."""
    scored = [(score, value) for value, score in curve.items() if score is not None and math.isfinite(score)]
    if not scored:
        return None, "low" if curve else None
    best = min(scored)[1]
    return best, "low" if best == min(curve) else "high" if best == max(curve) else None


def wider(curve: Curve) -> float:
    """The value to try beyond the edge that the best one is on: as far from it as its neighbour on the other side."""
    values = sorted(curve)
    down = best_tried(curve)[1] == "low"
    end, inner = (values[0], values[1]) if down else (values[-1], values[-2])
    return rounded(end * end / inner)


def finer(curve: Curve) -> float:
    """The value to try within what was tried: the middle of the wider gap beside the best one, of others if need be."""
    values, best = sorted(curve), best_tried(curve)[0]
    gaps = [(a, b) for a, b in itertools.pairwise(values) if rounded(math.sqrt(a * b)) not in curve]
    low, high = max(gaps, key=lambda gap: (best in gap, round(math.log(gap[1] / gap[0]), 2), -gap[0]))
    return rounded(math.sqrt(low * high))


def range_within(curve: Curve, loss: float) -> tuple[float, float, bool] | None:
    """The values around the chosen one that cost at most `loss` more than it: the chosen one is always among them.

    By the parabola as far as it was fitted, beyond it interpolated between what was tried, in the logarithm.

    Returns:
        Both ends, and whether the range may go on beyond one of them: the loss was not reached before the last score.
        None for a curve without any score.
    """
    found = optimum(curve)
    if found.value is None:
        return None
    fit = found.fit if found.fit is not None and found.fit.vertex is not None else None
    least = fit.at(found.value) if fit is not None else curve[found.value]
    assert least is not None
    ends, is_open = [], False
    for step in (-1, 1):
        end, level = found.value, least
        if fit is not None:
            reached = found.value * math.exp(step * math.sqrt(loss / fit.bend))
            limit = fit.low if step < 0 else fit.high
            if step * (reached - limit) <= 0:
                ends.append(reached)
                continue
            end, level = limit, fit.at(limit)
        beyond = sorted((value for value in curve if step * (value - end) > 0), reverse=step < 0)
        for value in beyond:
            score = curve[value]
            if score is None or not math.isfinite(score):
                is_open = True
                break
            if score > least + loss:
                share = (least + loss - level) / (score - level)
                end = end * (value / end) ** share
                break
            end, level = value, score
        else:
            is_open = True
        ends.append(end)
    return ends[0], ends[1], is_open


def _fit(curve: Curve, values: Sequence[float], best: float) -> Parabola | None:
    """Least squares over the best value's surroundings; None beside a bad place."""
    import numpy as np

    place = values.index(best)
    near = [v for v in values if best / WINDOW <= v <= best * WINDOW]
    used = sorted({*near, *values[place - 1 : place + 2]})
    while curve[used[0]] is None and used[0] < values[place - 1]:
        used.pop(0)
    while curve[used[-1]] is None and used[-1] > values[place + 1]:
        used.pop()
    logs, scores = [], []
    for value in used:
        score = curve[value]
        if score is None or not math.isfinite(score):
            return None
        logs.append(math.log(value / best))
        scores.append(score)
    bend, slope, level = np.polyfit(logs, scores, 2)
    return Parabola(best, float(level), float(slope), float(bend), used[0], used[-1])
