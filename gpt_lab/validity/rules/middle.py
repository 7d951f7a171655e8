"""Values from the middle of a schedule: of a run that says it ended early, of a metric that is read on the way."""

from __future__ import annotations

from collections.abc import Iterator

from gpt_lab.study.design import Settings
from gpt_lab.validity.compared import SAME
from gpt_lab.validity.rule import Doubt, Rule
from gpt_lab.validity.seen import Seen

MIDDLE = Rule(
    "middle",
    150,
    title="A run that ended before its budget did, or a value read on the way: in the middle of the schedule",
    withheld="all",
    way="runs that end with their schedule, and a metric of their end",
)


@MIDDLE.seen()
def middle(study: Seen) -> Iterator[tuple[Settings, Doubt]]:
    """By the metric, and by the steps, tokens or FLOPs that were asked for and spent."""
    metric, early = study.design.metric, _early(study)
    for arm in study.arms if metric.startswith("best/") else ():
        yield arm, MIDDLE.doubt(f"{metric} is the best of all evaluations, not that of the end", "all")
    for arm, whose, name in study.both("a run", "a run of the baseline"):
        if name in early:
            text = f"{whose} ended at {early[name]:.0%} of its budget, in the middle of its schedule"
            yield arm, MIDDLE.doubt(text, "all")


def _early(study: Seen) -> dict[Settings, float]:
    """Of each arm with runs that ended early the smallest share of the budget, by the last kind that tells."""
    import pandas as pd

    used, early = study.used, dict[Settings, float]()
    for kind in ("steps", "tokens", "flops"):
        if kind not in used or f"config.budget.{kind}" not in used or "steps" not in used:
            continue
        asked = pd.to_numeric(used[f"config.budget.{kind}"], errors="coerce")
        spent = used[kind].astype(float)
        step = spent / used["steps"].astype(float)
        if kind != "steps" and {"tokens", "config.batch.start"} <= set(used):  # a batch that grew is full at the end
            full = spent / used["tokens"].astype(float) * pd.to_numeric(used["config.batch.tokens"], errors="coerce")
            step = full.where(used["config.batch.start"].notna(), step)
        short = (asked - spent > SAME * asked) & (asked - spent > step)
        early |= (spent / asked)[short].groupby(used["arm"][short]).min().to_dict()
    return early
