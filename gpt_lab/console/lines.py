"""Text formatting: counts, shortened lists, lines folded between words."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Sequence
from typing import TextIO

from gpt_lab import project
from gpt_lab.console import invocation

HANGING = 0.6
"""Share of the width up to which the rest of a line hangs below its second column."""


def count_of(number: int, word: str) -> str:
    """`1 run`, `3 runs`."""
    return f"{number} {word}{'' if number == 1 else 's'}"


def some(names: Sequence[str], most: int = 6) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def fold(line: str, width: int) -> list[str]:
    """A line as several, broken between words; only a word that is longer than `width` alone sticks out.

    What follows hangs below the second column, if two blanks or more part the line in two. A command of
    the lab, to copy, is broken as a shell reads it on: with a backslash.
    """
    if len(line) <= width:
        return [line]
    found = re.match(r"\s*\S.*?\s{2,}(?=\S)|\s*[•-] (?=\S)|\s*", line)
    head = found[0] if found else ""
    scripts = "|".join(path.stem for path in (project.PACKAGE / "cli").rglob("[a-z]*.py"))
    if re.match(rf"(\S.*:)?\s*{re.escape(invocation.prefix())}({scripts}) ", line) is None:
        return hang(head, line[len(head) :], width)
    lines = hang(head, line[len(head) :], width - 2)
    return [f"{one} \\" for one in lines[:-1]] + lines[-1:]


def hang(head: str, text: str, width: int) -> list[str]:
    """`head` and the words of `text`; where these take several lines, the others begin below the first word."""
    blank = len(head) - len(head.lstrip())
    indent = " " * (len(head) if len(head) <= HANGING * width else blank + 2)
    lines, now, fresh = [], head, True
    for word, gap in re.findall(r"(\S+)(\s*)", text):
        if not fresh and len(now + word) > width:
            lines.append(now.rstrip())
            now = indent
        now, fresh = now + word + gap, False
    return [*lines, now.rstrip()]


def show_help(text: str) -> None:
    """Prints a text of lines, folded at the width of the terminal or of $COLUMNS, wherever it goes."""
    width = shutil.get_terminal_size().columns - 1
    print("\n".join(part for line in text.rstrip("\n").split("\n") for part in fold(line, width)))


def print_lines(text: str, file: TextIO | None = None) -> None:
    """Prints lines, folded if `file` (standard output) is a terminal."""
    file = file or sys.stdout
    lines = text.split("\n")
    if file.isatty():
        width = shutil.get_terminal_size().columns
        lines = [part for line in lines for part in fold(line, width)]
    print("\n".join(lines), file=file, flush=True)
