"""Reads a sweep file: W&B's own format, and the `gpt_lab:` block that says what is compared with what."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gpt_lab import metrics
from gpt_lab.config.overrides import key_of, word
from gpt_lab.errors import ConfigError, cut, quoted, unknown
from gpt_lab.options import is_number, is_whole
from gpt_lab.study.design import SEEDS, Design, draws_again, shown
from gpt_lab.study.format import (
    distributions,
    early_terminate,
    factorial_block,
    grid,
    layout,
    lookup,
    parameters,
    sequential_seeds,
    study_name,
    trunk_block,
    tune_block,
)
from gpt_lab.study.format.agent_command import command_settings
from gpt_lab.study.format.parameters import Parameter
from gpt_lab.study.sweep import Method, Sweep
from gpt_lab.study.sweep import swept as swept_of


def load(path: str | Path, overrides: Sequence[str] = (), study: str | None = None) -> Sweep:
    """A sweep file, read and checked; composes nothing (`cells` does).

    Args:
        path: the file, or a name of sweeps/.
        overrides: settings (`scale=nano`) that hold for every cell; study=NAME names the study.
        study: the study's name, instead of the file's.

    Raises:
        ConfigError: one line that names the file and the key.
    """
    found = lookup.find(path)
    return read(found, lookup.read(found), overrides, study)


def read(path: Path, raw: Mapping[str, Any], overrides: Sequence[str] = (), study: str | None = None) -> Sweep:
    """The sweep of a file's content.

    Raises:
        ConfigError: one line that names the file and the key.
    """
    try:
        return _sweep(path, raw, overrides, study)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def with_seeds(sweep: Sweep, count: int) -> Sweep:
    """The sweep over `count` values of its pairing setting: the file's first ones, then the next whole numbers.

    Raises:
        ConfigError: the sweep is not a grid, or its pairs are no whole numbers.
    """
    pair = sweep.design.pair
    if count < 1:
        raise ConfigError(f"--seeds must be 1 or more, not {count}")
    if sweep.design.looks is not None:
        raise ConfigError(
            f"{sweep.path}: gpt_lab.seeds says how many seeds: change it there, or take it out for --seeds"
        )
    if sweep.method != "grid":
        raise ConfigError(f"--seeds is for grids: a {sweep.method} sweep makes run_cap runs")
    values = list(sweep.design.values.get(pair, ()))[:count]
    if not all(is_whole(value) for value in values):
        raise ConfigError(f"--seeds needs whole numbers as values of {pair}")
    fresh = max(values, default=-1)
    while len(values) < count:
        fresh += 1
        values.append(fresh)
    changed = {**sweep.content["parameters"], pair: {"values": values}}
    return read(sweep.path, {**sweep.content, "parameters": changed}, sweep.overrides, sweep.design.study)


def restore(
    path: Path,
    content: Mapping[str, Any],
    design: Design,
    method: Method,
    overrides: Sequence[str],
    run_cap: int | None,
) -> Sweep:
    """The sweep that a ledger keeps, with the design that it ran by.

    Of a file that can no longer be read, because it names a part that is gone, the design alone is left.
    """
    try:
        found = parameters.read(content["parameters"])
        tune = tune_block.read(content, swept_of(found), found, overrides)
        return _typed(path, content, design, found, tune, overrides, run_cap)
    except ConfigError:
        return Sweep(path, design, method, overrides=tuple(overrides), run_cap=run_cap, content=content)


def fixed(sweep: Sweep) -> tuple[str, ...]:
    """The overrides that every cell has: of the command, of parameters with one value, of the command line; study."""
    given = [text for text in sweep.overrides if key_of(text) != "study"]
    named = {key_of(text) for text in given}
    budget = any(key.startswith("budget.") for key in named)
    before = [f"match={sweep.match}"] if sweep.match else []
    before += sweep.command
    before += [override(p.name, p.values[0]) for p in sweep.parameters.values() if not p.swept]
    lifted = [
        text
        for text in before
        if key_of(text) != "study" and key_of(text) not in named and not (budget and key_of(text).startswith("budget."))
    ]
    return (*lifted, *given, f"study={sweep.design.study}")


def override(name: str, value: Any) -> str:
    """One setting as a word of train's command line that reads back as the same value."""
    text = shown(value) if not isinstance(value, list) else "[" + ",".join(_quoted(item) for item in value) + "]"
    return f"{name}={_quoted(value) if isinstance(value, str) else text}"


def _quoted(value: Any) -> str:
    return word(value) if isinstance(value, str) else shown(value)


