"""Tuning results read back from the runs: each arm's value, the curve behind it, and what is missing.

The choice is the runner's own (stats/optimum.py), made from the tuning seeds' runs alone, wherever they come from. Only
fresh seeds at that value are compared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from gpt_lab.options import is_number
from gpt_lab.stats import optimum
from gpt_lab.stats.optimum import Curve, Optimum
from gpt_lab.study.design import Design, Settings

OVER = ("finished", "diverged", "pruned")


@dataclass(frozen=True)
class SettingTuning:
    """The tuning of one setting of an arm.

    Fields:
        curve: mean over the tuning seeds at each value, lower being better. best: what it chooses.
        diverged: of how many runs at each value; values where none did are left out.
        runs: of the whole leg, those that diverged included. dots: value and score of each that finished.
    """

    key: str
    curve: Curve
    best: Optimum
    diverged: Mapping[float, int]
    runs: int
    dots: list[tuple[float, float]]


@dataclass(frozen=True)
class ArmTuning:
    """The tuning of one arm.

    Fields:
        tuning: the values that are compared. legs: one for each setting that was tuned.
        tried: runs that chose these values. problems: what forbids to call the arm, or one compared with it, better.
    """

    tuning: Settings
    legs: tuple[SettingTuning, ...]
    tried: int
    problems: tuple[str, ...]

    @property
    def edges(self) -> tuple[str, ...]:
        """Settings whose best value is the first or last that was tried."""
        return tuple(leg.key for leg in self.legs if leg.best.edge is not None)


def read(runs: pd.DataFrame, design: Design) -> ArmTuning:
    """The tuning of one arm, from its rows of the table of runs."""
    mine = runs["pair"].map(design.tunes).to_numpy(bool)
    legs, chosen, open_ = _legs(runs[mine], design)
    fresh = runs[~mine]
    there = fresh["tuning"].value_counts()
    problems = []
    if not legs:
        problems.append("it was not tuned: none of the tuning runs of its sweep is there (W&B's agent makes none)")
    elif chosen is None:
        problems.append("no run of its tuning has a score")
    elif open_:
        problems.append(f"its tuning is not over: {open_} of its runs have no outcome")
    if chosen is None or (chosen not in there and len(there)):
        used = there.index[0] if len(there) else Settings()
        if chosen is not None:
            problems.append(f"it is compared at {used}, but its tuning runs choose {chosen}")
        chosen = used
    return ArmTuning(chosen, tuple(legs), sum(leg.runs for leg in legs), tuple(problems))


def ladder(runs: pd.DataFrame, design: Design) -> tuple[SettingTuning, ...]:
    """The one leg of an arm whose sweep lists the values of one tuned number; none of other sweeps."""
    if len(design.nuisance) != 1 or not all(_positive(value) for one in set(runs["tuning"]) for _, value in one.given):
        return ()
    return tuple(_legs(runs, design)[0])


def _positive(value: Any) -> bool:
    return is_number(value) and 0 < value < math.inf


def _legs(runs: pd.DataFrame, design: Design) -> tuple[list[SettingTuning], Settings | None, int]:
    """The legs in order, the values chosen, and how many runs are not over.

    A leg's runs have the values chosen before and, of all such groups with the same later values, tried the most.
    """
    tried: dict[tuple[float, ...], list[tuple[str, float]]] = {}
    for tuning, state, score in zip(runs["tuning"], runs["state"], runs["score"].astype(float), strict=True):
        if len(tuning.given) == len(design.nuisance):
            tried.setdefault(tuple(float(value) for _, value in tuning.given), []).append((str(state), score))
    sign = 1.0 if design.goal == "minimize" else -1.0
    legs: list[SettingTuning] = []
    base: tuple[float, ...] = ()
    open_ = sum(state not in OVER for found in tried.values() for state, _ in found)
    for level, key in enumerate(design.nuisance):
        groups: dict[tuple[float, ...], list[tuple[float, ...]]] = {}
        for values in tried:
            if values[:level] == base:
                groups.setdefault(values[level + 1 :], []).append(values)
        if not groups:
            return legs, None, open_
        group = max(groups.values(), key=len)
        known = {values[level]: tried[values] for values in group if all(state in OVER for state, _ in tried[values])}
        curve = {value: _mean(found, sign) for value, found in known.items()}
        lost = {value: sum(_lost(state, score) for state, score in found) for value, found in known.items()}
        best = optimum.optimum(curve)
        lost = {value: count for value, count in lost.items() if count}
        dots = [(v, score) for v, found in known.items() for state, score in found if state == "finished"]
        legs.append(SettingTuning(key, curve, best, lost, sum(len(tried[values]) for values in group), dots))
        if best.value is None:
            return legs, None, open_
        base = (*base, best.value)
    return legs, design.tuning(dict(zip(design.nuisance, base, strict=True))), open_


def _lost(state: str, score: float) -> bool:
    return state == "diverged" or (state == "finished" and not math.isfinite(score))


def _mean(found: Sequence[tuple[str, float]], sign: float) -> float | None:
    if all(state == "finished" and math.isfinite(score) for state, score in found):
        return sign * math.fsum(score for _, score in found) / len(found)
    return None
