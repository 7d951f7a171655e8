"""Arm lookup by whole name, some of its settings, or one value."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from gpt_lab.errors import ConfigError
from gpt_lab.study.design import shown


def find_arm(asked: str, arms: Mapping[str, Mapping[str, Any]], what: str = "arm") -> str:
    """The name of the one arm that is meant: `norm=layernorm, residual=pre`, `norm=layernorm`, or `layernorm`.

    Args:
        arms: the settings of each arm, by its name.
        what: the thing asked for, for the error.

    Raises:
        ConfigError: no arm is meant (the line offers the closest), or several are.
    """
    if asked in arms:
        return asked
    words = {word.strip() for word in asked.split(",")}
    texts = {arm: {key: shown(value) for key, value in settings.items()} for arm, settings in arms.items()}
    meant = [
        arm
        for arm, values in texts.items()
        if words <= {f"{key}={value}" for key, value in values.items()} or asked in values.values()
    ]
    if len(meant) == 1:
        return meant[0]
    if meant:
        raise ConfigError(f"{what} {asked!r} means several arms: {'; '.join(sorted(meant))}")
    by_name = {name: arm for arm, values in reversed(texts.items()) for name in (*values.values(), arm)}
    close = difflib.get_close_matches(asked, by_name, n=1, cutoff=0.5)
    hint = f"; did you mean {by_name[close[0]]!r}?" if close else ""
    raise ConfigError(f"unknown {what} {asked!r}{hint} (allowed: {'; '.join(sorted(arms)) or 'none'})")
