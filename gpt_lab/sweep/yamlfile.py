"""A sweep file's text to plain values, strictly: what YAML would let pass in silence is refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from gpt_lab.conf_source import sweeps_dir
from gpt_lab.errors import ConfigError, unknown


def find(name: str | Path) -> Path:
    """The file that a user means: a path, or a name of sweeps/ with or without .yaml (as seen from here).

    Raises:
        ConfigError: there is none; the line offers the closest name.
    """
    path = Path(name)
    if path.is_file():
        return path
    if path.parent == Path("."):
        for candidate in (sweeps_dir() / f"{path.name}.yaml", sweeps_dir() / path.name):
            if candidate.is_file():
                here = Path.cwd()
                return candidate.relative_to(here) if candidate.is_relative_to(here) else candidate
        raise ConfigError(unknown("sweep", path.name, [p.stem for p in sweeps_dir().glob("*.yaml")]))
    if path.is_dir():
        raise ConfigError(f"{path} is a folder: name a sweep file (YAML)")
    raise ConfigError(f"no sweep file {path}")


def read(path: Path) -> dict[str, Any]:
    """The top-level mapping of a YAML file.

    Raises:
        ConfigError: unreadable, not UTF-8, not YAML, a key twice, not a mapping; the line names file and line.
    """
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 (byte {error.start}): save it as UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        tree = yaml.load(text, _Strict)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" line {mark.line + 1}:" if mark else ""
        problem = str(error.problem)
        if "\\t" in problem:
            problem = "a tab: YAML indents with spaces"
        raise ConfigError(f"{path}:{where} {problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date that is none, 2026-13-45
        raise ConfigError(f"{path}: {' '.join(str(error).split())}") from None
    if tree is None:
        raise ConfigError(f"{path} is empty: a sweep needs method and parameters")
    if not isinstance(tree, Mapping):
        raise ConfigError(f"{path} must be a mapping (method: ..., parameters: ...), not a {type(tree).__name__}")
    return dict(tree)


class _Strict(yaml.SafeLoader):
    """Refuses a key that is given twice: YAML would keep the last."""


def _mapping(loader: _Strict, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[str] = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode):
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is given twice", key.start_mark)
            seen.add(key.value)
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


_Strict.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
