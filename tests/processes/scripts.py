"""The lab's console scripts and the modules they are in."""

from __future__ import annotations

import tomllib
from pathlib import Path

PROJECT = Path(__file__).parents[2] / "pyproject.toml"

MODULES: dict[str, str] = {
    name: entry.partition(":")[0]
    for name, entry in tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]["scripts"].items()
}
"""The module of each, whose `main` it calls."""
