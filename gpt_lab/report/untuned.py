"""Arms that were not tuned although the setting compared moves the best learning rate, or whose rate was set by hand."""

from __future__ import annotations

import pandas as pd

from gpt_lab.report.pairing import Paired
from gpt_lab.sweep.design import Design, shown

RATE = "optim.lr"
MOVES = {"optim.name": "optimizer", "batch.tokens": "batch size"}
"""Settings whose values each have a best learning rate of their own, often several times apart."""


def doubts(used: pd.DataFrame, paired: Paired, design: Design, baseline: str) -> dict[str, list[str]]:
    """Of each arm a sentence, if its difference to the baseline may be that of two learning rates; else none.

    A rate that is the only thing compared is the question itself and raises no doubt; one that was tuned in both arms
    does not either (unequal tuning is another doubt).
    """
    found: dict[str, list[str]] = {arm: [] for arm in paired.arms if arm != baseline}
    rate = f"config.{RATE}"
    if rate not in used:
        return found
    for arm, said in found.items():
        choices = [paired.choices[name] for name in (arm, baseline)]
        said += [f"{whose}{problem}" for choice, whose in zip(choices, ("", "of the baseline: "), strict=True)
                 for problem in choice.problems]
        tuned = any(key.startswith("optim.") and key.endswith("lr") for key in design.nuisance)
        if tuned and all(choice.tried > 1 for choice in choices):
            continue
        mine, base = used[used["arm"] == arm], used[used["arm"] == baseline]
        if mine.empty or base.empty:
            continue
        moved = [word for key, word in MOVES.items() if _differs(mine, base, f"config.{key}")]
        rates = [sorted({float(value) for value in rows[rate].dropna()}) for rows in (mine, base)]
        by_hand = RATE in design.factors and rates[0] != rates[1] and any(
            key != RATE and _differs(mine, base, column)
            for key in design.factors
            for column in (f"config.{key}", f"config.{key}.name")
        )
        here, there = (" and ".join(shown(value) for value in values) for values in rates)
        if moved:
            said.append(
                f"another {' and '.join(moved)} at an untuned learning rate ({here}, the baseline {there}): tune "
                f"{RATE} in both"
            )
        elif by_hand:
            said.append(f"its learning rate is set by hand ({here}, the baseline {there}), not tuned: tune {RATE} in both")
    return found


def _differs(mine: pd.DataFrame, base: pd.DataFrame, column: str) -> bool:
    if column not in mine:
        return False
    return {str(value) for value in mine[column].dropna()} != {str(value) for value in base[column].dropna()}
