"""Parts of a report beyond the table of arms: one module each, listed once here, shown by every form of it."""

from __future__ import annotations

from collections.abc import Callable

from gpt_lab.analysis import looks
from gpt_lab.analysis.comparison import Comparison
from gpt_lab.analysis.sections import equal_cost, factorial, ladder, longer_contexts, trunk_savings, tuning
from gpt_lab.analysis.table import Table
from gpt_lab.frame.study import Study

Maker = Callable[[Comparison, Study], list[Table]]
MAKERS: tuple[Maker, ...] = (
    tuning.make,
    factorial.sections,
    ladder.make,
    equal_cost.make,
    longer_contexts.make,
    trunk_savings.make,
)
"""Each looks whether a study has what it is about, and returns [] where it has not."""


def sections(comparison: Comparison, study: Study) -> list[Table]:
    """What there is to say of this study beside its arms.

    Of one whose seeds were added until arms were decided that is its tuning and its looks: other intervals do not allow
    for them.
    """
    if comparison.design.looks is not None:
        return [*tuning.make(comparison, study), *looks.sections(comparison, study)]
    return [section for make in MAKERS for section in make(comparison, study)]
