"""Arms and their names: how one is shown, and which one a user means."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable
from typing import Any

from gpt_lab.errors import ConfigError
from gpt_lab.study.design import Settings


def short_names(arms: Iterable[Settings]) -> dict[Settings, str]:
    """Arms without what every reader can add: `rope`, `mqa · alibi`, `depth=4 · width=128`.

    What is no text, and `none` beside other values, keeps the last word of its key. Whole names where short ones would
    not tell two arms apart, or say nothing.
    """
    short = {
        arm: " · ".join(
            _short(key, value, text, len(arm.texts) > 1)
            for (key, value), (_, text) in zip(arm.given, arm.texts, strict=True)
        )
        for arm in arms
    }
    if not all(short.values()) or len(set(short.values())) < len(short):
        return {arm: str(arm) for arm in short}
    return short


def _short(key: str, value: Any, text: str, several: bool) -> str:
    opaque = not isinstance(value, str) or not text or (several and text == "none")
    return f"{key.rpartition('.')[2]}={text}" if opaque else text


def find_arm(asked: str, arms: Collection[Settings], what: str = "arm") -> Settings:
    """The one arm that is meant: `norm=layernorm, residual=pre`, `norm=layernorm`, `layernorm`, or its short name.

    Args:
        what: the thing asked for, for the error.

    Raises:
        ConfigError: no arm is meant (the line offers the closest), or several are.
    """
    short = short_names(arms)
    meant = [arm for arm in arms if asked in (str(arm), short[arm])]
    if not meant:
        words = {word.strip() for word in asked.split(",")}
        for arm in arms:
            said = {f"{key}={text}" for key, text in arm.texts}
            if words <= said or asked in said or asked in dict(arm.texts).values():
                meant.append(arm)
    if len(meant) == 1:
        return meant[0]
    if meant:
        raise ConfigError(f"{what} {asked!r} means several arms: {'; '.join(sorted(map(str, meant)))}")
    by_name = {name: str(arm) for arm in reversed([*arms]) for name in (*dict(arm.texts).values(), str(arm))}
    close = difflib.get_close_matches(asked, by_name, n=1, cutoff=0.5)
    hint = f"; did you mean {by_name[close[0]]!r}?" if close else ""
    raise ConfigError(f"unknown {what} {asked!r}{hint} (allowed: {'; '.join(sorted(map(str, arms))) or 'none'})")
