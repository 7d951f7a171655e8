"""Power-law fits of loss curves L = E + A * D^-a, many sets of points at once.

For an exponent the best E and A are a line's, so only the exponent is searched: on a logarithmic grid, then ever finer
around its best value. E >= 0 and A > 0 always: a loss cannot be negative, nor grow with training.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .paired import Array

EXPONENTS = np.geomspace(0.02, 4.0, 64)
"""Those of the literature lie between 0.05 and 0.5; an optimum at an end of this grid is none."""
FEWEST_POINTS = 3
CONFIDENT = 4.0
"""Increase of the sum of squares, in variances of a point, that about 95 % of the data at the true exponent stay below
(the square of 1.96)."""


@dataclass(frozen=True)
class PowerLaw:
    """Curves (...).

    Fields:
        scale: unit of D, near the middle of the points. floor: E. drop: A at D = scale, so that L = E + A there.
        exponent: a. squares: sum of the squared residuals.
        determined: whether the exponent lies inside the grid and the curve falls.
    """

    scale: float
    floor: Array
    drop: Array
    exponent: Array
    squares: Array
    determined: NDArray[np.bool_]

    def at(self, budget: ArrayLike) -> Array:
        """Loss after `budget`, which broadcasts with the curves."""
        return np.asarray(self.floor + self.drop * (np.asarray(budget, float) / self.scale) ** -self.exponent)

    def budget(self, loss: ArrayLike) -> Array:
        """The D at which the loss is reached; infinite where it never is."""
        left = np.asarray(loss, float) - self.floor
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            found = self.scale * (self.drop / left) ** (1 / self.exponent)
        return np.where(left > 0, found, np.inf)


def fit(budgets: ArrayLike, losses: ArrayLike) -> PowerLaw:
    """Least squares through losses (..., points) at budgets (points,).

    Raises:
        ValueError: fewer than 3 different budgets, or one that is not positive.
    """
    d, y, scale = _checked(budgets, losses)
    found = _lines(d / scale, y, EXPONENTS)
    best = np.argmin(found[2], axis=-1)
    inside = (best > 0) & (best < len(EXPONENTS) - 1)
    around = np.log(EXPONENTS[np.clip(best, 1, len(EXPONENTS) - 2)])
    width = float(np.log(EXPONENTS[1] / EXPONENTS[0]))
    steps = np.linspace(-1, 1, 9)
    for _ in range(8):  # each is four times finer than the last
        exponents = np.exp(around[..., None] + width * steps)
        found = _lines(d / scale, y, exponents)
        best = np.argmin(found[2], axis=-1)
        around = around + width * steps[best]
        width /= 4
    floor, drop, squares = (np.take_along_axis(part, best[..., None], -1)[..., 0] for part in found)
    return PowerLaw(scale, floor, drop, np.exp(around), squares, inside & (drop > 0) & np.isfinite(squares))


def reaches(
    budgets: ArrayLike, losses: ArrayLike, anchor: float, change: float, variance: float
) -> tuple[float, float]:
    """The least and the largest D at which a curve has changed by `change` from its value at `anchor`.

    Over all exponents that the points, each of this variance, allow: how well they determine the answer.

    Args:
        losses: of one set of points (points,).
    """
    d, y, scale = _checked(budgets, losses)
    grid = np.geomspace(EXPONENTS[0], EXPONENTS[-1], 8 * len(EXPONENTS))
    floor, drop, squares = _lines(d / scale, y, grid)
    allowed = (squares <= float(squares.min()) + CONFIDENT * variance) & (drop > 0)
    many = len(grid)
    curve = PowerLaw(scale, floor, drop, grid, squares, np.ones(many, bool))
    answers = curve.budget(curve.at(anchor) + change)[allowed]
    return (float(answers.min()), float(answers.max())) if len(answers) else (0.0, float("inf"))


def _checked(budgets: ArrayLike, losses: ArrayLike) -> tuple[Array, Array, float]:
    d, y = np.asarray(budgets, float), np.asarray(losses, float)
    if len(np.unique(d)) < FEWEST_POINTS or not (d > 0).all():
        raise ValueError(f"{len(np.unique(d))} budgets determine no curve: {FEWEST_POINTS} different ones at least")
    return d, y, float(np.exp(np.log(d).mean()))


def _lines(d: Array, y: Array, exponents: Array) -> tuple[Array, Array, Array]:
    """E, A and the sum of squares (..., exponents) of the best line in D^-a for each exponent."""
    x = d ** -exponents[..., None]  # (..., exponents, points)
    values = y[..., None, :]
    x_mean, y_mean = x.mean(-1, keepdims=True), values.mean(-1, keepdims=True)
    off = x - x_mean
    drop = (off * (values - y_mean)).sum(-1) / (off**2).sum(-1)
    floor = y_mean[..., 0] - drop * x_mean[..., 0]
    without = (x * values).sum(-1) / (x**2).sum(-1)
    negative = floor < 0
    drop, floor = np.where(negative, without, drop), np.where(negative, 0.0, floor)
    squares = ((values - floor[..., None] - drop[..., None] * x) ** 2).sum(-1)
    return floor, drop, np.where(drop > 0, squares, np.inf)
