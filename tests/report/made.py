"""Small made-up studies with known differences, as the loader hands them over."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from gpt_lab.analysis.comparison import Comparison, Row
from gpt_lab.frame.study import COLUMNS, Study
from gpt_lab.study.design import Design, Settings

DESIGN = Design("pos", factors=("position",), baseline={"position": "rope"}, sesoi=0.01)
TUNED = dataclasses.replace(
    DESIGN, nuisance=("optim.lr",), values={"position": ("rope", "none"), "optim.lr": (0.001, 0.003, 0.01, 0.03)}
)
NOISE = np.array([0.000, 0.004, -0.003, 0.001, -0.002, 0.003, -0.001])
"""Of seeds 0, 1, ...: what all arms share."""


def run(position: str, seed: int, score: float, **more: Any) -> dict[str, Any]:
    """A row of the table as the loader makes it."""
    lr = more.pop("lr", None)
    config = {"config.position.name": position, "config.seed": seed, "config.optim.lr": lr or 0.001}
    state = more.pop("state", "finished")
    row: dict[str, Any] = dict.fromkeys(COLUMNS, math.nan) | {
        "run": f"{position}-{lr}-{seed}-{more.pop('copy', 0)}",
        "source": "local",
        "study": "pos",
        "name": position,
        "state": state,
        "arm": Settings((("position", position),)),
        "tuning": Settings() if lr is None else Settings((("optim.lr", lr),)),
        "pair": str(seed),
        "stratum": "",
        "score": score if state == "finished" else math.nan,
        "error": "",
        "tokens": 1e6,
        "seconds": 60.0 + seed,
        "parameters": 1000,
    }
    return row | config | more


def study(rows: Sequence[Mapping[str, Any]], design: Design = DESIGN) -> Study:
    return Study(design, pd.DataFrame(rows))


def arm(position: str, scores: Sequence[float], **more: Any) -> list[dict[str, Any]]:
    return [run(position, seed, float(score), **more) for seed, score in enumerate(scores)]


def row(comparison: Comparison, position: str) -> Row:
    return next(row for row in comparison.rows if str(row.arm) == f"position={position}")


def warned(comparison: Comparison, position: str) -> tuple[str, ...]:
    """The warnings of an arm without their ways out."""
    return tuple(text.partition(". Way out: ")[0] for text in row(comparison, position).warnings)


def of_size(*effects: float, seeds: int = 5, spread: float = 0.001) -> Study:
    """An arm a, b, ... for each effect, and the baseline; spread is of a pair's difference."""
    rows = arm("rope", 2 + NOISE[:seeds])
    for name, effect in zip("abcdefgh", effects, strict=False):
        wave = np.resize([spread, -spread, 0.0], seeds)
        rows += arm(name, 2 + NOISE[:seeds] + effect + wave - wave.mean())
    return study(rows)


def tuned(
    scores: Mapping[str, Mapping[float, float]], seeds: Sequence[int] = range(5), design: Design = TUNED
) -> Study:
    """Each arm with each learning rate at this score on every seed, plus the seed's own noise."""
    rows = []
    for position, by_lr in scores.items():
        for lr, score in by_lr.items():
            wiggle = [0.0005, -0.0005, 0.0, 0.0002, -0.0002, 0.0001, -0.0001]
            own = 0.0 if position == "rope" else 1.0
            rows += [run(position, s, score + NOISE[s % 7] + own * wiggle[s % 7], lr=lr) for s in seeds]
    return study(rows, design)


BOWL = {0.001: 2.2, 0.003: 2.0, 0.01: 2.1}
