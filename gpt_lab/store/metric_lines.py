"""Parsing of metrics.jsonl and summaries: unusable values are left out, and reported in words."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gpt_lab.store.atomic_files import NON_FINITE, parse

BELOW = 2**63
"""Whole numbers at or above it are no counts, and tables cannot hold them."""

SIMPLE = frozenset({str, float, bool, type(None)})
"""Kinds of values that are always plain: thousands of records have hundreds of them each."""


def read_lines(path: Path, lines: Sequence[bytes]) -> tuple[list[dict[str, Any]], str]:
    """Whole lines of a metrics.jsonl as `read_line` has them, and one sentence on what was left out, or "".

    Args:
        path: of the file, for the sentence.
    """
    rows, wrong = [], []
    try:
        parsed = parse(b"[" + b",".join(lines) + b"]")  # thrice as fast as one by one
    except ValueError:
        parsed = []
    whole = len(parsed) == len(lines)  # else one is damaged, and only one by one tells which
    for number, line in enumerate(lines, 1):
        row, why = _checked(parsed[number - 1]) if whole else read_line(line)
        if row is not None:
            rows.append(row)
        if why:
            wrong.append(f"line {number}: {why}")
    if not wrong:
        return rows, ""
    lost = len(lines) - len(rows)
    said = [(lost, "line"), (len(wrong) - lost, "value")]
    counts = " and ".join(f"{number} {word}{'s' * (number > 1)}" for number, word in said if number)
    return rows, f"{path}: {counts} left out ({wrong[0]})"


def read_line(line: bytes) -> tuple[dict[str, Any] | None, str]:
    """A line's `step` (a whole number) and its numbers by name, and in words what of it cannot be used, or "".

    Of a line that is no JSON object, or whose step is none, nothing can be: then the first is None.
    """
    try:
        return _checked(parse(line))
    except ValueError:
        return None, "not valid JSON"


def _checked(row: Any) -> tuple[dict[str, Any] | None, str]:
    if not isinstance(row, dict):
        return None, f"{shown(row)} instead of an object"
    step = row.pop("step", None)
    if type(step) is not int or not 0 <= step < BELOW:
        return None, f"step is {shown(step)}"
    numbers, wrong = usable(row)
    return {"step": step, **numbers}, "; ".join(wrong)


def usable(values: Mapping[str, Any]) -> tuple[dict[str, float], list[str]]:
    """The numbers among values out of JSON, non-finite ones as such, and in words the others: `val/bpb is "high"`."""
    numbers: dict[str, float] = {}
    wrong = []
    for name, value in values.items():
        if type(value) is float or (type(value) is int and abs(value) < BELOW):
            numbers[name] = value
        elif isinstance(value, str) and value in NON_FINITE:
            numbers[name] = NON_FINITE[value]
        else:
            wrong.append(f"{shorten(name)} is {shown(value)}")
    return numbers, wrong


def plain(value: Any) -> bool:
    """Whether a value out of JSON is null, a truth value, text, or a number that tables can hold."""
    return (isinstance(value, int) and abs(value) < BELOW) or isinstance(value, (str, float)) or value is None


def shown(value: Any) -> str:
    """A value out of JSON as a message quotes it: in JSON's words, a few characters of them."""
    if isinstance(value, list):
        return "a list"
    if isinstance(value, dict):
        return "an object"
    return shorten(json.dumps(value)) if not isinstance(value, int) or abs(value) < BELOW else "too large a number"


def shorten(text: str) -> str:
    """At most 40 characters of a text, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= 40 else f"{line[:37]}..."
