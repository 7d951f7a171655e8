"""Composition without Hydra of what needs none of it: the shipped conf/, a choice of groups and one preset.

Importing Hydra and having it look for plugins and files takes a quarter of a second, and a tenth for each choice.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gpt_lab import project, registry, yamlfile
from gpt_lab.errors import ConfigError

_HEADER = "# @package _global_\n"
"""First line of a preset: its values stand where the settings do."""


def compose(groups: Sequence[str]) -> dict[str, Any] | None:
    """The tree that Hydra composes of these choices (`attention=gqa`, `model=gpt2`), not to be changed.

    None where only Hydra can tell: an experiment, a conf/ of the project's own, a part without a file, a file that
    builds on others.
    """
    if project.own("conf") is not None:
        return None
    conf = project.shipped("conf")
    try:
        base = _read(conf / "config.yaml")
        names = {group: name for item in base.get("defaults", ()) if item != "_self_" for group, name in item.items()}
        chosen = dict(text.split("=") for text in groups)
        if names.keys() != {*registry.KINDS, "scale", "model"} or not chosen.keys() <= names.keys():
            return None
        preset = _read(_file(conf, "model", chosen.get("model", names.pop("model"))), _HEADER)
        for item in preset.get("defaults", ()):
            ((group, name),) = item.items()
            names[group.removeprefix("override /")] = name
        tree = {key: value for key, value in base.items() if key != "defaults"}
        for group, name in {**names, **chosen}.items():
            if group != "model":
                tree = _merged(tree, {group: _read(_file(conf, group, name))})
        return _merged(tree, {key: value for key, value in preset.items() if key != "defaults"})
    except (ConfigError, ValueError, AttributeError, TypeError, OSError):  # what is wrong is for Hydra to say
        return None


def _file(conf: Path, group: str, name: str) -> Path:
    if Path(name).name != name:
        raise ValueError("no name of a file")
    return conf / group / f"{name}.yaml"


def _read(path: Path, header: str = "") -> Mapping[str, Any]:
    status = path.stat()
    return _content(path, (status.st_mtime_ns, status.st_size), header)


@functools.lru_cache(maxsize=1024)
def _content(path: Path, version: tuple[int, int], header: str) -> Mapping[str, Any]:
    text = path.read_text(encoding="utf-8")
    content = yamlfile.parse(text.removeprefix(header), str(path))
    builds = "defaults" in content and not header and path.name != "config.yaml"
    if not text.startswith(header) or "@" in text.removeprefix(header) or "${" in text or builds:
        raise ValueError("more than values")
    return content


def _merged(tree: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(tree)
    for key, value in more.items():
        before = found.get(key)
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            value = _merged(before, value)
        found[key] = value
    return found
