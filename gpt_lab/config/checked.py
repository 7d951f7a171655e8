"""A RunConfig from plain values, of a composed tree or a run's config.yaml: every key is honoured or refused."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpt_lab import options, registry, yamlfile
from gpt_lab.config import combinations, setting_names
from gpt_lab.config.schema import RunConfig
from gpt_lab.config.setting_names import SECTIONS
from gpt_lab.errors import ConfigError, quoted, unknown


def from_dict(tree: Mapping[str, Any]) -> RunConfig:
    """A RunConfig from nested plain values (a composed tree or a run's config.yaml), checked.

    Raises:
        ConfigError: an unknown or missing key, a wrong type, a value out of range, an impossible combination.
    """
    fields = {f.name: f for f in dataclasses.fields(RunConfig)}
    for key in tree:
        if "." in str(key) and str(key) in setting_names.settings():
            section, _, rest = str(key).partition(".")
            raise ConfigError(
                f"{key}: dotted names are for the command line; in a file write {section}: {{{rest}: ...}}"
            )
    _refuse_unknown("key", tree, fields)
    hints = _hints(RunConfig)
    values: dict[str, Any] = {}
    for name, field in fields.items():
        if name in tree:
            if name in registry.KINDS:
                values[name] = _part(name, tree[name])
            elif name in SECTIONS:
                values[name] = _section(name, tree[name])
            else:
                values[name] = options.check(name, tree[name], hints[name])
        elif field.default is field.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{name} is missing from the config")
    cfg = RunConfig(**values)
    combinations.check(cfg)
    return cfg


def load(path: Path) -> RunConfig:
    """The config of a run, from its config.yaml.

    Raises:
        ConfigError: unreadable, not YAML, or no config; the line names the file.
    """
    return from_dict(yamlfile.read(path))


def save(cfg: RunConfig, path: Path) -> None:
    """Writes the resolved config as YAML."""
    path.write_text(yamlfile.text(cfg.to_dict()), encoding="utf-8")


def _refuse_unknown(what: str, given: Mapping[str, Any], allowed: Mapping[str, Any]) -> None:
    for key in given:
        if key not in allowed:
            close = difflib.get_close_matches(str(key), allowed, n=1, cutoff=0.5)
            raise ConfigError(unknown(what, key, allowed, close or setting_names.closest_settings(str(key))))


@functools.cache
def _hints(cls: type) -> Mapping[str, Any]:
    return typing.get_type_hints(cls, include_extras=True)


def _part(kind: str, settings: Any, where: str = "") -> dict[str, Any]:
    """The checked settings of a part. `where` they stand, unless they are the group's: a letter's, say."""
    where, choice = where or kind, f"{where}.name" if where else kind
    if not isinstance(settings, Mapping) or "name" not in settings:
        raise ConfigError(f"{where} must be a part with its options, not {quoted(settings)}: choose with {choice}=NAME")
    part = registry.get(kind, settings["name"])
    for key in settings:
        if key != "name" and key not in part.options:
            raise ConfigError(f"{where}: " * (where != kind) + setting_names.unknown_option(part, str(key)))
    inside = next((option.annotation for option in part.options.values() if option.annotation in options.INSIDE), None)
    if inside is not None and where != kind:
        said = "a letter cannot have letters" if inside == options.Letters else "a source cannot have sources"
        raise ConfigError(f"{choice}={part.name}: {said} of its own")
    checked: dict[str, Any] = {"name": part.name}
    for key, option in part.options.items():
        value = settings.get(key, option.default)
        if value is registry.REQUIRED or value == "???":
            raise ConfigError(f"{choice}={part.name} needs {where}.{key}=... ({options.describe(option.annotation)})")
        checked[key] = options.check(f"{where}.{key}", value, option.annotation)
        if option.annotation == options.Sources:
            checked[key] = {name: _source(kind, f"{where}.{key}.{name}", own) for name, own in checked[key].items()}
        if option.annotation == options.Letters:
            checked[key] = _letters(kind, f"{where}.{key}", checked[key], checked.get("first", "") + checked["pattern"])
    return checked


def _source(kind: str, where: str, settings: Any) -> dict[str, Any]:
    """The checked part of a source, its weight after its name."""
    own = dict(settings) if isinstance(settings, Mapping) else settings
    weight = own.pop(options.WEIGHT, 1.0) if isinstance(own, dict) else 1.0
    part = _part(kind, own, where)
    weight = options.check(f"{where}.{options.WEIGHT}", weight, options.PositiveFloat)
    return {"name": part.pop("name"), options.WEIGHT: weight, **part}


def _letters(kind: str, where: str, settings: Mapping[str, Any], pattern: str) -> dict[str, Any]:
    """The checked part of each letter of a pattern; others, of which a sweep may choose, are checked and left out."""
    found = {letter: _part(kind, chosen, f"{where}.{letter}") for letter, chosen in settings.items()}
    for letter in pattern:
        if letter not in found:
            raise ConfigError(
                f"{kind}.pattern={pattern}: letter {quoted(letter)} has no {kind}: add {where}.{letter}.name=NAME, or "
                f"change the pattern (letters that have one: {', '.join(sorted(found))})"
            )
    return {letter: found[letter] for letter in dict.fromkeys(pattern)}


def _section(name: str, settings: Any) -> Any:
    cls = SECTIONS[name]
    if not isinstance(settings, Mapping):
        raise ConfigError(f"{name} is a section, not a value: {quoted(settings)}")
    hints = _hints(cls)
    _refuse_unknown(f"key of {name}:", settings, hints)
    for field in dataclasses.fields(cls):
        if field.default is field.default_factory is dataclasses.MISSING and field.name not in settings:
            raise ConfigError(f"{name}.{field.name} is missing")
    return cls(**{key: options.check(f"{name}.{key}", value, hints[key]) for key, value in settings.items()})
