"""Project folders: settings, experiments, sweeps and parts of the user's project, then those that the lab ships.

A project is the working folder: its conf/, experiments/ and sweeps/ add to the shipped files and win by name.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpt_lab import yamlfile
from gpt_lab.errors import ConfigError, quoted

PACKAGE = Path(__file__).resolve().parent
PARTS = "parts"
"""Key of a project's conf/config.yaml: the module, or modules, with its own parts."""


def shipped(name: str) -> Path:
    """The folder `name` as the lab ships it: of the source tree, or the copy in the installed package.

    Raises:
        ConfigError: the installation lacks it.
    """
    source = in_source_tree()
    place = PACKAGE.parent / name if source else PACKAGE / name
    if not place.is_dir():
        raise ConfigError(f"the installation has no {name}/: install gpt_lab again")
    return place


def own(name: str) -> Path | None:
    """The project's folder `name`: $GPT_LAB_<NAME>, else ./<name>; None where that is the shipped one or is missing.

    Raises:
        ConfigError: the variable names no folder.
    """
    variable = f"GPT_LAB_{name.upper()}"
    chosen = os.environ.get(variable)
    if chosen and not Path(chosen).is_dir():
        raise ConfigError(f"{variable}={chosen} is no folder")
    place = Path(chosen or name).resolve()
    return place if place.is_dir() and place != shipped(name) else None


def folders(name: str) -> list[Path]:
    """Where files of `name` are looked for, the project's own first."""
    mine = own(name)
    return [*([mine] if mine else []), shipped(name)]


def files(name: str, group: str = "") -> dict[str, Path]:
    """Stem -> the YAML file that counts, of a folder or of a group in it, sorted by stem."""
    found: dict[str, Path] = {}
    for folder in reversed(folders(name)):
        found |= {path.stem: path for path in (folder / group).glob("*.yaml")}
    return dict(sorted(found.items()))


def in_source_tree() -> bool:
    """Whether the lab runs from its source tree: an editable install also has a packaged copy, which goes stale."""
    return (PACKAGE.parent / "conf" / "config.yaml").is_file()


def own_config() -> tuple[Path, Mapping[str, Any]] | None:
    """The project's conf/config.yaml, as it is written; None: it has none.

    Raises:
        ConfigError: it is no YAML mapping.
    """
    folder = own("conf")
    path = folder / "config.yaml" if folder else None
    if path is None or not path.is_file():
        return None
    return path, _read(path, path.stat().st_mtime_ns)


def own_modules() -> list[str]:
    """The modules that `parts: NAME` in the project's conf/config.yaml names.

    Raises:
        ConfigError: what it names is no name of a module.
    """
    found = own_config()
    stated = found[1].get(PARTS) if found else None
    if found is None or stated is None:
        return []
    names = stated if isinstance(stated, list) else [stated]
    for name in names:
        if not isinstance(name, str) or not all(word.isidentifier() for word in name.split(".")):
            raise ConfigError(f"{found[0]}: {PARTS} names a module, such as my_parts, not {quoted(name)}")
    return names


def module_files(name: str) -> list[tuple[str, Path]]:
    """A module of the project, or a package with all its modules: dotted name and file of each; [] if it has none."""
    for root in roots():
        place = root.joinpath(*name.split("."))
        if place.with_suffix(".py").is_file():
            return [(name, place.with_suffix(".py"))]
        if place.is_dir():
            paths = sorted(place.rglob("[!.]*.py"))
            return [(".".join([name, *_dotted(path.relative_to(place))]), path) for path in paths]
    return []


def roots() -> list[Path]:
    """Folders that hold a project's modules: that of conf/, and src/ in it."""
    folder = own("conf")
    return [folder.parent, folder.parent / "src"] if folder else []


def _dotted(path: Path) -> list[str]:
    parts = path.with_suffix("").parts
    return list(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.lru_cache(maxsize=4)
def _read(path: Path, changed: int) -> Mapping[str, Any]:
    return yamlfile.read(path)


def near(path: Path) -> Path:
    """The path as one types it in the working directory."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
