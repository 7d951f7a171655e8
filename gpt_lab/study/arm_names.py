"""The names of arms: shortened for a reader, and found again."""

from __future__ import annotations

import re
from collections.abc import Sequence

from gpt_lab.study.design import Design


def settings(name: str, keys: Sequence[str]) -> dict[str, str]:
    """`a=1, b=x` back to {a: 1, b: x}; empty unless the name holds exactly these keys in this order."""
    pattern = ", ".join(f"{re.escape(key)}=(.*?)" for key in keys)
    match = re.fullmatch(pattern, name, re.DOTALL) if keys else None
    return dict(zip(keys, match.groups(), strict=True)) if match else {}


def short_names(design: Design, arms: Sequence[str]) -> dict[str, str]:
    """Arms without what every reader can add: `rope`, `mqa · alibi`, `depth=4 · width=128`.

    Numbers, and `none` beside other values, keep the last word of their key. Full names where short ones would not
    tell two arms apart, or are no names of Design.
    """
    short: dict[str, str] = {}
    for arm in arms:
        values = settings(arm, design.factors)
        short[arm] = " · ".join(_short(key, value, len(values) > 1) for key, value in values.items())
    if not all(short.values()) or len(set(short.values())) < len(short):
        return {arm: arm for arm in arms}
    return short


def _short(key: str, value: str, several: bool) -> str:
    opaque = re.fullmatch(r"[-+.\d][-+.\deE]*|true|false|null", value) or (several and value == "none")
    return f"{key.rpartition('.')[2]}={value}" if opaque or not value else value
