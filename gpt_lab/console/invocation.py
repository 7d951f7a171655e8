"""How commands are called here, so that a hint can be copied: `train`, `uv run train`, `.venv/bin/train`."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from gpt_lab import project


def prefix() -> str:
    """What the user of this process types before the name of a command: "uv run ", "", or the folder of the scripts."""
    if "UV_RUN_RECURSION_DEPTH" in os.environ:  # what `uv run` gives its child
        return "uv run "
    script = Path(sys.argv[0])
    if script.parent != Path(".") and (script.parent / "python").exists():  # a console script lies beside its Python
        found = shutil.which(script.name)
        if found and Path(found).absolute() == script.absolute():
            return ""
        here = Path.cwd()
        place = script.parent.absolute()
        return f"{place.relative_to(here) if place.is_relative_to(here) else place}/"
    return "uv run " if project.in_source_tree() else ""
