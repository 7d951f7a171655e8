"""Arms that were not tuned although what is compared moves the best learning rate, or whose rate was set by hand."""

from __future__ import annotations

import pandas as pd

from gpt_lab.frame.pairing import Paired
from gpt_lab.study.design import Design, shown
from gpt_lab.validity.rules import MOVES, RATE, Doubt, doubt, rate_by_hand, untuned_rate


def doubts(used: pd.DataFrame, paired: Paired, design: Design, baseline: str) -> dict[str, list[Doubt]]:
    """Of each arm whether its difference to the baseline may be that of two learning rates, or its tuning is not sound.

    A rate that is all that is compared is the question itself and raises no doubt; nor does one that both arms tuned.

    Args:
        used: the runs that are compared.
    """
    found: dict[str, list[Doubt]] = {arm: [] for arm in paired.arms if arm != baseline}
    base = paired.choices[baseline]
    for arm, said in found.items():
        problems = [*paired.choices[arm].problems, *(f"of the baseline: {problem}" for problem in base.problems)]
        said += [doubt("tune", problem, "better", "worse") for problem in problems]
    column = f"config.{RATE}"
    tuned = any(key.startswith("optim.") and key.endswith("lr") for key in design.nuisance)
    if column not in used:
        return found
    moves = {word: sets for key, word in MOVES.items() if len(sets := _values(used, f"config.{key}")) > 1}
    others = [key for key in design.factors if key != RATE]
    others = [name for key in others for name in (f"config.{key}", f"config.{key}.name")]
    by_hand = [sets for name in others if len(sets := _values(used, name)) > 1] if rate_by_hand(design) else []
    if not moves and not by_hand:
        return found
    rates = {str(arm): sorted(set(own)) for arm, own in used[column].astype(float).groupby(used["arm"], sort=False)}
    for arm, said in found.items():
        if arm not in rates or baseline not in rates or (tuned and min(paired.choices[arm].tried, base.tried) > 1):
            continue
        both = [" and ".join(map(shown, rates[name])) for name in (arm, baseline)]
        moved = [word for word, sets in moves.items() if sets.get(arm) != sets.get(baseline)]
        differs = both[0] != both[1] and any(sets.get(arm) != sets.get(baseline) for sets in by_hand)
        said += untuned_rate(moved, differs, both)
    return found


def _values(used: pd.DataFrame, column: str) -> dict[str, set[str]]:
    """The values of each arm, as text; {} if all have the same."""
    if column not in used or used[column].map(str).nunique() < 2:
        return {}
    return {str(arm): set(map(str, own)) for arm, own in used[column].groupby(used["arm"], sort=False)}
