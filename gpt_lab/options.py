"""The types that a part's options may have, and the check of a value against one of them.

A part declares its options as keyword-only arguments; their annotations are the schema. These aliases
add ranges to the plain types, so that a bad value is refused before torch is imported.
"""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeGuard

from gpt_lab.errors import ConfigError, quoted, unknown

Device = Literal["auto", "cpu", "cuda", "mps"]
"""What computes; what `auto` means: devices/pick.py."""


@dataclass(frozen=True)
class Range:
    """Bounds of a number; `open_low` and `open_high` exclude the bound itself."""

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def holds(self, value: float) -> bool:
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return above and below

    def __str__(self) -> str:
        if self.high == math.inf:
            return f"{'>' if self.open_low else '>='} {self.low:g}"
        return f"in {'(' if self.open_low else '['}{self.low:g}, {self.high:g}{')' if self.open_high else ']'}"


@dataclass(frozen=True)
class Filled:
    """Text that can be a path or a name: an empty one would mean the working folder, an endless one nothing."""

    longest: int = 1000

    def holds(self, value: str) -> bool:
        return bool(value.strip()) and "\0" not in value and len(value.encode(errors="replace")) <= self.longest

    def __str__(self) -> str:
        return f"of 1 to {self.longest:,} characters"


@dataclass(frozen=True)
class Lettered:
    """What says of each letter of a pattern which part it is: `{G: {name: gqa, kv_heads: 2}}`."""

    def holds(self, value: dict[str, Any]) -> bool:
        return bool(value) and all(isinstance(key, str) and len(key) == 1 and key.isalpha() for key in value)

    def __str__(self) -> str:
        return "of letters, each to a part's name and options, such as {G: {name: gqa, kv_heads: 2}}"


@dataclass(frozen=True)
class Named:
    """What names the parts of a mixture: `{plays: {name: shakespeare, weight: 3}, code: {name: stdlib}}`."""

    def holds(self, value: dict[str, Any]) -> bool:
        return bool(value) and all(isinstance(key, str) and key.isidentifier() and len(key) <= 40 for key in value)

    def __str__(self) -> str:
        return "of names, each to a part's name, weight and options, such as {plays: {name: shakespeare, weight: 3}}"


LARGEST = 2**63 - 1
"""Whole numbers beyond it fit into no tensor and no file."""
PositiveInt = Annotated[int, Range(low=1)]
NonNegativeInt = Annotated[int, Range(low=0)]
PositiveFloat = Annotated[float, Range(low=0, open_low=True)]
NonNegativeFloat = Annotated[float, Range(low=0)]
Fraction = Annotated[float, Range(low=0, high=1)]
"""A share of a whole: 0 and 1 included."""
Steps = Annotated[int, Range(low=2)]
"""A length in optimizer steps where a number up to 1 is a share: 2 and more."""
Probability = Annotated[float, Range(low=0, high=1, open_high=True)]
"""A rate that must stay below 1: dropout, momentum, label smoothing."""
OpenShare = Annotated[float, Range(low=0, high=1, open_low=True, open_high=True)]
"""A share of a whole of which neither nothing nor all is meant."""

Rounds = Annotated[int, Range(low=1, high=100)]
"""How often something is repeated within one step."""
SampleLength = Annotated[int, Range(low=0, high=100_000)]
"""Tokens that are drawn one by one while training waits: 0 to some minutes' worth."""
NonEmpty = Annotated[str, Filled()]
"""A path, or a name that must not be empty."""

Letters = Annotated[dict[str, Any], Lettered()]
"""The parts, of the kind of the part that takes it, of which the letters of its option `pattern` choose one a layer."""

Sources = Annotated[dict[str, Any], Named()]
"""The parts, of the kind of the part that takes it, that it mixes, each with a weight beside its options."""
WEIGHT = "weight"
"""The key of a source's weight."""
INSIDE = (Letters, Sources)
"""What holds parts with options of their own."""

