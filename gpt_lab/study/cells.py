"""The cells of a sweep: each one run, composed and checked before anything is paid for."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gpt_lab import project
from gpt_lab.config import composition
from gpt_lab.config.schema import RunConfig
from gpt_lab.cost import match as match_
from gpt_lab.errors import ConfigError
from gpt_lab.study import context_lengths, sweep_file, task_metric
from gpt_lab.study.design import Cell, join
from gpt_lab.study.sweep import Sweep
from gpt_lab.train.begin_from import command_line


def cells(sweep: Sweep) -> list[Cell]:
    """Every cell of a grid, in order; the first `run_cap` of them.

    Raises:
        ConfigError: a cell that no run could have, named with its values; two cells that are the same run.
    """
    if not sweep.listed:
        kind = "sweep with tune" if sweep.method == "grid" else f"{sweep.method} sweep"
        raise ConfigError(f"{sweep.path}: a {kind} draws its cells one by one")
    found = many(sweep, sweep.combinations()[: sweep.run_cap])
    first: dict[str, Cell] = {}
    for one in found:
        other = first.setdefault(one.identity, one)
        if other is not one:
            raise ConfigError(
                f"{sweep.path}: cells {other.index} ({_named(other.values)}) and {one.index} ({_named(one.values)}) "
                "are the same run: take one of them out"
            )
    return found


def many(sweep: Sweep, rows: Sequence[Mapping[str, Any]]) -> list[Cell]:
    """The cells of these values, in order.

    Raises:
        ConfigError: a cell that no run could have, named with its values.
    """
    shared, fixed, models = composer(), sweep_file.fixed(sweep), match_.Models()
    return [_cell(sweep, index, values, fixed, shared, models) for index, values in enumerate(rows)]


def cell(sweep: Sweep, index: int, values: Mapping[str, Any]) -> Cell:
    """One cell with the values that were drawn for it.

    Raises:
        ConfigError: no run could have them.
    """
    return _cell(sweep, index, values, sweep_file.fixed(sweep), composer(), match_.Models())


def configs(cells: Sequence[Cell]) -> list[RunConfig]:
    """The composed config of each cell."""
    shared = composer()
    return [command_line.compose(one.overrides, shared.compose) for one in cells]


def composer() -> composition.Composer:
    """One for the whole process: what Hydra made for planning (0.1 s each) is there again when a cell is run."""
    return _composer(*project.folders("conf"))


@functools.cache
def _composer(*conf: Path) -> composition.Composer:
    return composition.Composer()


def _cell(
    sweep: Sweep,
    index: int,
    values: Mapping[str, Any],
    fixed: tuple[str, ...],
    composer: composition.Composer,
    models: match_.Models,
) -> Cell:
    *settings, study = fixed
    overrides = (*settings, *(sweep_file.override(name, value) for name, value in values.items()), study)
    try:
        cfg = command_line.compose(overrides, composer.compose)
        context_lengths.check(sweep.design, cfg)
        task_metric.check(sweep.design, cfg)
        if cfg.match is not None:
            stated = {text.partition("=")[0] for text in overrides}
            base = None if cfg.match_to is not None else composer.compose(_baseline(sweep, values, fixed))
            overrides = (*overrides[:-1], *match_.settings(cfg, base, stated, models), study)
            cfg = composer.compose(overrides)
    except ConfigError as error:
        raise ConfigError(f"{sweep.path}: cell {index} ({_named(values)}): {error}") from None
    design = sweep.design
    return Cell(
        index=index,
        values=dict(values),
        arm=design.arm(values),
        tuning=design.tuning(values),
        pair=values.get(design.pair),
        overrides=overrides,
        key=hashlib.sha256(json.dumps(sorted(overrides)).encode()).hexdigest()[:12],
        identity=cfg.identity(),
    )


def _baseline(sweep: Sweep, values: Mapping[str, Any], fixed: tuple[str, ...]) -> list[str]:
    """The settings of the arm that a cell is compared with, unmatched, at the cell's own scale.

    Raises:
        ConfigError: the sweep names none.
    """
    stated = sweep.design.baseline
    if stated is None:
        raise ConfigError("match needs gpt_lab.baseline, the arm whose size the others take (or match_to: how many)")
    arm = {**stated, **{key: values[key] for key in ("scale", *sweep.design.within) if key in values}}
    settings = [text for text in fixed if text.partition("=")[0] not in ("match", "match_to")]
    return [*settings, *(sweep_file.override(key, value) for key, value in arm.items() if key != "match")]


def _named(values: Mapping[str, Any]) -> str:
    return join(tuple(values), values)
