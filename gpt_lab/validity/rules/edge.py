"""Tuned settings whose best value ends the ladder of those that were tried: a better one may lie beyond."""

from __future__ import annotations

from collections.abc import Iterator

from gpt_lab.options import is_number
from gpt_lab.study.design import Settings, shown
from gpt_lab.validity.planned import Planned, Side
from gpt_lab.validity.rule import Doubt, Rule
from gpt_lab.validity.seen import Seen

EDGE = Rule(
    "edge",
    100,
    title="The best value of a tuned setting is the first or last that was tried",
    withheld="better, worse; of the baseline: better",
    way="values beyond it, as many for every arm",
)


@EDGE.planned()
def planned(pair: Planned) -> Iterator[Doubt]:
    """Ladders of two values."""
    always = "the best of them is always at the edge of what was tried"
    for key in pair.design.nuisance if pair.listed else ():
        if _two_numbers(key, pair.mine):
            yield EDGE.doubt(f"two values of {key}: {always}", "better", "worse")
        elif _two_numbers(key, pair.base):
            yield EDGE.doubt(f"two values of {key} for the baseline: {always}", "better")


def _two_numbers(key: str, side: Side) -> bool:
    values = {shown(cell.values[key]): cell.values[key] for cell in side.cells if key in cell.values}
    return len(values) == 2 and all(map(is_number, values.values()))


@EDGE.seen()
def seen(study: Seen) -> Iterator[tuple[Settings, Doubt]]:
    """The values that the arm or the baseline is compared at."""
    base = ", ".join(study.paired.choices[study.baseline].edges)
    for arm in study.arms:
        if mine := ", ".join(study.paired.choices[arm].edges):
            text = f"best {mine} is at the edge of what was tried: it may do better beyond"
            yield arm, EDGE.doubt(text, "better", "worse")
        if base:
            yield arm, EDGE.doubt(f"the baseline's best {base} is at the edge of what was tried", "better")
