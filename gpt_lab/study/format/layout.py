"""Layout of a sweep file: W&B's keys on the top level, the lab's under gpt_lab:, settings in parameters:."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpt_lab import yamlfile
from gpt_lab.config import setting_names
from gpt_lab.errors import ConfigError, quoted, unknown
from gpt_lab.study.format import factorial_block, parameters

METHODS = ("grid", "random", "bayes")
TEXTS = ("program", "project", "entity", "name", "description")
TOP = (*TEXTS, "method", "metric", "parameters", "run_cap", "early_terminate", "command", "gpt_lab")
METRIC = ("name", "goal", "target")
EARLY = ("type", "min_iter", "max_iter", "s", "eta", "strict")
GRID_ONLY = ("zip", "per", "exclude", "tune", "design", "trunk", *factorial_block.KEYS, "seeds")
BLOCK = (
    *("study", "question", "baseline", "within", "pair", "family", "sesoi", "alpha", "nuisance", "match"),
    *GRID_ONLY,
)


def check(path: Path, raw: Mapping[str, Any]) -> None:
    """Refuses keys that stand in the wrong place or nowhere, and levels that are missing or empty.

    Raises:
        ConfigError: the line names the key and where it belongs.
    """
    _known(path, raw, "", TOP)
    for key in TEXTS:
        if key in raw and not (isinstance(raw[key], str) and raw[key].strip()):
            raise ConfigError(f"{key} must be text, not {quoted(raw[key])}")
    if "method" not in raw:
        raise ConfigError(f"method is missing: one of {', '.join(METHODS)}")
    method = raw["method"]
    if method not in METHODS:
        raise ConfigError(unknown("method", method, METHODS))
    block = mapping("gpt_lab", raw.get("gpt_lab", {}))
    _known(path, block, "gpt_lab", BLOCK)
    for key in block:
        if key in GRID_ONLY and method != "grid":
            raise ConfigError(f"gpt_lab.{key} is for method: grid, not for {method}")
    for key in ("metric", "early_terminate"):
        if key in raw:
            mapping(key, raw[key])
    if "parameters" not in raw or raw["parameters"] == {}:
        raise ConfigError("parameters is missing or empty: name the settings to sweep")
    for key in mapping("parameters", raw["parameters"]):
        if key not in setting_names.settings() and (line := _elsewhere(path, key, "parameters")):
            raise ConfigError(line)


def mapping(where: str, value: Any) -> Mapping[str, Any]:
    """A value that must have keys of its own.

    Raises:
        ConfigError: it has none.
    """
    if not isinstance(value, Mapping):
        said = "empty" if value is None else quoted(value)
        raise ConfigError(f"{where} must be a mapping (key: value), not {said}")
    return value


def _known(path: Path, level: Mapping[str, Any], level_name: str, allowed: tuple[str, ...]) -> None:
    for key in level:  # first of all: a level is often empty because its keys are not indented
        if key not in allowed:
            what = f"key of {level_name}:" if level_name else "key"
            raise ConfigError(_elsewhere(path, key, level_name) or unknown(what, key, allowed))
    for key, value in level.items():
        if value is None:
            raise ConfigError(f"{level_name}{'.' if level_name else ''}{key} is empty: fill it in or leave it out")


def _elsewhere(path: Path, key: Any, current: str) -> str | None:
    """The line of a key that belongs to another level than here; None if it belongs to none."""
    levels = {"": TOP, "gpt_lab:": BLOCK, "parameters:": tuple(setting_names.settings())}
    if current == "":
        levels |= {"metric:": METRIC, "early_terminate:": EARLY, "the name of a parameter": parameters.KEYS}
    level = next((level for level, keys in levels.items() if level.rstrip(":") != current and key in keys), None)
    if level is None:
        return None
    if level == "":
        return f"{key} belongs to the top level, not under {current}: begin its line in the first column"
    line = yamlfile.line_of(path, key) if current == "" and os.path.isfile(path) else None
    at = f"line {line}: " if line else ""
    return f"{at}{key} belongs under {level}, two spaces further in"
