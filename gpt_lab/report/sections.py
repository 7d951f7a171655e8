"""Parts of a report beyond the table of arms: one module each, listed once here, shown by every form of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gpt_lab.report.types import Comparison, Study


@dataclass(frozen=True)
class Section:
    """Sentences, and a table where there is one.

    Fields:
        heads, rows: the table's text, row by row. numbers: which columns hold numbers.
    """

    title: str
    sentences: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    numbers: frozenset[int] = frozenset()


Maker = Callable[[Comparison, Study], list[Section]]
MAKERS: tuple[Maker, ...] = ()
"""Each looks whether a study has what it is about, and returns [] where it has not."""


def sections(comparison: Comparison, study: Study) -> list[Section]:
    """What there is to say of this study beside its arms."""
    return [section for make in MAKERS for section in make(comparison, study)]
