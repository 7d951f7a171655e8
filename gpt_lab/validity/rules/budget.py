"""Budgets: equal in what the sweep fixes (FLOPs if it says so, else tokens; in seconds there is nothing to compare)."""

from __future__ import annotations

from collections.abc import Iterator

from gpt_lab.validity.compared import SAME, Compared
from gpt_lab.validity.rule import Doubt, Rule

UNITS = {"flops": "FLOPs", "tokens": "tokens"}
BUDGET = Rule(
    "budget",
    140,
    title="Unequal tokens (or FLOPs, where the budget is in FLOPs), and the budget is not what is compared",
    withheld="better; worse, if the arm had fewer",
    way="one budget for every arm",
    unless="equal cost",
)


@BUDGET.known
def budget(pair: Compared) -> Iterator[Doubt]:
    """What one run of each spends."""
    spent, of_baseline = pair.spent
    if pair.cost is None or spent is None or of_baseline is None or not abs(spent - of_baseline) > SAME * of_baseline:
        return
    text = f"unequal budget: {spent:,.4g} {UNITS[pair.cost]}, the baseline {of_baseline:,.4g}"
    yield BUDGET.doubt(text, "better", *(("worse",) if spent < of_baseline else ()))
