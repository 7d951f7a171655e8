"""Arms of which none does better than counting pairs of tokens: they tell nothing of language models."""

from __future__ import annotations

from collections.abc import Iterator

from gpt_lab.study.design import Settings
from gpt_lab.validity.rule import Doubt, Rule
from gpt_lab.validity.seen import Seen

FLOOR = Rule(
    "floor",
    60,
    title="Every arm above the corpus's bigram floor: no answer about language models",
    withheld="better",
    way="a longer budget or a better recipe, until an arm does better than counting pairs of tokens",
)


@FLOOR.seen()
def floor(study: Seen) -> Iterator[tuple[Settings, Doubt]]:
    """By the mean score of the best arm."""
    from gpt_lab.validity.measures import above_floor

    if text := above_floor(study.used, study.paired, study.design):
        for arm in study.arms:
            yield arm, FLOOR.doubt(text, "better")
