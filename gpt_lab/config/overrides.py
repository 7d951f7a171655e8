"""Quoting of override values: W&B's agent cannot quote them, and Hydra's grammar reads few of them bare.

The agent writes `key=` and Python's str of a value: `None` for null, a path with ( ) = # , or an accent without quotes.
"""

from __future__ import annotations

import re
import types
import typing
from typing import Annotated, Any

from gpt_lab import options
from gpt_lab.config import setting_names
from gpt_lab.errors import ConfigError

DOLLAR = r"\${"
"""What stands for ${ where no interpolation is meant."""
VALUES = ("null", "true", "false", "nan", "inf")
"""Words that are no text, in whatever letters; None is the agent's null."""


def readable(text: str) -> str:
    """The override in Hydra's grammar.

    None is null where the setting may be null. Where it may be text, a value that Hydra cannot read, or reads as
    something that the setting cannot be (a number, a list, several values), is the text that it looks like. Everything
    else keeps Hydra's meaning.
    """
    key, equals, value = text.partition("=")
    allowed = setting_names.settings().get(setting_names.lettered(key), ())
    if not equals or not allowed:
        return text
    if value == "None" and any(type(None) in _members(one) for one in allowed):
        return f"{key}=null"
    if not any(str in _members(one) for one in allowed) or _fits(key, text, allowed):
        return text
    return f"{key}={_in_quotes(value.replace('${', DOLLAR))}"


def word(value: str) -> str:
    """Text as Hydra's grammar writes it: in quotes where it would be read as something else."""
    plain = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_./-]*", value) and value.lower() not in VALUES and value != "None"
    return value if plain else _in_quotes(value)


def key_of(text: str) -> str:
    """The setting that an override (`optim.lr=0.01`, `+experiment=modern`) setting_names."""
    return text.lstrip("+").partition("=")[0]


def _in_quotes(value: str) -> str:
    """A backslash counts only before a quote there."""
    return "'" + re.sub(r"(\\*)('|\Z)", lambda found: 2 * found[1] + (found[2] and r"\'"), value) + "'"


def _fits(key: str, text: str, allowed: tuple[Any, ...]) -> bool:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        override = OverridesParser.create().parse_override(text)
    except HydraException:
        return False
    if override.is_sweep_override():
        return False
    read, bare = override.value(), text.partition("=")[2]
    if read == bare.strip() != bare:  # Hydra drops blanks around a word: a prompt may be one
        return False
    for one in allowed:
        try:
            options.check(key, read, one)
        except ConfigError:
            continue
        return True
    return False


def _members(annotation: Any) -> set[Any]:
    """The plain types in an annotation."""
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        return _members(typing.get_args(annotation)[0])
    if origin in (types.UnionType, typing.Union):
        return {one for part in typing.get_args(annotation) for one in _members(part)}
    return {annotation} if isinstance(annotation, type) else set()
