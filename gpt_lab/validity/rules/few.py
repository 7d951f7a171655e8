"""Validation splits that are too small to tell models apart."""

from __future__ import annotations

from collections.abc import Iterator

from gpt_lab.study.design import Settings
from gpt_lab.validity.rule import Doubt, Rule
from gpt_lab.validity.seen import Seen

FEW_TARGETS = 2000
"""Validation targets below which no model is told from another: their mean has a standard error of some 3 %."""
FEW = Rule(
    "few",
    40,
    title=f"Validation on fewer than {FEW_TARGETS:,} targets",
    withheld="all",
    way="a larger validation split",
)


@FEW.seen()
def few(study: Seen) -> Iterator[tuple[Settings, Doubt]]:
    """By the smallest split of all runs."""
    if not study.design.metric.startswith("val/") or "targets" not in study.used:
        return
    least = float(study.used["targets"].min())
    if least < FEW_TARGETS:
        for arm in study.arms:
            yield arm, FEW.doubt(f"the validation split has {least:,.0f} targets", "all")
