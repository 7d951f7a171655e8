"""An estimate with its confidence interval."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Interval:
    """An estimate with its two-sided interval at level 1 - alpha and its degrees of freedom."""

    estimate: float
    low: float
    high: float
    df: float
    p: float
