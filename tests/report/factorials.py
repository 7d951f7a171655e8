"""Made-up factorial studies: a score for each combination of levels and each seed."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from gpt_lab.analysis.compare import compare
from gpt_lab.analysis.sections import factorial
from gpt_lab.analysis.sections.effects import Effect, Effects
from gpt_lab.frame.study import Study
from gpt_lab.study.design import Design
from gpt_lab.study.format import factorial_block
from tests.report import made

NAMES = ("a", "b", "c", "d", "e")
FILTRATION = (45, 71, 48, 65, 68, 60, 80, 65, 43, 100, 45, 104, 75, 86, 70, 96)
"""Montgomery, Design and Analysis of Experiments, example 6.2: filtration rate of a 2^4, a changing fastest."""
Score = Callable[[Mapping[str, int], int], float]


def design(k: int, words: tuple[tuple[str, ...], ...] | None = (), **changes: Any) -> Design:
    names = NAMES[:k]
    values = dict.fromkeys(names, ("lo", "hi"))
    low = dict.fromkeys(names, "lo")
    plain = Design("f", factors=names, baseline=low, values=values, sesoi=0.01, factorial=words)
    return replace(plain, **changes)


def study(plan: Design, score: Score, seeds: int, lost: Mapping[tuple[str, int], str] | None = None) -> Study:
    """Runs of all arms; score gets x (0 low, 1 high, ...) of each factor and the seed.

    Args:
        lost: (arm, seed) -> state of runs that did not finish.
    """
    rows = []
    for levels in itertools.product(*(plan.values[name] for name in plan.factors)):
        values = dict(zip(plan.factors, levels, strict=True))
        assert plan.baseline is not None
        if not factorial_block.runs(values, plan.baseline, plan.factorial or ()):
            continue
        x = {name: plan.values[name].index(value) for name, value in values.items()}
        arm = plan.arm(values)
        for seed in range(seeds):
            state = (lost or {}).get((str(arm), seed), "finished")
            row = made.run("none", seed, score(x, seed), state=state)
            row |= {"arm": arm, "run": f"{arm}-{seed}", "name": str(arm)}
            rows.append({key: value for key, value in row.items() if not key.startswith("config.position")})
    return Study(plan, pd.DataFrame(rows))


def analysed(made_up: Study) -> Effects:
    found = factorial.analyse(compare(made_up), made_up)
    assert found is not None
    return found


def effect(found: Effects, name: str) -> Effect:
    return next(one for one in found.effects if one.name == name)


def noise(seed: int, spread: float = 0.001) -> Score:
    """Each run's own, the same on every call."""
    table = np.random.default_rng(seed).normal(0, spread, (3,) * 5 + (40,))
    return lambda x, s: float(table[(*(x.get(name, 0) for name in NAMES), s)])
