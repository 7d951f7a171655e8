"""Versions of code and of torch, and number formats, in which the two runs of a pair differ.

Between pairs they may: differences within pairs cancel it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from gpt_lab.console.lines import count_of
from gpt_lab.store import record
from gpt_lab.study.design import Settings
from gpt_lab.validity.compared import TO_COME, swept
from gpt_lab.validity.planned import Planned
from gpt_lab.validity.rule import EITHER, Doubt, Rule
from gpt_lab.validity.seen import Seen

CODE = Rule(
    "code",
    200,
    title="Another version of the code within pairs, or one that only one run names",
    withheld=EITHER,
    way="both runs of a pair by one version (study=NAME runs all of them anew)",
)
TORCH = Rule(
    "torch",
    210,
    title="Another version of torch within pairs",
    withheld=EITHER,
    way=CODE.way,
)
NUMBERS = Rule(
    "numbers",
    220,
    title="Another number format within pairs, which is not what is compared",
    withheld=EITHER,
    way="one precision for every arm",
)


def _code(count: int) -> str:
    return f"other code than the baseline's in {count_of(count, 'pair')}"


@CODE.planned()
def code_to_come(pair: Planned) -> Iterator[Doubt]:
    """Pairs of which one run is done and the other would be made by other code."""
    if count := pair.apart(lambda a, b: record.same_code(*a.code, *b.code)):
        yield CODE.doubt(f"{_code(count)} {TO_COME}", "better", "worse")


@CODE.seen()
def code(study: Seen) -> Iterator[tuple[Settings, Doubt]]:
    """Pairs whose runs were made by other code."""
    for arm, count in study.apart("code", "commit", "dirty", "changes", same=_same_code).items():
        yield arm, CODE.doubt(_code(count), "better", "worse")


def _same_code(first: tuple[Any, ...], second: tuple[Any, ...]) -> bool:
    """By the content of the modules where both name it, else by their commits; not where only one names its code."""
    (code, *version), (other, *of_other) = first, second
    if code is not None and other is not None:
        return bool(code == other)
    if (code is None and version[0] is None) != (other is None and of_other[0] is None):
        return False
    return record.same_code(*version, *of_other)


@TORCH.seen()
def torch(study: Seen) -> Iterator[tuple[Settings, Doubt]]:
    """Pairs whose runs name other versions among their packages."""
    for arm, count in study.apart("packages", same=_same_torch).items():
        yield arm, TORCH.doubt(f"another torch than the baseline's in {count_of(count, 'pair')}", "better", "worse")


def _same_torch(first: tuple[Any], second: tuple[Any]) -> bool:
    a, b = (re.search(r"(?:^|, )torch ([^,]+)", text) if isinstance(text, str) else None for (text,) in (first, second))
    return a is None or b is None or a[1] == b[1]


@NUMBERS.seen()
def numbers(study: Seen) -> Iterator[tuple[Settings, Doubt]]:
    """Pairs whose runs computed in other formats."""
    if not swept(study.design) & {"precision", "device"}:
        for arm, count in study.apart("precision").items():
            text = f"another number format than the baseline's in {count_of(count, 'pair')}"
            yield arm, NUMBERS.doubt(text, "better", "worse")
