"""Parts of a report beyond the table of arms: one module each, listed once here, shown by every form of it."""

from __future__ import annotations

from collections.abc import Callable

from gpt_lab.report import equal_cost, factorial, forked, ladder, lengths, robustness, sequential
from gpt_lab.report.comparison import Comparison, Section
from gpt_lab.report.types import Study

__all__ = ["MAKERS", "Maker", "Section", "sections"]

Maker = Callable[[Comparison, Study], list[Section]]
MAKERS: tuple[Maker, ...] = (
    robustness.make,
    factorial.sections,
    ladder.make,
    equal_cost.make,
    lengths.make,
    forked.make,
)
"""Each looks whether a study has what it is about, and returns [] where it has not."""


def sections(comparison: Comparison, study: Study) -> list[Section]:
    """What there is to say of this study beside its arms.

    Of one whose seeds were added until arms were decided that is its tuning and its looks: other intervals do not allow
    for them.
    """
    if comparison.design.looks is not None:
        return [*robustness.make(comparison, study), *sequential.sections(comparison, study)]
    return [section for make in MAKERS for section in make(comparison, study)]
