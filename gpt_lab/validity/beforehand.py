"""The rules on fair comparison before anything is run: what the report will withhold, and why."""

from __future__ import annotations

from collections.abc import Sequence

from gpt_lab.study.sweep import Sweep
from gpt_lab.validity.planned import Side, planned
from gpt_lab.validity.rule import Doubt
from gpt_lab.validity.rules import BEFOREHAND


def beforehand(sweep: Sweep, sides: Sequence[tuple[Side, Side]]) -> list[str]:
    """A sentence for each thing that will forbid a verdict, with the arms and the way out.

    Args:
        sides: each arm and the one that it is compared with.
    """
    found: dict[Doubt, list[str]] = {}
    said: dict[str, list[str]] = {}
    for pair in planned(sweep, sides):
        for find in BEFOREHAND:
            for one in find(pair):
                found.setdefault(one, []).append(str(pair.mine.arm))
        for text in filter(None, (pair.larger, pair.other_batches, pair.bundled, pair.bounded)):
            said.setdefault(text, []).append(str(pair.mine.arm))
    return [
        *(f"{'; '.join(arms)}: {one.text}: {one.withheld}. Way out: {one.rule.way}" for one, arms in found.items()),
        *(f"{'; '.join(arms)}: {text}" for text, arms in said.items()),
    ]
