"""Arms that were not tuned although what is compared moves the best learning rate, or that were badly tuned."""

from __future__ import annotations

import pandas as pd

from gpt_lab.report.pairing import Paired
from gpt_lab.sweep import fairness
from gpt_lab.sweep.design import Design
from gpt_lab.sweep.fairness import MOVES, RATE, Doubt, doubt


def doubts(used: pd.DataFrame, paired: Paired, design: Design, baseline: str) -> dict[str, list[Doubt]]:
    """What speaks against each arm whose difference to the baseline may be that of two learning rates.

    A rate that is all that is compared is the question itself and raises no doubt; nor does one that both arms tuned.

    Args:
        used: the runs that are compared.
    """
    found: dict[str, list[Doubt]] = {arm: [] for arm in paired.arms if arm != baseline}
    base = paired.choices[baseline]
    for arm, each in found.items():
        texts = [*paired.choices[arm].problems, *(f"of the baseline: {problem}" for problem in base.problems)]
        each += [doubt("unfinished", text, "better", "worse") for text in texts]
    column = f"config.{RATE}"
    if column not in used:
        return found
    moves = {name: sets for name in MOVES if len(sets := _values(used, f"config.{name}")) > 1}
    others = [key for key in design.factors if key != RATE]
    others = [name for key in others for name in (f"config.{key}", f"config.{key}.name")]
    by_hand = [sets for name in others if len(sets := _values(used, name)) > 1] if RATE in design.factors else []
    rates = {str(arm): sorted(set(own)) for arm, own in used[column].astype(float).groupby(used["arm"], sort=False)}
    for arm, each in found.items():
        if fairness.tunes_rate(design) and min(paired.choices[arm].tried, base.tried) > 1:
            continue
        moved = [MOVES[name] for name, sets in moves.items() if sets.get(arm) != sets.get(baseline)]
        differs = any(sets.get(arm) != sets.get(baseline) for sets in by_hand)
        each += fairness.rate(moved, differs, rates.get(arm, []), rates.get(baseline, []))
    return found


def _values(used: pd.DataFrame, column: str) -> dict[str, set[str]]:
    """The values of each arm, as text; {} if all have the same."""
    if column not in used or used[column].map(str).nunique() < 2:
        return {}
    return {str(arm): set(map(str, own)) for arm, own in used[column].groupby(used["arm"], sort=False)}
