"""Console with word-safe layout: long lines are folded, tables that are too wide have columns move below.

Only what is wider than the terminal changes. Where there is none, lines stay as they are, for programs to read.
"""

from __future__ import annotations

import dataclasses
import io
import os
import re
from collections.abc import Callable, Sequence
from copy import copy
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.measure import Measurement
from rich.table import Column, Table
from rich.text import Text

from gpt_lab.console.lines import fold

UNBOUND = 1_000_000
"""Wider than anything."""
PLAIN_WIDTH = 100


def pipe_width(usual: int) -> int:
    """Characters of a line where there is no terminal: $COLUMNS where it is set, else `usual`."""
    stated = os.environ.get("COLUMNS", "")
    return int(stated) if stated.isdecimal() and int(stated) else usual


class Terminal(Console):
    """A console that folds long lines between words, and lays out tables that are too wide."""

    def print(self, *objects: Any, **options: Any) -> None:
        """As Console.print. `soft_wrap` means a line of text that may be long, whole where it does not go to people."""
        if len(objects) == 1 and isinstance(objects[0], Table):
            for part in fit(objects[0], self):
                super().print(part, **options)
        elif options.get("soft_wrap") and self.is_terminal and all(isinstance(one, str | Text) for one in objects):
            text = " ".join(str(one) for one in objects)
            super().print("\n".join(part for line in text.split("\n") for part in fold(line, self.width)), **options)
        else:
            if len(objects) == 1 and isinstance(objects[0], Text) and not options.get("soft_wrap"):
                objects, options = (_whole(objects[0], self.width),), {**options, "soft_wrap": True}
            super().print(*objects, **options)


def plain(show: Callable[[Console], None], width: int = PLAIN_WIDTH) -> list[str]:
    """What `show` prints, as lines without trailing blanks, for what is no terminal."""
    text = io.StringIO()
    show(Terminal(file=text, width=width, highlight=False, force_jupyter=False))
    return [line.rstrip() for line in text.getvalue().splitlines()]


def _whole(text: Text, width: int) -> Text:
    """A styled text in lines of the width, each word whole."""
    breaks, used = [], 0
    for found in re.finditer(r"(\S+)([^\S\n]*)(\n*)", text.plain):
        if used and used + cell_len(found[1]) > width:
            breaks.append(found.start())
            used = 0
        used = 0 if found[3] else used + cell_len(found[1] + found[2])
    lines = [line for part in text.divide(breaks) for line in part.split("\n", allow_blank=True)]
    for line in lines:
        line.rstrip()
    return Text("\n", style=text.style).join(lines)


def fit(table: Table, console: Console) -> list[Table | Text]:
    """The table in parts of the console's width: columns that have no room beside the others follow below.

    Each part begins with the first column. Where even one column has no room beside it, each value gets a line.
    """
    width, number = console.width, len(table.columns)
    parts: list[list[int]] = []
    alone = False
    for column in range(1, number):
        before, alone = alone, _least(_part(table, [0, column]), console) > width
        room = bool(parts) and _least(_part(table, [*parts[-1], column]), console) <= width
        if parts and before == alone and (alone or room):
            parts[-1].append(column)
        else:
            parts.append([0, column])
    laid: list[Table | Text] = []
    for columns in parts or [list(range(number))]:
        part = _part(table, columns)
        if laid:
            part.title = None
        if _least(part, console) > width:
            laid.append(_lines(part, console))
        else:
            laid.append(_widened(part, console))
    return laid


def _part(table: Table, columns: Sequence[int]) -> Table:
    part = copy(table)
    part.columns = [dataclasses.replace(table.columns[old], _index=new) for new, old in enumerate(columns)]
    return part


def _least(table: Table, console: Console) -> int:
    """The width below which a word would be broken."""
    return _frame(table, console) + sum(_span(column, console).minimum for column in table.columns)


def _frame(table: Table, console: Console) -> int:
    """The width of borders and padding."""
    inside = copy(table)
    inside.columns = [dataclasses.replace(column, width=1, min_width=None) for column in table.columns]
    inside.title = None
    options = console.options.update(max_width=UNBOUND)
    return Measurement.get(console, options, inside).maximum - len(table.columns)


def _span(column: Column, console: Console) -> Measurement:
    """The longest word of a column, and its longest line."""
    options = console.options.update(max_width=UNBOUND)
    cells = [*column.cells, column.header]
    spans = [Measurement.get(console, options, cell) for cell in cells if str(cell) or not isinstance(cell, str)]
    most = max((span.maximum for span in spans), default=0)
    least = most if column.no_wrap else max((span.minimum for span in spans), default=0)
    return Measurement(*(max(one, column.width or 0, column.min_width or 0) for one in (least, most)))


def _widened(table: Table, console: Console) -> Table:
    """The table with columns that hold their longest words, and as much more as there is room."""
    spans = [_span(column, console) for column in table.columns]
    room = console.width - _frame(table, console)
    if sum(span.maximum for span in spans) > room:
        widths = [span.minimum for span in spans]
        while sum(widths) < room:  # to the one that needs the most lines
            lacking = [span.maximum / have if have else 0.0 for span, have in zip(spans, widths, strict=True)]
            widths[lacking.index(max(lacking))] += 1
        for column, one in zip(table.columns, widths, strict=True):
            column.width = one
    return table


def _lines(table: Table, console: Console) -> Text:
    """Each value of a table on a line of its own, after the first of its row and the heading."""
    names = [str(column.header) for column in table.columns]
    lines: list[str] = []
    for cells in zip(*(map(str, column.cells) for column in table.columns), strict=True):
        lines.append(cells[0])
        lines += [f"  {name}  {cell}" for name, cell in zip(names[1:], cells[1:], strict=True) if cell]
    folded = [part for line in lines for part in fold(line, console.width)]
    return Text("\n".join(folded), no_wrap=True, overflow="ignore")
