"""Finished cells as a search sees them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Done:
    """A cell that was asked for: its state in the ledger, and its score if it has one."""

    index: int
    values: Mapping[str, Any]
    state: str
    score: float | None = None
    key: str = ""
