"""Items of a JSONL file, of the three kinds of DCLM's CORE (Li et al. 2024, arXiv:2406.11794), with examples before.

A line's keys say of which kind the file is:
- multiple choice: `query`, `choices`, `gold` (the number of the right one, from 0);
- schema: `context_options`, `continuation`, `gold`: which of the contexts makes the same continuation likeliest;
- language modeling: `context`, `continuation`: right if each of its tokens is the likeliest, as in LAMBADA
  (Paperno et al. 2016, arXiv:1606.06031).
`delimiter` stands between the two, a blank unless a line says otherwise. Examples, other lines of the file drawn for
each item anew, stand before it with their right answers, an empty line behind each.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gpt_lab.errors import ConfigError, DataError, unknown
from gpt_lab.evaluate.subject import Subject
from gpt_lab.evaluate.task import Asked, Item, Questions

KINDS: Mapping[str, frozenset[str]] = {
    "multiple choice": frozenset({"query", "choices", "gold"}),
    "schema": frozenset({"context_options", "continuation", "gold"}),
    "language modeling": frozenset({"context", "continuation"}),
}
DELIMITER = "delimiter"
_TYPES: Mapping[str, Any] = {"choices": list, "context_options": list, "gold": int}


class Line(NamedTuple):
    """One line: the answers' contexts and texts, and which is right."""

    contexts: list[str]
    continuations: list[str]
    gold: int
    delimiter: str

    @property
    def example(self) -> str:
        """The line with its right answer."""
        context = self.contexts[self.gold % len(self.contexts)]
        return context + self.delimiter + self.continuations[self.gold % len(self.continuations)]


class FileQuestions(Questions):
    """The items of a file."""

    written = True

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines = read(path)

    def items(self, subject: Subject, asked: Asked) -> list[Item]:
        if asked.shots >= len(self.lines):
            raise ConfigError(f"shots={asked.shots}: {self.path} has {len(self.lines)} lines, and one is the item")
        found = []
        for number, line in enumerate(self.lines[: asked.items]):
            others = [other for place, other in enumerate(self.lines) if place != number]
            chosen = asked.generator(number).choice(len(others), asked.shots, replace=False)
            before = "".join(f"{others[place].example}\n\n" for place in chosen)
            contexts = [before + context for context in line.contexts]
            found.append(Item(contexts, [line.delimiter + text for text in line.continuations], line.gold))
        return found


def read(path: Path) -> list[Line]:
    """The lines of a file.

    Raises:
        DataError: it cannot be read, or a line is none of the kinds; the error has its number.
    """
    try:
        texts = path.read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {getattr(error, 'strerror', None) or 'not UTF-8'}") from error
    found = [_line(text, f"{path}, line {number}") for number, text in enumerate(texts, 1) if text.strip()]
    if not found:
        raise DataError(f"{path} has no items")
    return found


def _line(text: str, where: str) -> Line:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise DataError(f"{where}: not valid JSON") from None
    if not isinstance(value, dict):
        raise DataError(f"{where}: an object is expected")
    kind = next((kind for kind, keys in KINDS.items() if keys <= value.keys()), None)
    if kind is None:
        told = "; ".join(f"{', '.join(sorted(keys))}: {kind}" for kind, keys in KINDS.items())
        raise DataError(f"{where}: its keys are {', '.join(sorted(value)) or 'none'}, and must be ({told})")
    allowed = KINDS[kind] | {DELIMITER}
    for key, one in value.items():
        if key not in allowed:
            raise DataError(f"{where}: {unknown('key', key, allowed)}")
        wanted = _TYPES.get(key, str)
        listed = wanted is not list or (one and all(isinstance(text, str) and text for text in one))
        if type(one) is not wanted or not listed or (key == "continuation" and not one):
            shown = {list: "a list of texts", int: "a whole number", str: "a text"}[wanted]
            raise DataError(f"{where}: {key} must be {shown}")
    contexts = value.get("context_options") or [value.get("query", value.get("context"))]
    continuations = value.get("choices") or [value["continuation"]]
    answers, gold = max(len(contexts), len(continuations)), value.get("gold", 0)
    if not 0 <= gold < answers:
        raise DataError(f"{where}: gold is {gold}, and its answers are numbered 0 to {answers - 1}")
    if kind != "language modeling" and answers < 2:
        raise DataError(f"{where}: a single answer is no choice")
    return Line(contexts, continuations, gold, value.get(DELIMITER, " "))
