"""Sweep file lookup and reading."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any

from gpt_lab import project, yamlfile
from gpt_lab.errors import ConfigError, unknown


def find(name: str | Path) -> Path:
    """The file that a user means: a path, or a name below sweeps/ with or without .yaml (as seen from here).

    Raises:
        ConfigError: there is none; the line offers the closest name.
    """
    path = Path(name)
    if os.path.isfile(path):  # unlike Path.is_file, False for a path that is too long
        return path
    if not path.is_absolute() and ".." not in path.parts:
        for folder, stem in itertools.product(project.folders("sweeps"), (f"{path}.yaml", str(path))):
            if os.path.isfile(candidate := folder / stem):
                return _from_here(candidate)
        if known := project.files("sweeps", str(path.parent)):
            raise ConfigError(unknown("sweep", path.name, known))
    if os.path.isdir(path):
        raise ConfigError(f"{path} is a folder: name a sweep file (YAML)")
    raise ConfigError(f"no sweep file {path}")


def named() -> dict[str, Path]:
    """Name (`norm`, `screens/norm`) -> the file, as seen from here, of every sweep of the project and of the lab."""
    found: dict[str, Path] = {}
    for folder in reversed(project.folders("sweeps")):
        found |= {path.relative_to(folder).with_suffix("").as_posix(): path for path in folder.rglob("*.yaml")}
    return {name: _from_here(found[name]) for name in sorted(found)}


def _from_here(path: Path) -> Path:
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def read(path: Path) -> dict[str, Any]:
    """The content of a sweep file.

    Raises:
        ConfigError: as gpt_lab.yamlfile.read; empty.
    """
    content = yamlfile.read(path)
    if not content:
        raise ConfigError(f"{path} is empty: a sweep needs method and parameters")
    return content
