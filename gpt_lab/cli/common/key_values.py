"""Arguments that are key=value: each read and checked as the annotation of its field says."""

from __future__ import annotations

import json
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from gpt_lab.errors import ConfigError, quoted, unknown
from gpt_lab.options import check


def read(
    words: Sequence[str],
    fields: Mapping[str, Any],
    command: str,
    readers: Mapping[str, Callable[[str], Any]] | None = None,
    secrets: Sequence[str] = (),
) -> tuple[dict[str, Any], list[str]]:
    """What the words set, by field, and the words that are no key=value, such as the path of a run.

    Args:
        fields: annotations, Annotated ones with what they exclude.
        command: its name, for what it says.
        readers: of the texts of some fields, where the annotation does not say how.
        secrets: fields whose values no error shows.

    Raises:
        ConfigError: an option with a dash, an unknown key, a value that the annotation excludes, a key given twice.
    """
    found: dict[str, Any] = {}
    others: list[str] = []
    for word in words:
        key, equals, text = word.partition("=")
        if word.startswith("-"):
            raise ConfigError(f"unknown option {quoted(word)}: settings are key=value (see {command} --help)")
        if not equals or "/" in key:
            others.append(word)
            continue
        if key not in fields:
            raise ConfigError(unknown("argument", key, fields))
        own = (readers or {}).get(key)
        given = check(key, value(text, fields[key]) if own is None else own(text), fields[key])
        if found.setdefault(key, given) != given:
            shown = "" if key in secrets else f", as {quoted(found[key])} and {quoted(given)}"
            raise ConfigError(f"{key} is given twice{shown}: leave one out")
    return found, others


def with_one(found: dict[str, Any], others: Sequence[str], field: str) -> dict[str, Any]:
    """What `read` found, its only other word as one more field.

    Raises:
        ConfigError: there are two.
    """
    for word in others:
        if found.setdefault(field, word) != word:
            raise ConfigError(f"{field} is given twice, as {quoted(found[field])} and {quoted(word)}: leave one out")
    return found


def value(text: str, annotation: Any) -> Any:
    """`null` where the annotation has None, text where it has text; else numbers, true and false as such."""
    kinds = _kinds(annotation)
    if type(None) in kinds and text in ("null", "None"):
        return None
    return text if str in kinds else scalar(text)


def scalar(text: str) -> Any:
    """Numbers, true, false and null as such; anything else is text."""
    try:
        return json.loads({"True": "true", "False": "false", "None": "null"}.get(text, text))
    except (ValueError, RecursionError):
        return float(text) if text.lower() in ("nan", "inf", "-inf") else text


def _kinds(annotation: Any) -> list[type]:
    """The types that an annotation allows, of Literal's values those they have."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kinds(inner[0])
    if origin is Literal:
        return [type(one) for one in inner]
    if origin in (Union, types.UnionType):
        return [kind for one in inner for kind in _kinds(one)]
    return [annotation]
