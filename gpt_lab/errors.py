"""User errors: one line each, with the way out."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

QUOTED = 60
"""Characters of a value that an error repeats: enough to find it, too few to print a file."""
LISTED = 40
"""Allowed names that an error lists."""


class LabError(Exception):
    """A problem outside the lab's code (configuration, data, environment); the message is one line."""

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows: the line, as on the command line."""
        return [f"error: {one_line(str(self))}"]


class ConfigError(LabError):
    """A setting that cannot work: unknown, of the wrong type, out of range or impossible together."""


class DataError(LabError):
    """A corpus or tokenizer that cannot be used: missing, empty, torn, not UTF-8, too short."""


def quoted(value: object) -> str:
    """A value as an error may repeat it: on one line, printable, its first few words."""
    if isinstance(value, str | bytes) and len(value) > QUOTED:
        return f"{value[:QUOTED]!r}... ({len(value):,} characters)"
    try:
        return cut(repr(value), QUOTED + 10)
    except ValueError:  # Python writes no whole number of more than 4,300 digits
        return "a number of thousands of digits"


def cut(text: str, most: int = QUOTED) -> str:
    """The text, or its beginning where it is longer than `most` characters."""
    return text if len(text) <= most else f"{text[:most]}... ({len(text):,} characters)"


def unknown(what: str, name: object, allowed: Iterable[str], closest: Iterable[str] = ()) -> str:
    """One line that names what was probably meant first, then what is allowed.

    Args:
        closest: the names to offer; empty: the closest of `allowed`.
    """
    names = sorted(allowed)
    text = name if isinstance(name, str) else quoted(name)
    close = list(closest) or difflib.get_close_matches(text[: 2 * QUOTED], names, n=1, cutoff=0.5)
    hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
    listed = ", ".join(cut(one) for one in names[:LISTED]) or "none"
    more = f" and {len(names) - LISTED:,} more" if len(names) > LISTED else ""
    return f"unknown {what} {quoted(text)}{hint} (allowed: {listed}{more})"


def one_line(text: str, most: int = 1000) -> str:
    """A message on one line that a terminal can show: nothing unprintable, its middle left out where it is longer."""
    flat = "".join(c if c.isprintable() else repr(c)[1:-1] for c in " ".join(text.splitlines()))
    return flat if len(flat) <= most else f"{flat[: most * 2 // 3]} [...] {flat[-most // 3 :]}"
