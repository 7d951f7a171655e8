"""Group sequential t-test: exact critical values with a look after every pair, by alpha spending.

A looked-at t-test is a walk on a sphere. With k differences x and S = sum x, R^2 = sum x^2, the cosine
w_k = S / (R sqrt(k)) is sin(phi) and the t-statistic is sqrt(k - 1) tan(phi). Where the true mean is 0 the direction of
x is uniform, phi has density cos(phi)^(k-2), and given phi_k the last difference is

    x_k / R = w_k / sqrt(k) + sqrt(1 - w_k^2) sqrt((k - 1) / k) sin(psi),    density of psi: cos(psi)^(k-3)

whatever came before: walking backwards, phi_(k-1) depends on phi_k alone. So the chance that no earlier look crossed,
given phi_k, is an integral over that chance given phi_(k-1), and each look's critical value is the one that spends what
the look may spend. One dimension, no simulation, no approximation of the unknown variance: critical values agree with
simulation to its own error (tests/stats/test_alpha_spending.py).

Spent until k of N pairs is alpha (k / N)^SHAPE, two-sided (Lan & DeMets 1983, Biometrika 70:659; Kim & DeMets 1987,
Biometrika 74:149). At every look the critical value falls as alpha grows: a look's p-value is the alpha at which it
just crosses, and holds whatever the reason to stop was (Jennison & Turnbull 1989, J. R. Stat. Soc. B 51:305).
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

SHAPE = 1.5
"""Exponent of what is spent. Simulated with 3 to 10 pairs, 4 arms, a band of half a difference's deviation, effects of
2 / 4 deviations: 1 finds 76 / 100 % with 8.1 / 5.0 pairs, 1.5 finds 81 / 100 % with 8.1 / 5.1, 3 finds 86 / 100 % with
8.2 / 5.5; ten pairs without a look find 92 / 100 %."""
CELLS = 480
NODES = 96
LEVELS = np.concatenate([np.logspace(-8, -0.05, 120), [1.0]])
"""Two-sided alphas between which p-values are interpolated; below the first one a p-value is the first."""


@dataclass(frozen=True)
class Boundaries:
    """Critical values of looks after `first` to `last` pairs.

    Fields:
        table: |t| (looks, LEVELS).
    """

    first: int
    last: int
    table: Array

    def critical(self, pairs: ArrayLike, alpha: float) -> Array:
        """|t| that a look must exceed, so that of all looks at most alpha do by chance; of numbers of pairs (...)."""
        rows = np.asarray(pairs, int) - self.first
        each = [np.exp(np.interp(math.log(alpha), np.log(LEVELS), np.log1p(row))) - 1 for row in self.table]
        return np.asarray(np.array(each)[rows])

    def p(self, pairs: ArrayLike, t: ArrayLike) -> Array:
        """The alpha at which |t| is the critical value of a look: a p-value that holds at any look; (...)."""
        rows, size = np.broadcast_arrays(np.asarray(pairs, int) - self.first, np.abs(np.asarray(t, float)))
        found = np.ones(size.shape)
        for number, row in enumerate(self.table):
            here = rows == number
            found[here] = np.exp(np.interp(np.log1p(size[here]), np.log1p(row[::-1]), np.log(LEVELS[::-1])))
        return found


def spent(pairs: int, last: int, alpha: float) -> float:
    """What the looks until a number of pairs may spend of alpha."""
    return float(alpha * (pairs / last) ** SHAPE)


@functools.lru_cache(maxsize=32)
def boundaries(first: int, last: int) -> Boundaries:
    """The critical values of looks after each number of pairs from `first` (3 or more) to `last`; 0.1 s for 3 to 10."""
    u = np.linspace(0.0, 1.0, CELLS + 1)
    phi = math.pi / 2 * (1 - (1 - u) ** 2)  # dense where t is large
    survived = np.ones((CELLS + 1, len(LEVELS)))
    table: list[Array] = []
    for pairs in range(first, last + 1):
        if table:
            survived = _backwards(pairs, phi) @ survived
        weight = np.cos(phi) ** (pairs - 2) * (1 - u)
        beyond = _tail(weight[:, None] * survived) / _tail(weight)[0]
        before = spent(pairs - 1, last, 1.0) if table else 0.0
        wished = LEVELS * (spent(pairs, last, 1.0) - before)
        cut = np.array([_crossing(beyond[:, j], wished[j]) for j in range(len(LEVELS))])
        table.append(math.sqrt(pairs - 1) * np.tan(math.pi / 2 * (1 - (1 - cut / CELLS) ** 2)))
        survived = survived * _below(cut)
    return Boundaries(first, last, np.array(table))


def _backwards(pairs: int, phi: Array) -> Array:
    """Takes a function of |phi| at one look to its mean given |phi| at the next, of this many pairs."""
    x, weight = np.polynomial.legendre.leggauss(NODES)
    psi = x * math.pi / 2
    weight = weight * np.cos(psi) ** (pairs - 3)
    w = np.sin(phi)[:, None]
    newest = w / math.sqrt(pairs) + np.cos(phi)[:, None] * math.sqrt((pairs - 1) / pairs) * np.sin(psi)
    rest = np.maximum(1 - newest**2, 1e-300)
    cosine = np.minimum(np.abs(math.sqrt(pairs) * w - newest) / np.sqrt((pairs - 1) * rest), 1.0)
    place = CELLS * (1 - np.sqrt(1 - np.arcsin(cosine) / (math.pi / 2)))
    cell = np.minimum(place.astype(int), CELLS - 1)
    part = place - cell
    rows = np.repeat(np.arange(len(phi)), NODES)
    size = (len(phi), len(phi))
    share = np.broadcast_to(weight / weight.sum(), place.shape)
    found = np.zeros(size)
    np.add.at(found, (rows, cell.ravel()), (share * (1 - part)).ravel())
    np.add.at(found, (rows, cell.ravel() + 1), (share * part).ravel())
    return found


def _tail(values: Array) -> Array:
    """Integral from each node to the last one, by the trapezoidal rule."""
    steps = (values[1:] + values[:-1]) / 2
    return np.concatenate([np.cumsum(steps[::-1], axis=0)[::-1], np.zeros_like(values[:1])])


def _crossing(beyond: Array, target: float) -> float:
    """Where a falling tail has come down to what is wished for, in cells."""
    after = int(np.searchsorted(-beyond, -target))
    if after == 0:
        return 0.0
    high, low = beyond[after - 1], beyond[after]
    return after - 1 + float((high - target) / (high - low))


def _below(cut: Array) -> Array:
    """Weights of the nodes (nodes, levels) with which a function that ends between two of them keeps its integral."""
    inside = np.clip(cut - np.arange(CELLS + 1)[:, None], -1.0, 1.0)
    return np.asarray(np.where(inside < 0, (1 + inside) ** 2 / 2, 0.5 + inside - inside**2 / 2))
