"""Nuisance values that were chosen although none of them has all its pairs."""

from __future__ import annotations

from collections.abc import Iterator

from gpt_lab.study.design import Settings
from gpt_lab.validity.rule import Doubt, Rule
from gpt_lab.validity.seen import Seen

GAPS = Rule(
    "gaps",
    110,
    title="No value of a tuned setting has all its pairs",
    withheld="better",
    way="the same sweep command, which runs what is missing",
)


@GAPS.seen()
def gaps(study: Seen) -> Iterator[tuple[Settings, Doubt]]:
    """Of the arm or of the baseline."""
    for arm, whose, name in study.both("its", "the baseline's"):
        if not study.paired.choices[name].complete:
            text = f"none of {whose} tuning values has all its pairs: chosen among those with the most"
            yield arm, GAPS.doubt(text, "better")