def _sweep(path: Path, raw: Mapping[str, Any], overrides: Sequence[str], study: str | None) -> Sweep:
    layout.check(path, raw)
    method, block = raw["method"], raw.get("gpt_lab", {})
    raw = sequential_seeds.with_pairs(raw, block)
    found = parameters.read(raw["parameters"])
    swept = swept_of(found)
    if not swept:
        raise ConfigError("no parameter is swept: give one of them values: [...]")
    _refuse_clashes(raw, overrides, swept, found)
    trunk_block.check(block, tuple(swept))
    design, tune = _design(path, raw, block, found, overrides, study)
    sweep = _typed(path, raw, design, found, tune, overrides, _run_cap(raw, method))
    distributions.check(swept)
    if method != "grid":
        return sweep
    if any(p.probabilities for p in swept.values()):
        raise ConfigError("probabilities are for method: random")
    values = sweep.combinations()
    arms = {design.arm(row) for row in values}
    arm = next((arm for row in values if (arm := design.reference(row)) is not None and arm not in arms), None)
    if arm is not None:
        raise ConfigError(f"gpt_lab.baseline {arm} is none of the arms: zip, per or exclude leaves it out")
    factorial_block.check_complete(design, {design.arm(row) for row in values})
    return dataclasses.replace(sweep, design=sequential_seeds.designed(design, block, values, sweep.run_cap))


def _typed(
    path: Path,
    raw: Mapping[str, Any],
    design: Design,
    found: Mapping[str, Parameter],
    tune: tune_block.TuneBlock | None,
    overrides: Sequence[str],
    run_cap: int | None,
) -> Sweep:
    """The fields of a sweep from a file's content, of which these are checked already."""
    block = raw.get("gpt_lab") or {}
    early = early_terminate.read(raw, tuned=bool(design.nuisance))
    rules = grid.rules(block, swept_of(found))
    if design.factorial and design.baseline is not None:
        rules = dataclasses.replace(rules, words=design.factorial, low=design.baseline)
    return Sweep(
        path=path,
        design=design,
        method=raw["method"],
        parameters=found,
        rules=rules,
        tune=tune,
        trunk=bool(block.get("trunk")),
        match=block.get("match"),
        command=tuple(command_settings(raw.get("command"))),
        target=(raw.get("metric") or {}).get("target"),
        early_terminate=early,
        overrides=tuple(overrides),
        run_cap=run_cap,
        content=raw,
    )


def _design(
    path: Path,
    raw: Mapping[str, Any],
    block: Mapping[str, Any],
    found: Mapping[str, Parameter],
    overrides: Sequence[str],
    study: str | None,
) -> tuple[Design, tune_block.TuneBlock | None]:
    swept, method = swept_of(found), raw["method"]
    pair = block.get("pair", "seed")
    if "pair" in block:
        grid.swept_key("gpt_lab.pair", pair, swept)
        if not draws_again(pair):
            raise ConfigError(f"gpt_lab.pair takes what draws a run again ({', '.join(SEEDS)}), not {pair}")
    if method == "bayes":
        if pair in swept:
            raise ConfigError(f"{pair} cannot be swept by bayes, which would choose the luckiest: give it one value")
        if any(p.probabilities for p in swept.values()):
            raise ConfigError("probabilities are for method: random")
    nuisance = _nuisance(block, swept, pair)
    drawn = [name for name, p in swept.items() if p.drawn and method != "grid" and name not in (pair, *nuisance)]
    nuisance = tuple(name for name in swept if name in nuisance or name in drawn)
    tune = tune_block.read(raw, swept, found, overrides)
    if tune is not None:
        nuisance = tuple(one.key for one in tune.keys)
    factors = tuple(name for name in swept if name not in (pair, *nuisance))
    within = grid.within(block, factors)
    values = {name: grid.listed(p) if method == "grid" else p.values for name, p in swept.items()}
    metric, goal = _metric(raw, needed=method == "bayes" or "early_terminate" in raw)
    name = study_name.read(path, raw, _text("study", block), found, overrides, study)
    baseline = _baseline(block, factors, within, swept)
    design = Design(
        study=name,
        question=_text("question", block),
        metric=metric,
        goal=goal,
        pair=pair,
        factors=factors,
        within=within,
        nuisance=nuisance,
        baseline=baseline,
        family=_text("family", block) or name,
        sesoi=_number("sesoi", block, lambda x: 0 < x < math.inf, "above 0"),
        alpha=_number("alpha", block, lambda x: 0 < x < 1, "between 0 and 1") or 0.05,
        values=values,
        factorial=factorial_block.generator_words(block, factors, values, baseline),
        tuning_pairs=() if tune is None else tune.pairs,
    )
    return design, tune


