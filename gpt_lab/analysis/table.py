"""A table of a report, as plain values that every form of the report is written from."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

NOTHING = "–"


@dataclass(frozen=True)
class Cell:
    """One value of a table.

    Fields:
        text: as it is shown. short: where there is little room, such as a terminal; empty: the same.
        key: what it is sorted by, NaN last; None: the text.
        kind: what it is, for its looks: `arm`, `code`, `interval`, a verdict ...
    """

    text: str
    key: float | None = None
    kind: str = ""
    short: str = ""

    @property
    def brief(self) -> str:
        """The text where there is little room."""
        return self.short or self.text


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Fields:
        head, short: its name, whole and where there is little room (empty: the same). meaning: what its numbers are.
        number: numbers stand to the right, and are sorted as such.
        spare: left out where there is no room for it.
    """

    head: str
    meaning: str = ""
    number: bool = False
    short: str = ""
    spare: bool = False

    @property
    def brief(self) -> str:
        """The head where there is little room."""
        return self.short or self.head


@dataclass(frozen=True)
class Table:
    """A part of a report: a title, a table where there is one, and sentences below it.

    Fields:
        rows: as many values as columns each; a text in a column of numbers is sorted by the number it begins with.
        name: by which a page or a test finds it; empty where the title is enough.
        forms: which forms of a report it is in.
    """

    title: str
    sentences: tuple[str, ...] = ()
    columns: tuple[Column, ...] = ()
    rows: tuple[tuple[str | Cell, ...], ...] = ()
    name: str = ""
    forms: frozenset[str] = frozenset({"console", "markdown", "page"})

    @property
    def heads(self) -> tuple[str, ...]:
        """The columns by name."""
        return tuple(column.head for column in self.columns)

    def cells(self) -> Iterator[tuple[Cell, ...]]:
        """The rows, every value as a cell."""
        for row in self.rows:
            yield tuple(map(_cell, row, self.columns))


def columns(heads: Sequence[str], numbers: Collection[int] = ()) -> tuple[Column, ...]:
    """Columns by their heads, and the places of those that hold numbers."""
    return tuple(Column(head, number=place in numbers) for place, head in enumerate(heads))


def _cell(value: str | Cell, column: Column) -> Cell:
    if isinstance(value, Cell):
        return value
    return Cell(value, _leading(value) if column.number else None)


def _leading(text: str) -> float:
    """The number that a text begins with; NaN without one."""
    first = text.split()[0].replace("−", "-").replace(",", "").rstrip("%") if text.split() else ""
    try:
        return float(first)
    except ValueError:
        return math.nan
