"""A/A pairs as a sweep: the recipe of a baseline, and the null pairs that it still needs."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt_lab import metrics
from gpt_lab.config.overrides import key_of
from gpt_lab.config.schema import RunConfig
from gpt_lab.console.invocation import prefix
from gpt_lab.errors import ConfigError, unknown
from gpt_lab.noise import records
from gpt_lab.study import cells
from gpt_lab.study import sweep_file as spec
from gpt_lab.study.design import Cell, Settings
from gpt_lab.study.format import agent_command, parameters
from gpt_lab.study.sweep import Sweep
from gpt_lab.sweep.ledger import ledger

PAIR = "seed"
"""What null pairs are drawn by: the noise says nothing of sweeps that pair their runs by anything else."""


@dataclass(frozen=True)
class Recipe:
    """What null pairs are made of.

    Fields:
        words: settings of train, but those that draw a run and its study.
        cfg: a run of it. metric, goal: that the noise is wanted for.
        taken: seeds of the study that the noise is for.
        cell: a run of the sweep's baseline; None where settings were given.
    """

    words: tuple[str, ...]
    cfg: RunConfig
    metric: str
    goal: str
    taken: frozenset[int] = frozenset()
    cell: Cell | None = None

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metric, and what decides in its place where the data is no text."""
        return (self.metric, *[metrics.WITHOUT_TEXT] * (self.metric == metrics.HEADLINE))

    @property
    def folder(self) -> Path:
        """Of its null pairs."""
        return records.folder_of(self.cfg.runs_dir, self.cfg.flat())


def of_settings(overrides: Sequence[str]) -> Recipe:
    """The recipe of train's settings.

    Raises:
        ConfigError: settings that no run could have, or that null pairs set themselves.
    """
    for text in overrides:
        key = key_of(text)
        if key in records.DRAWN:
            raise ConfigError(f"{text}: null pairs draw their own seeds and replicas: --seeds N says how many")
        if key == "study":
            raise ConfigError(f"{text}: the study of null pairs is named by its recipe: leave study out")
        if key in parameters.NEVER:
            raise ConfigError(f"{text}: {key} cannot be set here: {parameters.NEVER[key]}")
    return Recipe(
        tuple(overrides), cells.composer().compose(overrides), metrics.HEADLINE, metrics.goal(metrics.HEADLINE)
    )


def of_sweep(sweep: Sweep, chosen: Sequence[str] = ()) -> Recipe:
    """The recipe of a sweep's baseline.

    Args:
        chosen: `key=value` of settings that the sweep tunes: which of the baseline's values is meant.

    Raises:
        ConfigError: the sweep has no one baseline that pairs by seeds; the line names the way out.
    """
    found = recipes(sweep, chosen)
    if len(found) > 1:
        tunings = [" ".join(_tuning(sweep, recipe)) for recipe in found]
        raise ConfigError(
            f"{sweep.path}: its baseline is tried with {len(found)} settings, each a recipe of its own: take the one "
            f"that its report chose, such as `{again(str(sweep.path), [*sweep.overrides, *_tuning(sweep, found[0])])}` "
            f"({'; '.join(tunings)})"
        )
    return found[0]


def recipes(sweep: Sweep, chosen: Sequence[str] = ()) -> list[Recipe]:
    """The recipes of a sweep's baseline: one for each of its baselines and the values that it is tuned over.

    Raises:
        ConfigError: as `of_sweep`.
    """
    where, design = sweep.path, sweep.design
    by_hand = f"give the settings of one: {prefix()}noise key=value ..."
    if sweep.method != "grid":
        raise ConfigError(f"{where}: a {sweep.method} sweep has no fixed baseline; {by_hand}")
    if design.pair != PAIR:
        raise ConfigError(f"{where}: its runs are paired by {design.pair}, null pairs by {PAIR}: it has no noise floor")
    if design.baseline is None and design.factors:
        raise ConfigError(f"{where}: gpt_lab.baseline names no arm; name it there, or {by_hand}")
    rows = sweep.combinations()
    rows = [row for row in rows if design.arm(row) == (design.reference(row) or Settings())]
    for text in chosen:
        key, _, value = text.partition("=")
        if design.tuning_pairs and key in design.nuisance:  # any value: which ones the tuning tries is not known here
            rows = [{**row, key: parameters.plain(key, _number(key, value))} for row in rows]
            continue
        values = list(dict.fromkeys(_value(key, row[key]) for row in rows if key in row))
        if value not in values:
            raise ConfigError(f"{where}: {unknown(f'value of {key} in the baseline:', value, values)}")
        rows = [row for row in rows if key in row and _value(key, row[key]) == value]
    first = {(design.arm(row), design.tuning(row)): row for row in reversed(rows)}
    metric, goal = design.metric, design.goal
    found = []
    for cell in cells.many(sweep, list(reversed(first.values()))):
        words = tuple(text for text in cell.overrides if key_of(text) not in (*records.DRAWN, "study"))
        (cfg,) = cells.configs([cell])
        taken = frozenset(design.values.get(PAIR) or (cfg.seed,))
        found.append(Recipe(words, cfg, metric, goal, taken, cell))
    return found


def split(sweep_file: str | Path, overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """Settings for all cells of a sweep file, and those that choose among the values that it tunes."""
    design = spec.load(sweep_file).design
    chosen = [text for text in overrides if key_of(text) in (*design.nuisance, *design.within)]
    return [text for text in overrides if text not in chosen], chosen


def missing(recipe: Recipe, there: Collection[int], pairs: int) -> list[int]:
    """Seeds of the null pairs to be run beyond those that are there."""
    fresh = (seed for seed in itertools.count(records.FIRST) if seed not in recipe.taken and seed not in there)
    return list(itertools.islice(fresh, max(0, pairs - len(there))))


def null_sweep(recipe: Recipe, seeds: Sequence[int]) -> Sweep:
    """Replica 0 and 1 at each of the seeds: a sweep like any other, in the recipe's own study.

    Raises:
        ConfigError: settings that a sweep cannot have.
    """
    study = recipe.folder.name
    raw: dict[str, Any] = {
        "program": "train",
        "description": "Baseline against itself",
        "method": "grid",
        "metric": {"name": recipe.metric, "goal": recipe.goal},
        "parameters": {"replica": {"values": [0, 1]}, PAIR: {"values": list(seeds)}},
        "command": ["uv", "run", "train", f"study={study}", *recipe.words, agent_command.ARGUMENTS],
        "gpt_lab": {
            "study": study,
            "question": "How far apart are two runs that differ by chance alone?",
            "baseline": {"replica": 0},
            "family": study,
        },
    }
    return spec.read(recipe.folder / ledger.COPY, raw)


def again(file: str | None, overrides: Sequence[str]) -> str:
    """The command that measures this noise."""
    return prefix() + shlex.join(["noise", *([file] if file else []), *overrides])


def _tuning(sweep: Sweep, recipe: Recipe) -> list[str]:
    """The settings of the sweep that say which of its baselines, tuned how, a recipe is of."""
    return [word for word in recipe.words if key_of(word) in (*sweep.design.nuisance, *sweep.design.within)]


def _number(key: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"{key}={text}: {key} must be a number") from None


def _value(key: str, value: Any) -> str:
    return spec.override(key, value).partition("=")[2]