def _refuse_clashes(
    raw: Mapping[str, Any], overrides: Sequence[str], swept: Mapping[str, Parameter], found: Mapping[str, Parameter]
) -> None:
    """One setting must come from one place."""
    for text in overrides:
        key = key_of(text)
        if "=" not in text or text.startswith("-"):
            raise ConfigError(f"{quoted(text)} is no setting: write key=value, such as scale=nano or budget.steps=100")
        if key in parameters.NEVER:
            raise ConfigError(f"{text}: {key} cannot be set in a sweep: {parameters.NEVER[key]}")
        if key in swept:
            which = "the number of seeds is --seeds N" if key == "seed" else f"change parameters.{key} in the file"
            raise ConfigError(f"{text}: {key} is what the file sweeps, so no override can fix it: {which}")
    stated = [key_of(text) for text in command_settings(raw.get("command"))]
    if "match" in (block := raw.get("gpt_lab", {})):
        if block["match"] not in ("params", "flops"):
            raise ConfigError(unknown("value of gpt_lab.match:", block["match"], ("params", "flops")))
        if "match" in found or "match" in stated:
            raise ConfigError("match is set in gpt_lab and in parameters or command: one of them")
    for text in command_settings(raw.get("command")):
        if key_of(text) in found and key_of(text) != "study":
            raise ConfigError(f"{key_of(text)} is set in command and in parameters: one of them")


def _nuisance(block: Mapping[str, Any], swept: Mapping[str, Parameter], pair: str) -> tuple[str, ...]:
    stated = block.get("nuisance", [])
    if not isinstance(stated, list):
        raise ConfigError(
            f"gpt_lab.nuisance must be a list of parameters, not {quoted(stated)}: write [{cut(str(stated))}]"
        )
    for name in stated:
        grid.swept_key("gpt_lab.nuisance", name, swept)
        if name == pair:
            raise ConfigError(
                f"gpt_lab.nuisance: {name} pairs the runs and cannot be tuned: that would pick the luckiest"
            )
    return tuple(stated)


def _baseline(
    block: Mapping[str, Any], factors: tuple[str, ...], within: tuple[str, ...], swept: Mapping[str, Parameter]
) -> dict[str, Any] | None:
    if "baseline" not in block:
        return None
    stated = layout.mapping("gpt_lab.baseline", block["baseline"])
    values = {}
    for key, value in stated.items():
        if key not in factors:
            raise ConfigError(unknown("factor in gpt_lab.baseline:", key, factors))
        if key in within:
            raise ConfigError(f"gpt_lab.baseline: {key} is in gpt_lab.within, so each of its values has a baseline")
        values[key] = grid.one_of("gpt_lab.baseline", key, value, swept)
    missing = [key for key in factors if key not in values and key not in within]
    if missing:
        raise ConfigError(
            f"gpt_lab.baseline must name one arm: {missing[0]} is missing (a baseline for each of its values: "
            f"gpt_lab.within: [{missing[0]}])"
        )
    return {key: values[key] for key in factors if key in values}


def _metric(raw: Mapping[str, Any], needed: bool) -> tuple[str, Any]:
    if "metric" not in raw:
        if needed:
            raise ConfigError(f"metric is missing: write metric: {{name: {metrics.HEADLINE}, goal: minimize}}")
        return metrics.HEADLINE, "minimize"
    stated = raw["metric"]
    for key in stated:
        if key not in layout.METRIC:
            raise ConfigError(unknown("key of metric:", key, layout.METRIC))
    target = stated.get("target", 0)
    if not is_number(target) or not math.isfinite(target):
        raise ConfigError(f"metric.target must be a finite number, not {quoted(target)}")
    name = stated.get("name")
    row = metrics.find(str(name))
    if row is None or row.goal is None:
        raise ConfigError(unknown("metric name", name, (*metrics.DECIDING, f"{metrics.EVAL}TASK")))
    usual = row.goal
    goal = stated.get("goal", "minimize")
    if goal not in ("minimize", "maximize"):
        raise ConfigError(unknown("metric goal", goal, ("minimize", "maximize")))
    if goal != usual:
        raise ConfigError(
            f"metric.goal of {name} must be {usual}, not {goal}: write metric: {{name: {name}, goal: {usual}}}"
        )
    return str(name), goal


def _run_cap(raw: Mapping[str, Any], method: str) -> int | None:
    cap = raw.get("run_cap")
    if "run_cap" in raw and (not is_whole(cap) or cap < 1):
        raise ConfigError(f"run_cap must be a whole number above 0, not {quoted(cap)}")
    if cap is not None and cap > grid.LARGEST:
        raise ConfigError(f"run_cap must be at most {grid.LARGEST:,}, not {cap:,}")
    if cap is None and method != "grid":
        raise ConfigError(f"method: {method} has no end of its own: say how many runs with run_cap: N")
    return cap


def _text(key: str, block: Mapping[str, Any]) -> str:
    value = block.get(key, "")
    if not isinstance(value, str) or (key in block and not value.strip()):
        raise ConfigError(f"gpt_lab.{key} must be text, not {quoted(value)}")
    return value.strip()


def _number(key: str, block: Mapping[str, Any], holds: Any, range_: str) -> float | None:
    if key not in block:
        return None
    value = block[key]
    if isinstance(value, str):
        parameters.refuse_number_text(f"gpt_lab.{key}", value)
    if not is_number(value) or not holds(value):
        raise ConfigError(f"gpt_lab.{key} must be a number {range_}, not {quoted(value)}")
    return float(value)
