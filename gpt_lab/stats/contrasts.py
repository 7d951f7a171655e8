"""Contrasts of two-level factors, and their scale without replicates (Lenth 1989).

Effect coding: x = -1 at a factor's low level (the baseline's), +1 at its high one; the x of an interaction is the
product of its factors'. An effect is the mean of the arms with x = +1 minus the mean of those with x = -1 (Box, Hunter
& Hunter 2005, Statistics for Experimenters, chapter 5): the change from low to high for one factor, half the change of
one factor's effect from the other's low to its high level for two. It is twice the coefficient that least squares finds
for x. Arrays are (..., arms) or (..., arms, pairs).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri, stdtrit

from .paired import Array
from .two_level import Word, group

FEWEST_CONTRASTS = 7
"""Below, half of the contrasts are too few to be taken for noise: a 2^3 has 7."""


@dataclass(frozen=True)
class Lenth:
    """What contrasts of one replicate tell of their own noise.

    Fields:
        pse: pseudo standard error of a contrast. df: its degrees of freedom, contrasts / 3.
        margin: beyond it one contrast stands out at level alpha. simultaneous: so that of all of them none does by
            chance, at level alpha.
    """

    pse: float
    df: float
    margin: float
    simultaneous: float


def distinct(factors: Sequence[str], words: Sequence[Word] = (), most: int | None = None) -> list[frozenset[str]]:
    """The effects that a design estimates, each once: of those that are aliased the one of the fewest factors.

    Args:
        most: factors of an effect, at most; None: all orders, as many effects as arms but one.
    """
    products = group(words)
    covered = {*products, frozenset[str]()}
    found = []
    for order in range(1, len(factors) + 1 if most is None else most + 1):
        for names in itertools.combinations(factors, order):
            effect = frozenset(names)
            if effect not in covered:
                found.append(effect)
                covered |= {effect, *(effect ^ word for word in products)}
    return found


def coefficients(high: NDArray[np.bool_], factors: Sequence[str], effects: Sequence[frozenset[str]]) -> Array:
    """(effects, arms): what each arm's score counts for in each effect.

    Args:
        high: (arms, factors), whether the arm has the factor at its high level.
    """
    x = np.where(high, 1.0, -1.0)
    rows = [x[:, [factors.index(name) for name in factors if name in effect]].prod(1) for effect in effects]
    return np.asarray(rows, float).reshape(len(effects), len(high)) * (2 / len(high))


def per_pair(weights: ArrayLike, scores: ArrayLike) -> Array:
    """(contrasts, pairs): each contrast in each pair; NaN where an arm that it needs has no score.

    Args:
        weights: (contrasts, arms). scores: (arms, pairs).
    """
    w, y = np.asarray(weights, float), np.asarray(scores, float)
    there = ~np.isnan(y)
    lacking = (w != 0).astype(float) @ (~there).astype(float) > 0
    return np.where(lacking, np.nan, w @ np.where(there, y, 0.0))


def lenth(contrasts: ArrayLike, alpha: float = 0.05) -> Lenth:
    """Lenth 1989, Technometrics 31:469: most contrasts are noise, and their median tells its size.

    Raises:
        ValueError: fewer than FEWEST_CONTRASTS.
    """
    size = np.abs(np.asarray(contrasts, float))
    if len(size) < FEWEST_CONTRASTS:
        raise ValueError(f"{len(size)} contrasts are too few for a pseudo standard error: {FEWEST_CONTRASTS} at least")
    first = 1.5 * float(np.median(size))
    kept = size[size < 2.5 * first]
    pse = 1.5 * float(np.median(kept)) if len(kept) else 0.0
    df = len(size) / 3
    together = (1 + (1 - alpha) ** (1 / len(size))) / 2
    return Lenth(pse, df, float(stdtrit(df, 1 - alpha / 2)) * pse, float(stdtrit(df, together)) * pse)


def half_normal(contrasts: ArrayLike) -> Array:
    """The half-normal quantile that each contrast's size is drawn against (Daniel 1959, Technometrics 1:311)."""
    size = np.abs(np.asarray(contrasts, float))
    rank = np.argsort(np.argsort(size, kind="stable"))
    return np.asarray(ndtri(0.5 + 0.5 * (rank + 0.5) / len(size)))
