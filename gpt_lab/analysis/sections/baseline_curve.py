"""A baseline's loss at several budgets, as a study has it.

The ends of its runs with three or more budgets where there are such. Else the validation curve of its runs: under a
constant learning rate that is nearly the same thing; under a schedule that decays its points are losses in
mid-schedule, which a run of that length would have undercut, so what is read from it is rough.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from gpt_lab.frame.paired_scores import Paired
from gpt_lab.frame.study import Study, over_tokens, side_by_side
from gpt_lab.options import constant
from gpt_lab.stats.paired import Array
from gpt_lab.stats.power_law import FEWEST_POINTS, fit
from gpt_lab.study.design import Design, Settings

EARLIEST = 0.1
"""Share of a run before which its validation curve is left out: no power law starts at the first step."""
FEWEST_EVALUATIONS = 6
ITSELF = 0.05
"""How far from 1 a baseline's speed-up over itself may come out on its own validation curve."""
ALIKE = 0.05
"""Relative difference in tokens of one arm's runs beyond which they share no budget."""


@dataclass(frozen=True)
class Curve:
    """A baseline's loss at several budgets.

    Fields:
        budgets: tokens (points,). losses: of each pair (pairs, points), NaN where there is none.
        said: where they come from.
        evaluations: whether they are a validation curve. rough: whether they are losses in mid-schedule.
    """

    budgets: Array
    losses: Array
    said: str
    evaluations: bool = False
    rough: bool = False


def curve(study: Study, paired: Paired, design: Design, base: int, tokens: Array) -> Curve | str:
    """The curve of the baseline at this place among the arms, or why there is none.

    Args:
        tokens: of each arm and pair (arms, pairs).
    """
    return _ends(paired, design, base, tokens) or _evaluations(study, paired, design, base)


def per_pair(runs: pd.DataFrame, paired: Paired, column: str) -> Array:
    """A column of the compared runs as (arms, pairs); the mean of doubles, NaN where there is no run."""
    if column not in runs:
        return np.full(paired.scores.shape, np.nan)
    used = runs[paired.finished]
    values = pd.to_numeric(used[column], errors="coerce").groupby([used["arm"], used["pair"]]).mean()
    table = values.unstack().reindex(index=list(paired.arms), columns=list(paired.pairs))
    return table.to_numpy(float)


def shared(tokens: Array) -> float | None:
    """The budget of one arm's runs in tokens; None where they differ in it."""
    known = tokens[np.isfinite(tokens)]
    return float(known.mean()) if len(known) and known.max() <= (1 + ALIKE) * known.min() else None


class Schedules:
    """Schedules and tokens of the runs of each arm."""

    def __init__(self, runs: pd.DataFrame) -> None:
        self._names = [name for name in runs if str(name).startswith("config.schedule.")]
        self._runs = runs[[*self._names, "tokens"]]
        self._places = runs.groupby("arm", sort=False).indices

    def same(self, first: Settings, second: Settings) -> bool:
        """Whether the runs of two arms have one schedule and one number of tokens."""
        places = [self._places[arm] for arm in {first, second} if arm in self._places]
        both = self._runs.iloc[np.concatenate(places)] if places else self._runs[:0]
        one = all(constant(both[name].tolist()) or both[name].astype(str).nunique() == 1 for name in self._names)
        return bool(self._names) and one and shared(both["tokens"].to_numpy(float)) is not None


def _ends(paired: Paired, design: Design, base: int, tokens: Array) -> Curve | None:
    """From the arms that differ from the baseline in their budget alone."""
    budget = {factor for factor in design.factors if factor.split(".")[0] == "budget"}
    if not budget:
        return None
    fixed = paired.arms[base].without(budget)
    found: dict[float, int] = {}
    for i, arm in enumerate(paired.arms):
        if arm.without(budget) == fixed:
            spent = shared(tokens[i])
            if spent is not None:
                found[spent] = i
    if len(found) < FEWEST_POINTS:
        return None
    budgets = sorted(found)
    losses = paired.scores[[found[b] for b in budgets]].T
    return Curve(np.array(budgets), losses, f"the ends of its runs with {len(budgets)} budgets")


def _evaluations(study: Study, paired: Paired, design: Design, base: int) -> Curve | str:
    """From the evaluations during the baseline's runs, at the tokens that all of them have."""
    arm = paired.arms[base]
    runs = study.runs[paired.finished]
    runs = runs[runs["arm"] == arm].drop_duplicates("pair", keep="last")
    names = set(runs.get("config.schedule.name", pd.Series(dtype=object)).dropna())
    if len(names) != 1:
        return "the baseline has no runs with three budgets, and its schedule is not known"
    stated = pd.to_numeric(runs.get("config.schedule.warmup", pd.Series(0.0, runs.index)), errors="coerce")
    warmup = stated.where(stated <= 1, stated / runs["steps"]).max()  # a share of the budget, or steps
    tables = study.curves(runs["run"].astype(str).tolist())
    lines = []
    for run, end in zip(runs["run"], runs["tokens"].astype(float), strict=True):
        lines.append(over_tokens(tables.get(str(run)), design.metric, max(EARLIEST, warmup) * end, end))
    frame = side_by_side(lines, runs["pair"].astype(str).tolist())
    if len(frame) < FEWEST_EVALUATIONS:
        few = f"fewer than {FEWEST_EVALUATIONS} evaluations (eval.every)"
        return f"the baseline has no runs with three budgets, and {few}"
    budgets = frame.index.to_numpy(float)
    mean = frame.to_numpy(float).mean(1)
    law = fit(budgets, mean)
    itself = float(law.budget(mean[-1])) / budgets[-1]
    if not law.determined or not abs(itself - 1) <= ITSELF:
        return "the baseline has no runs with three budgets, and its validation curve is no power law"
    losses = frame.reindex(columns=list(paired.pairs)).to_numpy(float).T
    decays = names != {"constant"}
    said = f"the {len(budgets)} last evaluations of its runs, under a {names.pop()} schedule"
    return Curve(budgets, losses, said, evaluations=True, rough=decays)
