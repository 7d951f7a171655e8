"""Values against the types that options may have."""

from __future__ import annotations

import math
from typing import Any, Literal

import pytest

from gpt_lab.errors import ConfigError
from gpt_lab.options import (
    NAMESPACE,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Probability,
    check,
    describe,
)

Mode = Literal["auto", "on", "off"]


@pytest.mark.parametrize(
    "value, annotation, expected",
    [
        (3, int, 3),
        (-3, int, -3),
        (3, float, 3.0),
        (0.5, float, 0.5),
        (True, bool, True),
        ("text", str, "text"),
        ("", str, ""),
        (None, int | None, None),
        (3, int | None, 3),
        (3, float | None, 3.0),
        (1, PositiveInt, 1),
        (0, NonNegativeInt, 0),
        (0, NonNegativeFloat, 0.0),
        (1e-9, PositiveFloat, 1e-9),
        (0, Fraction, 0.0),
        (1, Fraction, 1.0),
        (0.999, Probability, 0.999),
        ("auto", Mode, "auto"),
        (True, Mode, "on"),  # what YAML makes of a bare on
        (False, Mode, "off"),
        ([1, 2], list[int], [1, 2]),
        ((1, 2), list[int], [1, 2]),
        ([1, 2], list[float], [1.0, 2.0]),
        ([], list[int], []),
        (["a"], list[str] | None, ["a"]),
        (None, list[str] | None, None),
        (None, PositiveInt | None, None),
        (2, Literal[1, 2], 2),
        ("auto", int | Literal["auto"], "auto"),
        (4, int | Literal["auto"], 4),
        ({"a": 1}, Any, {"a": 1}),
    ],
)
def test_accepts(value: Any, annotation: Any, expected: Any) -> None:
    found = check("key", value, annotation)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    "value, annotation, words",
    [
        (2.5, int, "key must be a whole number, not 2.5"),
        (2.0, int, "key must be a whole number, not 2.0"),
        ("3", int, "key must be a whole number, not '3'"),
        (True, int, "not True"),
        (True, float, "key must be a number, not True"),
        (1, bool, "key must be true or false, not 1"),
        ("true", bool, "key must be true or false, not 'true'"),
        (5, str, "key must be text, not 5"),
        (None, int, "key must be a whole number, not null"),
        ("1e-5", float, "YAML reads 1e-5 as text: write 1.0e-5"),
        ("1.5e-5x", float, "key must be a number, not '1.5e-5x'"),
        (math.nan, float, "key must be a finite number, not nan"),
        (math.inf, PositiveFloat, "key must be a finite number, not inf"),
        (0, PositiveInt, "key must be a whole number >= 1, not 0"),
        (-1, NonNegativeInt, "key must be a whole number >= 0, not -1"),
        (0.0, PositiveFloat, "key must be a number > 0, not 0.0"),
        (1.01, Fraction, "key must be a number in [0, 1], not 1.01"),
        (1.0, Probability, "key must be a number in [0, 1), not 1.0"),
        (0, PositiveInt | None, "(null is allowed too)"),
        ("onn", Mode, "did you mean 'on'"),
        (True, Literal[1, 2], "allowed: 1, 2"),
        ([1, "a"], list[int], "key[1] must be a whole number, not 'a'"),
        ("ab", list[str], "key must be a list of text, not 'ab'"),
        (5, list[int], "key must be a list of a whole number, not 5"),
        ("x", int | Literal["auto"], "a whole number or one of auto"),
    ],
)
def test_refuses(value: Any, annotation: Any, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check("key", value, annotation)
    assert words in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("name", NAMESPACE)
def test_every_name_is_described(name: str) -> None:
    annotation = NAMESPACE[name]
    described = describe(Literal["a"] if annotation is Literal else annotation)
    assert described
    assert "typing" not in described and "<" not in described


@pytest.mark.parametrize(
    "annotation, words",
    [
        (PositiveInt | None, "a whole number >= 1 or null"),
        (Probability, "a number in [0, 1)"),
        (Mode, "one of auto, on, off"),
        (list[int], "a list of a whole number"),
        (Any, "anything"),
    ],
)
def test_describe(annotation: Any, words: str) -> None:
    assert describe(annotation) == words
