"""Interactions in any grid over two factors: differences of differences against the baseline's cell."""

from __future__ import annotations

import itertools

import numpy as np

from gpt_lab import metrics
from gpt_lab.analysis.sections.effects import Effects, Grid, Simple, interval_of, judge, listed, reversals, short
from gpt_lab.stats import contrasts
from gpt_lab.stats.paired import Array
from gpt_lab.study.design import Settings, shown


def differences(grid: Grid) -> Effects | None:
    """Differences of differences against the baseline's cell, for each pair of factors."""
    design, base, said = grid.design, grid.base, short(grid.design.factors)
    names: list[str] = []
    found: list[Array] = []
    simple: list[tuple[Simple, ...]] = []
    alone: list[str] = []
    absent: list[str] = []
    lacking = False
    doubted: list[bool] = []
    used: list[int] = []
    size = len(grid.paired.arms)
    for first, second in itertools.combinations(range(len(design.factors)), 2):
        for x, y in itertools.product(_levels(grid, first), _levels(grid, second)):
            corners = [_cell(base, first, a, second, b) for a in (base[first], x) for b in (base[second], y)]
            if not all(key in grid.levels for key in corners[:3]):
                continue
            one, two = Settings(((said[first], x),)), Settings(((said[second], y),))
            if corners[3] not in grid.levels:
                absent.append(f"{one} × {two} (not run)")
                continue
            a, b, c, d = (grid.levels[key] for key in corners)  # baseline, second's change, first's change, both
            scores, tuned = grid.scores((a, b, c, d))
            whole = ~np.isnan(scores).any(0)
            if not whole.any():
                gone = [grid.lost(i) for i in (a, b, c, d) if np.isnan(grid.paired.scores[i]).all()]
                lacking = True
                absent.append(f"{one} × {two} ({listed(gone) if gone else f'no {design.pair} has all four runs'})")
                continue
            table = np.full((size, scores.shape[1]), np.nan)
            table[[a, b, c, d]] = scores
            weights = np.zeros((5, size))
            for row, plus, minus in ((0, c, a), (1, d, b), (2, b, a), (3, d, c)):
                weights[row, plus], weights[row, minus] = 1.0, -1.0
            weights[4] = weights[1] - weights[0]
            each = np.where(whole, contrasts.per_pair(weights, table), np.nan)
            names.append(f"{one} × {two}")
            found.append(each[4])
            low = Settings(((said[first], base[first]),)), Settings(((said[second], base[second]),))
            parts = []
            for change, ends, i in ((one, (low[1], two), 0), (two, (low[0], one), 2)):
                before, after = (interval_of(row, scores, design.alpha) for row in each[i : i + 2])
                if before is not None and after is not None:
                    parts.append(Simple(change, ends, (before, after)))
            simple.append(tuple(parts))
            alone.append(tuned)
            doubted.append(bool(grid.doubted & {a, b, c, d}))
            used += [a, b, c, d]
    if not names:
        return Effects(False, (), notes=(_withheld(absent),)) if lacking else None  # else it is no grid
    scores = grid.paired.scores[sorted(set(used))]
    effects = judge(
        names,
        np.array(found),
        scores,
        grid.comparison,
        orders=[2] * len(names),
        simple=simple,
        doubted=doubted,
        withheld=len(absent),
    )
    meaning = (
        "An interaction is a difference of differences: what both changes together do to the baseline, less what each "
        f"does alone{', the other factors as in the baseline' if len(design.factors) > 2 else ''}. In "
        f"{metrics.unit(design.metric)}; 0: the two do not depend on each other."
    )
    notes = [
        meaning,
        *dict.fromkeys(text for text in alone if text),
    ]
    if absent:
        notes.append(_withheld(absent))
    warnings = [text for effect in effects for text in reversals(effect, design)]
    return Effects(False, tuple(effects), warnings=tuple(warnings), notes=tuple(notes))


def _withheld(absent: list[str]) -> str:
    return f"Withheld for lack of runs: {'; '.join(absent)}."


def _levels(grid: Grid, factor: int) -> list[str]:
    """Levels of a factor other than the baseline's, in the sweep's order."""
    order = [shown(value) for value in grid.design.values.get(grid.design.factors[factor], ())]
    seen = dict.fromkeys(key[factor] for key in grid.levels if key[factor] != grid.base[factor])
    return sorted(seen, key=lambda level: order.index(level) if level in order else len(order))


def _cell(base: tuple[str, ...], first: int, x: str, second: int, y: str) -> tuple[str, ...]:
    key = list(base)
    key[first], key[second] = x, y
    return tuple(key)
