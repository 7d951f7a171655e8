"""Small configs for tests, made without hydra, conf/ or torch."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any

from gpt_lab import options, registry, schema
from gpt_lab.errors import ConfigError, unknown

CHOICES = {
    "attention": "mha",
    "position": "rope",
    "norm": "rmsnorm",
    "mlp": "swiglu",
    "residual": "pre",
    "init": "normal",
    "optim": "adamw",
    "schedule": "cosine",
    "precision": "fp32",
    "kernel": "math",
    "data": "shakespeare",
    "tokenizer": "byte",
    "objective": "ce",
    "tracker": "none",
}
"""The part of each kind that `tiny_config` takes when it is told nothing."""

SECTIONS: dict[str, dict[str, Any]] = {
    "scale": {"name": "test", "depth": 2, "width": 32, "heads": 4, "context": 16},
    "model": {},
    "budget": {"steps": 20},
    "batch": {"tokens": 64},
    "eval": {"every": 10},
    "checkpoint": {},
    "log": {"every": 1},
    "sample": {"tokens": 0},
}
"""What `tiny_config` sets beside the defaults of schema.py."""


def tiny_config(**overrides: Any) -> schema.RunConfig:
    """A RunConfig of a 2-layer, 32-wide, 4-head model of context 16, with overrides as on the command line.

    Each part has the defaults of its class. An override names
    - a kind: `attention="gqa"` (its defaults) or `attention={"name": "gqa", "kv_heads": 2}` (these options over them);
    - a dotted key, through a dict: `tiny_config(attention="gqa", **{"attention.kv_heads": 2, "scale.width": 64})`;
    - a fixed key: `seed=3`, `study="a"`.
    A budget other than steps replaces the default: `**{"budget.tokens": 1e5}`.

    Raises:
        ConfigError: unknown kind, part, option or key; value of the wrong type or out of range; a required option left
            out. Checks between keys (heads that do not divide the width) belong to config.py and the parts.
    """
    chosen: dict[str, Any] = dict(CHOICES)
    dotted: dict[str, dict[str, Any]] = {}
    fixed: dict[str, Any] = {}
    for key, value in overrides.items():
        head, _, tail = key.partition(".")
        if tail:
            dotted.setdefault(head, {})[tail] = value
        elif head in chosen:
            chosen[head] = value
        else:
            fixed[head] = value
    if {"tokens", "flops", "seconds"} & dotted.get("budget", {}).keys():
        dotted["budget"] = {"steps": None} | dotted["budget"]
    values: dict[str, Any] = {kind: _settings(kind, chosen[kind], dotted.pop(kind, {})) for kind in chosen}
    hints = typing.get_type_hints(schema.RunConfig, include_extras=True)
    for section, defaults in SECTIONS.items():
        values[section] = _section(section, hints[section], defaults | dotted.pop(section, {}))
    for key, value in fixed.items():
        if key not in hints:
            raise ConfigError(unknown("key", key, hints))
        values[key] = options.check(key, value, hints[key])
    if dotted:
        raise ConfigError(unknown("key", next(iter(dotted)), hints))
    return schema.RunConfig(**values)


def _settings(kind: str, choice: str | Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    given = {"name": choice} if isinstance(choice, str) else dict(choice)
    given |= extra
    name = given.pop("name")
    if choice == CHOICES[kind] and not given and name not in registry.index()[kind]:  # TEMP until all parts exist
        return {"name": name}
    part = registry.get(kind, name)
    for key in given:
        if key not in part.options:
            raise ConfigError(unknown(f"option of {kind}={name}:", key, part.options))
    settings = {"name": name}
    for key, option in part.options.items():
        value = given.get(key, option.default)
        if value is registry.REQUIRED:
            raise ConfigError(f"{kind}={name} needs {kind}.{key}")
        settings[key] = options.check(f"{kind}.{key}", value, option.annotation)
    return settings


def _section(name: str, cls: Any, given: Mapping[str, Any]) -> Any:
    hints = typing.get_type_hints(cls, include_extras=True)
    for key in given:
        if key not in hints:
            raise ConfigError(unknown("key", f"{name}.{key}", [f"{name}.{hint}" for hint in hints]))
    return dataclasses.replace(
        cls(**given), **{key: options.check(f"{name}.{key}", value, hints[key]) for key, value in given.items()}
    )
