"""Composition without Hydra of what needs none of it: the shipped conf/ and experiments/ and a choice of groups.

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
"""First line of a preset and of an experiment: their values stand where the settings do."""


def compose(groups: Sequence[str]) -> dict[str, Any] | None:
    """The tree that Hydra composes of these choices (`attention=gqa`, `+experiment=muon`), not to be changed.

    None where only Hydra can tell: a project's own files, a part without one, a file that builds on others otherwise.
    """
    if project.own("conf") is not None or project.own("experiments") is not None:
        return None
    conf = project.shipped("conf")
    try:
        base = dict(_read(conf / "config.yaml"))
        names = {group: name for item in base.pop("defaults") if item != "_self_" for group, name in item.items()}
        chosen = dict(text.removeprefix("+").split("=") for text in groups)
        laid_over = []
        if "experiment" in chosen:
            laid_over.append(_read(_file(project.shipped("experiments"), chosen.pop("experiment")), _HEADER))
            chosen = {**_picks(laid_over[0]), **chosen}
        laid_over.insert(0, _read(_file(conf / "model", chosen.pop("model", names.pop("model"))), _HEADER))
        names |= _picks(laid_over[0]) | chosen
        if names.keys() != {*registry.KINDS, "scale"}:
            return None
        parts = [{group: _read(_file(conf / group, name))} for group, name in names.items()]
        return functools.reduce(_merged, [*parts, *laid_over], base)
    except (ConfigError, ValueError, LookupError, AttributeError, TypeError, OSError):  # what is wrong Hydra says
        return None


def _picks(content: Mapping[str, Any]) -> dict[str, str]:
    """What a preset or an experiment chooses: group -> name."""
    items = [item.items() for item in content.get("defaults", ())]
    return {group.removeprefix("override /"): name for ((group, name),) in items}


def _file(folder: Path, name: str) -> Path:
    if Path(name).name != name:
        raise ValueError("no name of a file")
    return folder / f"{name}.yaml"


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
    """Values laid over others, settings of a section one by one; without the choices of a preset."""
    found = dict(tree)
    for key, value in more.items():
        before = found.get(key)
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            found[key] = _merged(before, value)
        elif key != "defaults":
            found[key] = value
    return found
