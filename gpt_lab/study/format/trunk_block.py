"""The `trunk` of a sweep file's `gpt_lab:` block: which sweeps may share training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gpt_lab.errors import ConfigError, quoted
from gpt_lab.study.sweep import Sweep

BUDGETS = ("budget.steps", "budget.tokens", "budget.flops")
ADAPTIVE = ("tune", "seeds")
"""Keys of the block that make a sweep ask for its runs one by one."""


def check(block: Mapping[str, Any], swept: Sequence[str]) -> None:
    """Refuses a `trunk` of the `gpt_lab:` block that no cells could have.

    Raises:
        ConfigError: it is no truth value; no budget is swept that steps can be told of.
    """
    if "trunk" not in block:
        return
    if not isinstance(block["trunk"], bool):
        raise ConfigError(f"gpt_lab.trunk must be true or false, not {quoted(block['trunk'])}")
    if not block["trunk"]:
        return
    if "budget.seconds" in swept:
        raise ConfigError(
            "gpt_lab.trunk: runs with a budget in seconds cannot share a trunk (nobody knows at which step one would "
            f"leave it): sweep {BUDGETS[0]} or {BUDGETS[1]}"
        )
    if not any(key in BUDGETS for key in swept):
        raise ConfigError(f"gpt_lab.trunk needs several budgets: sweep {BUDGETS[0]} or {BUDGETS[1]}")
    for key in ADAPTIVE:
        if key in block:
            raise ConfigError(
                f"gpt_lab.trunk needs all runs known beforehand, and gpt_lab.{key} asks for them one by one"
            )


def possible(sweep: Sweep) -> bool:
    """Whether any cells could share one: a grid that sweeps a budget."""
    return sweep.method == "grid" and any(key in BUDGETS for key in sweep.design.values)