NAMESPACE: dict[str, Any] = {
    "int": int,
    "float": float,
    "bool": bool,
    "str": str,
    "list": list,
    "Any": Any,
    "None": None,
    "Literal": Literal,
    "PositiveInt": PositiveInt,
    "NonNegativeInt": NonNegativeInt,
    "PositiveFloat": PositiveFloat,
    "NonNegativeFloat": NonNegativeFloat,
    "Fraction": Fraction,
    "Steps": Steps,
    "Probability": Probability,
    "OpenShare": OpenShare,
    "Rounds": Rounds,
    "NonEmpty": NonEmpty,
    "Letters": Letters,
    "Sources": Sources,
}


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a value is a number; true and false are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def constant(values: Sequence[Any]) -> bool:
    """Whether all values are equal, of one type and written alike; a quick look at thousands, False of lists."""
    if not values or len(set(map(type, values))) > 1 or not values[0].__hash__:
        return False
    if values.count(values[0]) < len(values):
        return False
    return not (isinstance(values[0], float) and values[0] == 0) or len(set(map(repr, values))) == 1


def is_whole(value: object) -> TypeGuard[int]:
    """Whether a value is a whole number; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def describe(annotation: Any) -> str:
    """The annotation in a user's words."""
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        base, bounds = typing.get_args(annotation)
        return f"{describe(base)} {bounds}"
    if origin is Literal:
        return "one of " + ", ".join(str(v) for v in typing.get_args(annotation))
    if origin in (types.UnionType, typing.Union):
        return " or ".join(describe(a) for a in typing.get_args(annotation))
    if origin is list:
        return "a list of " + describe(typing.get_args(annotation)[0])
    if annotation is type(None):
        return "null"
    names = {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "text",
        list: "a list",
        dict[str, Any]: "a mapping",
    }
    return names.get(annotation, "anything")


def check(key: str, value: Any, annotation: Any) -> Any:
    """The value in the annotation's type.

    Raises:
        ConfigError: the value does not fit; the line names the key and what is allowed.
    """
    origin = typing.get_origin(annotation)
    if annotation is Any:
        return value
    if origin in (types.UnionType, typing.Union):
        options = typing.get_args(annotation)
        if value is None and type(None) in options:
            return None
        real = [o for o in options if o is not type(None)]
        for option in real:
            try:
                return check(key, value, option)
            except ConfigError as error:
                if len(real) == 1:
                    suffix = " (null is allowed too)" if type(None) in options else ""
                    raise ConfigError(str(error) + suffix) from None
        raise _refusal(key, value, annotation)
    if origin is Annotated:
        base, bounds = typing.get_args(annotation)
        number = check(key, value, base)
        if not bounds.holds(number):
            raise ConfigError(f"{key} must be {describe(annotation)}, not {quoted(value)}")
        return number
    if origin is Literal:
        allowed = typing.get_args(annotation)
        for one in allowed:
            if value == one and isinstance(value, bool) == isinstance(one, bool):
                return one
        if isinstance(value, bool):  # YAML reads a bare on/off/yes/no as a truth value
            return check(key, {True: "on", False: "off"}[value], annotation)
        raise ConfigError(unknown(f"value for {key}:", value, [str(a) for a in allowed]))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise _refusal(key, value, annotation)
        return dict(value)
    if origin is list:
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise _refusal(key, value, annotation)
        (item,) = typing.get_args(annotation)
        return [check(f"{key}[{i}]", v, item) for i, v in enumerate(value)]
    if isinstance(value, int) and abs(value) > LARGEST:
        raise ConfigError(f"{key} must be {describe(annotation)} below 2^63, not {quoted(value)}")
    if annotation is float and is_whole(value):
        return float(value)
    if annotation is int and isinstance(value, float) and value.is_integer() and abs(value) <= LARGEST:
        raise _refusal(key, value, annotation, f": write it without a point or an exponent, {int(value)}")
    if annotation is float and isinstance(value, str):
        raise _refusal(key, value, annotation, _number_hint(value))
    if annotation is float and isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{key} must be a finite number, not {value}")
    if isinstance(value, bool) and annotation is not bool:
        raise _refusal(key, value, annotation)
    if not isinstance(value, annotation):
        raise _refusal(key, value, annotation)
    return value


def _number_hint(text: str) -> str:
    try:
        float(text)
    except ValueError:
        return ""
    mantissa, _, exponent = text.lower().partition("e")
    dotted = mantissa if "." in mantissa else f"{mantissa}.0"
    return f" (YAML reads {text} as text: write {dotted}e{exponent})" if exponent else ""


def _refusal(key: str, value: Any, annotation: Any, hint: str = "") -> ConfigError:
    shown = "null" if value is None else quoted(value)
    return ConfigError(f"{key} must be {describe(annotation)}, not {shown}{hint}")
