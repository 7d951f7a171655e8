"""The command `noise`: trains the missing null pairs and prints the noise."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from gpt_lab import metrics
from gpt_lab.console.invocation import prefix
from gpt_lab.errors import ConfigError, DataError, unknown
from gpt_lab.noise import null_pairs, records
from gpt_lab.noise.null_pairs import Recipe
from gpt_lab.noise.records import Noise
from gpt_lab.plan import run_time
from gpt_lab.study import cells, sweep_file

PAIRS = 5
"""Null pairs unless somebody says otherwise: sd to within a factor of 0.6 to 2.9 (4 degrees of freedom)."""
SEEDS = (3, 5, 10)
"""Numbers of seeds whose smallest detectable effect is shown."""
PLAIN: dict[str, Any] = {"markup": False, "highlight": False, "soft_wrap": True}


def measure(
    console: Console,
    file: str | None,
    overrides: Sequence[str],
    pairs: int | None,
    jobs: int | None,
    threads: int | None,
) -> int:
    """Trains what is missing of `pairs` null pairs, and prints the noise floor.

    Args:
        file: a sweep file whose baseline is meant; None: the settings alone. overrides: `key=value` of train.
        pairs: that there shall be in the end; None: PAIRS, or what there is if that is more.

    Returns:
        as runner.run_sweep; 1 if too few pairs ended well.

    Raises:
        ConfigError: no recipe to measure, settings that no run could have. LabError: the folder cannot be written.
    """
    if pairs is not None and pairs < records.FEWEST:
        raise ConfigError(f"--seeds {pairs}: {records.FEWEST} null pairs are the fewest that tell anything")
    recipe = recipe_of(file, overrides)
    if recipe.metric.startswith(records.OF_THE_MACHINE):
        raise ConfigError(f"{recipe.metric} measures the machine as well: its noise is not kept")
    resolved = _resolved(recipe)
    there = _of_this_machine(recipe, resolved)
    seeds = list(there.seeds) if there is not None else []
    fresh = null_pairs.missing(recipe, seeds, pairs or max(PAIRS, len(seeds)))
    status = 0
    if fresh:
        from gpt_lab.sweep import runner

        status = runner.run_sweep(null_pairs.null_sweep(recipe, sorted([*seeds, *fresh])), console, jobs, threads)
        if status >= 128:
            return status
    else:
        console.print(f"{recipe.folder} has {len(seeds)} null pairs: nothing to run", **PLAIN)
    found = _of_this_machine(recipe, resolved)
    if found is None or not found.usable:
        whole = 0 if found is None else found.pairs
        same = " that differ" if found is not None and found.pairs >= records.FEWEST else ""
        raise DataError(
            f"{recipe.folder} has {whole} finished null pairs, and {records.FEWEST}{same} are the fewest that tell "
            f"anything: `{prefix()}report {recipe.folder}` says what became of them"
        )
    show(console, found)
    return status


def recipe_of(file: str | None, overrides: Sequence[str]) -> Recipe:
    """What the command line means.

    Raises:
        ConfigError: it means no recipe.
    """
    if file is None:
        return null_pairs.of_settings(overrides)
    settings, chosen = null_pairs.split(file, overrides)
    return null_pairs.of_sweep(sweep_file.load(file, settings), chosen)


def show(console: Console, found: Noise) -> None:
    """The noise floor: its numbers, what can be detected above it, what it costs."""
    from gpt_lab.stats import power_analysis

    low, high = found.interval()
    unit, each = found.metric, 2 * found.seconds
    rho = "unknown" if math.isnan(found.rho) else f"{found.rho:.2f}"
    whose = found.settings or "the default settings"
    lines = [
        f"noise floor in {unit}: {found.pairs} null pairs of {found.folder} ({whose})",
        f"  sd of a run over seeds          {found.run_sd:.4f}",
        f"  sd of a null pair's difference  {found.sd:.4f}, 95 % {low:.4f} to {high:.4f}",
        f"  correlation of a pair           {rho}",
    ]
    if found.diverged:
        lines.append(f"  {found.diverged} runs diverged: these are the numbers of those that did not")
    lines.append("one arm that varies as much is called better (power 80 %) from a true difference beyond sesoi of:")
    for count in SEEDS:
        size = found.sd * power_analysis.detectable(count)
        cost = f" (about {run_time.shown(count * each)} of training)" if each > 0 else ""
        lines.append(f"  {count:2d} seeds  {size:.4f}{cost}")
    lines.append(f"a margin from this noise, to be written down before the first run: sesoi: {found.sd / 2:.2g}")
    lines.append(f"{_origin(found)}; studies with this baseline use it by themselves")
    for line in lines:
        console.print(line, **PLAIN)


def show_all(console: Console, overrides: Sequence[str], metric: str | None) -> int:
    """Prints what the folder of runs knows. Returns 0.

    Args:
        overrides: at most `runs_dir=DIR`.
        metric: whose noise; None: val/bpb, and val/loss of runs without it.
    """
    runs_dir = cells.composer().tree(list(overrides))["runs_dir"]
    asked = metric or metrics.HEADLINE
    if asked not in metrics.DECIDING or asked.startswith(records.OF_THE_MACHINE):
        kept = [name for name in metrics.DECIDING if not name.startswith(records.OF_THE_MACHINE)]
        raise ConfigError(unknown("metric", asked, kept))
    found = records.everything(runs_dir, asked)
    if metric is None:
        have = {one.folder for one in found}
        found += [one for one in records.everything(runs_dir, metrics.WITHOUT_TEXT) if one.folder not in have]
    if not found:
        console.print(f"{runs_dir} knows no noise yet: `{prefix()}noise SWEEP` measures a baseline's", **PLAIN)
        return 0
    table = Table(title=f"Noise floors in {runs_dir}", title_justify="left")
    table.add_column("recipe", overflow="fold")
    for heading in ("metric", "pairs", "run sd", "null sd", "95 %", "rho"):
        table.add_column(heading, justify="right", no_wrap=heading != "95 %")
    table.add_column("made", overflow="fold")
    for one in found:
        table.add_row(*_row(one))
    console.print(table)
    return 0


def _row(one: Noise) -> list[str]:
    ends = "–"
    if one.df >= 1:
        low, high = one.interval()
        ends = f"{low:.4f} to {high:.4f}"
    numbers = [_shown(value, places) for value, places in ((one.run_sd, 4), (one.sd, 4), (one.rho, 2))]
    lost = f" ({one.diverged} runs diverged)" if one.diverged else ""
    return [
        f"{one.folder.name}: {one.settings or 'the default settings'}{lost}",
        one.metric,
        f"{one.pairs}{'' if one.usable else ' (too few)'}",
        *numbers[:2],
        ends,
        numbers[2],
        _origin(one),
    ]


def _shown(value: float, places: int) -> str:
    return "–" if math.isnan(value) else f"{value:.{places}f}"


def _origin(one: Noise) -> str:
    """When, on what, with which code."""
    days = list(dict.fromkeys(time[:10] for time in (one.first, one.last) if time))
    how = ", ".join(str(one.resolved[key]) for key in ("device", "precision", "kernel") if one.resolved.get(key))
    parts = (" to ".join(days), ", ".join(one.machines), how, f"code {', '.join(one.commits)}" if one.commits else "")
    return "; ".join(part for part in parts if part)


def _of_this_machine(recipe: Recipe, resolved: Mapping[str, Any]) -> Noise | None:
    """The null pairs as this machine computes them, usable or not."""
    every = (one for metric in recipe.metrics for one in records.measured(recipe.folder, metric, recipe.taken))
    return next((one for one in every if one.resolved == dict(resolved)), None)


def _resolved(recipe: Recipe) -> dict[str, str]:
    """What `auto` becomes here. Imports torch; builds shards that are missing."""
    from gpt_lab.data.dataset import open_dataset
    from gpt_lab.train.resolve_auto import check_size, resolve

    check_size(recipe.cfg)
    return resolve(recipe.cfg, open_dataset(recipe.cfg)).resolved
