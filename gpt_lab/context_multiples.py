"""Names of metrics at multiples of the training context: `val/bpb_8x` is val/bpb in windows of 8 contexts."""

from __future__ import annotations

import re

BEYOND = "val/loss_beyond"
"""Nats per token over the targets that stand past the training context in their window."""
EXCESS = "val/excess"
"""Nats per token of one context's length of a window, less what the same targets cost in windows of one context."""


def at(metric: str, times: int) -> str:
    """The name of a metric in windows of `times` training contexts; at 1 its own."""
    return metric if times == 1 else f"{metric}_{times}x"


def part(times: int, number: int) -> str:
    """The name of EXCESS in the `number`-th context's length, from 1, of windows of `times` contexts."""
    return f"{at(EXCESS, times)}_part{number}"


def split(metric: str) -> tuple[str, int]:
    """The metric and the multiple that a name says: (val/bpb, 8) of val/bpb_8x, (val/bpb, 1) of val/bpb."""
    found = re.fullmatch(r"(val/\w+?)_([1-9]\d*)x(?:_part[1-9]\d*)?", metric)
    return (found[1], int(found[2])) if found else (metric, 1)
