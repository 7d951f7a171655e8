"""Runs of the same settings whose results differ: one of them is not what it says."""

from __future__ import annotations

from collections.abc import Iterator

from gpt_lab.study.design import Settings
from gpt_lab.validity.rule import Doubt, Rule
from gpt_lab.validity.seen import Seen

TWICE = Rule(
    "twice",
    30,
    title="Runs of the same settings with different results",
    withheld="all",
    way="find out which one is wrong; study=NAME runs all of them anew",
)


@TWICE.seen()
def conflicts(study: Seen) -> Iterator[tuple[Settings, Doubt]]:
    """Conflicts that the loader found."""
    from gpt_lab.validity.measures import says

    told = study.used[says(study.used, "conflict")]
    texts = told.groupby("arm")["conflict"].first().to_dict() if len(told) else {}
    for arm, whose, name in study.both("", "of the baseline "):
        if name in texts:
            yield arm, TWICE.doubt(f"{whose}{texts[name]}", "all")
