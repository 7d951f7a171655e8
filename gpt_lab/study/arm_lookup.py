"""The arm that a user means, by its whole name, some of its settings, or one value."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from gpt_lab.errors import ConfigError


def arm_named(asked: str, arms: Sequence[str], factors: Sequence[str], what: str = "arm") -> str:
    """The name of the one arm that is meant: `norm=layernorm, residual=pre`, `norm=layernorm`, or `layernorm`.

    Args:
        factors: the settings that make the arms' names, in order.
        what: the thing asked for, for the error.

    Raises:
        ConfigError: no arm is meant (the line offers the closest), or several are.
    """
    from gpt_lab.study.arm_names import settings

    if asked in arms:
        return asked
    words = {word.strip() for word in asked.split(",")}
    meant = []
    for arm in arms:
        values = settings(arm, factors)
        stated = {f"{key}={value}" for key, value in values.items()}
        if words <= stated or asked in values.values():
            meant.append(arm)
    if len(meant) == 1:
        return meant[0]
    if meant:
        raise ConfigError(f"{what} {asked!r} means several arms: {'; '.join(sorted(meant))}")
    by_name = {value: arm for arm in reversed(arms) for value in (*settings(arm, factors).values(), arm)}
    close = difflib.get_close_matches(asked, by_name, n=1, cutoff=0.5)
    hint = f"; did you mean {by_name[close[0]]!r}?" if close else ""
    raise ConfigError(f"unknown {what} {asked!r}{hint} (allowed: {'; '.join(sorted(arms)) or 'none'})")
