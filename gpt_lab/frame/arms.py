"""Which arm and pair each run belongs to: by the sweep's cells, by the settings named, or by those that differ.

Works on plain rows (frame/sources/source.py), before any table is made, so that mistakes show at once.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gpt_lab import metrics
from gpt_lab.config import schema
from gpt_lab.console.lines import count_of, some
from gpt_lab.errors import ConfigError, unknown
from gpt_lab.frame.places import StudyOptions
from gpt_lab.frame.sources import source
from gpt_lab.frame.sources.source import Wanted, row
from gpt_lab.options import constant, is_number
from gpt_lab.study.arm_names import find_arm
from gpt_lab.study.design import SEEDS, Design, draws_again, join, shown
from gpt_lab.study.sweep import Sweep

Rows = list[dict[str, Any]]
ALIKE = 1e-3
"""Relative difference of two results of the same settings that another order of additions explains."""
_NOWHERE = object()
"""Stands for the value of a setting that a run does not have."""


@dataclass
class Arranged:
    """Rows with arm, tuning and pair; one per run, missing ones included."""

    design: Design
    rows: Rows
    notes: list[str] = field(default_factory=list)


def arrange(
    rows: Rows, wanted: Sequence[Wanted] | None, sweep: Sweep | None, options: StudyOptions, name: str
) -> Arranged:
    """Gives every run its arm, its tuning and its pair.

    Args:
        wanted: what the sweep asked for, where its cells are known; each becomes a row.
        sweep: where the comparison is stated; without one the settings that differ make the arms.
        name: of the study, where no sweep names it.

    Raises:
        ConfigError: a setting, metric or baseline that does not exist; the line offers those that do.
    """
    settings = _settings(rows, wanted or ())
    for what, key in (*(("setting", key) for key in options.group_by), ("setting that pairs runs", options.pair)):
        allowed = settings if what == "setting" else [one for one in settings if draws_again(one)]
        if key is not None and key not in allowed:
            raise ConfigError(unknown(what, key, allowed))
    if sweep is None:
        found = _by_settings(rows, options, name)
    else:
        design, also = _overridden(sweep.design, options)
        if wanted is None:
            found = _by_values(rows, sweep, design, also)
        else:
            found = _by_cells(rows, wanted, design, also)
    found.rows = _without_doubles(found)
    design = _judged(found, options)
    found.design = dataclasses.replace(design, baseline=_baseline(found, design, options.baseline))
    return found


def setting(config: Mapping[str, Any], key: str) -> Any:
    """Value of a setting in a flat config; a group's name means its choice. None if the run has no such setting."""
    return config.get(key, config.get(f"{key}.name"))


def identity(r: dict[str, Any]) -> str:
    """schema.identity of a run's settings, kept in the row; its name where it has none."""
    if "identity" not in r:
        r["identity"] = schema.identity(r["config"]) if r["config"] else r["run"]
    return str(r["identity"])


def _settings(rows: Rows, wanted: Iterable[Wanted]) -> set[str]:
    keys = {key for r in rows for key in r["config"]} | {key for w in wanted for key in w.values}
    return keys | {key.removesuffix(".name") for key in keys if key.endswith(".name")}


def _overridden(design: Design, options: StudyOptions) -> tuple[Design, tuple[str, ...]]:
    """The design with the user's arms and pair, and the swept settings that are then averaged within a pair."""
    if not options.group_by and options.pair in (None, design.pair):
        return design, ()
    if design.looks is not None:
        raise ConfigError("seeds were added until this sweep's own arms were decided: leave --group-by and --pair out")
    pair = options.pair or design.pair
    swept = [key for key in (*design.factors, *design.nuisance, design.pair) if key != pair]
    if options.group_by:
        factors = options.group_by
    else:
        factors = tuple(key for key in swept if key not in design.nuisance and key not in SEEDS)
    nuisance = tuple(key for key in design.nuisance if key not in factors and key != pair)
    also = tuple(key for key in swept if key not in factors and key not in nuisance)
    within = tuple(key for key in design.within if key in factors)
    compared = [key for key in factors if key not in within]
    same = design.baseline is not None and set(compared) <= set(design.baseline)
    baseline = {key: design.baseline[key] for key in compared} if same and design.baseline else None
    stated = design.factorial if set(factors) == set(design.factors) else None
    changes: dict[str, Any] = {
        "factors": factors,
        "within": within,
        "nuisance": nuisance,
        "pair": pair,
        "baseline": baseline,
        "factorial": stated,
        "tuning_pairs": design.tuning_pairs if pair == design.pair and nuisance == design.nuisance and not also else (),
    }
    return dataclasses.replace(design, **changes), also


def _by_cells(rows: Rows, wanted: Sequence[Wanted], design: Design, also: tuple[str, ...]) -> Arranged:
    """Rows joined to the cells by folder, else by identity; a cell without a run becomes a row of its own."""
    by_run = {w.run: w for w in wanted if w.run is not None}
    by_identity = {w.identity: w for w in reversed(wanted)}
    joined: dict[str, Rows] = {w.key: [] for w in wanted}
    strays = 0
    for r in rows:
        cell = by_run.get(r["run"]) or by_identity.get(identity(r))
        if cell is None:
            strays += 1
        else:
            joined[cell.key].append(r)
    found = Arranged(design, [])
    lost = 0
    for cell in wanted:
        group = joined[cell.key] or [_missing(cell, design)]
        for r in group:
            values = _Values(cell.values, r["config"])
            if r["state"] == "missing" and not all(values.known(key) for key in design.factors):
                lost += 1
                continue
            _place(r, design, values, also)
            _take_ledger_state(r, cell)
            found.rows.append(r)
    if also:
        found.notes.append(_averaged(design.pair, also))
    if strays:
        found.notes.append(f"{count_of(strays, 'run')} in the folder that match no cell of the sweep: left out")
    if lost:
        found.notes.append(
            f"{count_of(lost, 'run')} that the sweep asked for are missing and could not be given to an arm"
        )
    return found


class _Values(dict[str, Any]):
    """Values of settings: the cell's own, else those of the run's config."""

    def __init__(self, values: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        super().__init__(values)
        self.config = config

    def __missing__(self, key: str) -> Any:
        return setting(self.config, key)

    def __contains__(self, key: object) -> bool:
        return True

    def known(self, key: str) -> bool:
        return super().__contains__(key) or key in self.config or f"{key}.name" in self.config


def _place(r: dict[str, Any], design: Design, values: Mapping[str, Any], also: tuple[str, ...]) -> None:
    r["arm"], r["tuning"] = design.arm(values), design.tuning(values)
    r["values"] = {key: values[key] for key in design.factors}
    own = values[design.pair]
    r["pair"], r["stratum"] = "" if own is None else shown(own), join(also, values)


def _missing(cell: Wanted, design: Design) -> dict[str, Any]:
    state, error = cell.state, cell.error
    if state == "finished":
        error = f"finished, but its folder {cell.run} is gone or unreadable"
    if state not in ("failed", "diverged", "pruned", "stopped"):
        state = "missing"
    return row(cell.run or f"missing:{cell.key}", "sweep", design.study, "", state, {}, {}, error=error)


def _take_ledger_state(r: dict[str, Any], cell: Wanted) -> None:
    """A runner knows more than the folder of a run that could not speak for itself: pruned, killed, out of memory."""
    own = {"failed": ("stopped", "failed"), "pruned": ("stopped", "failed", "finished")}.get(cell.state, ())
    if r["state"] in own and cell.run in (None, r["run"]):
        r["state"], r["error"] = cell.state, cell.error or r["error"]


def _by_values(rows: Rows, sweep: Sweep, design: Design, also: tuple[str, ...]) -> Arranged:
    """Rows of a sweep whose cells were drawn: those that agree with the values that the file fixes.

    Raises:
        ConfigError: the sweep is a ledger's, of settings that are no longer there.
    """
    if not sweep.parameters:
        raise ConfigError(f"{sweep.path}: the sweep that its ledger keeps names settings that are no longer there")
    fixed = {
        name: parameter.values[0]
        for name, parameter in sweep.parameters.items()
        if not parameter.swept and name.split(".")[0] not in schema.NOT_IDENTITY
    }
    if sweep.match and not sweep.overrides:
        fixed["match"] = sweep.match
    found = Arranged(design, [])
    for r in rows:
        if all(_same(setting(r["config"], key), value) for key, value in fixed.items()):
            _place(r, design, _Values({}, r["config"]), also)
            found.rows.append(r)
    if len(found.rows) < len(rows):
        strays = count_of(len(rows) - len(found.rows), "run")
        found.notes.append(f"{strays} in the folder with other fixed settings than the sweep's: left out")
    return found


def _same(a: Any, b: Any) -> bool:
    return a == b or (a is not None and b is not None and shown(a) == shown(b))


def _by_settings(rows: Rows, options: StudyOptions, name: str) -> Arranged:
    """Arms by the settings named, else by those that differ; what else differs is averaged within a pair."""
    pair = options.pair or "seed"
    different = _different(rows)
    factors = options.group_by or tuple(k for k in _independent(rows, different) if k != pair and k not in SEEDS)
    factors = factors if options.group_by else _without_sizes(rows, factors)
    others = different if not options.group_by else _independent(rows, different)
    also = tuple(k for k in others if k not in factors and k != pair and (k in SEEDS or options.group_by))
    studies = sorted({r["study"] for r in rows})
    values = {key: tuple(_distinct(setting(r["config"], key) for r in rows)) for key in factors}
    design = Design(
        study=name, pair=pair, factors=factors, values=values, question=f"How do the runs of {name} compare?"
    )
    found = Arranged(design, rows)
    for r in rows:
        _place(r, design, _Values({}, r["config"]), also)
    if len(studies) > 1:
        found.notes.append(f"runs of {len(studies)} studies together: {', '.join(studies)}")
    if factors and not options.group_by:
        found.notes.append(f"no sweep file: arms are the settings that differ ({', '.join(factors)})")
    if options.group_by and also:
        found.notes.append(_averaged(pair, also))
    return found


def _averaged(pair: str, also: Sequence[str]) -> str:
    return f"averaged within a {pair} over {', '.join(also)}: the {pair}s are counted, not the runs"


def _different(rows: Rows) -> list[str]:
    """Settings that change a result and whose values are not the same in all runs, group choices by their group."""
    columns = source.columns([r["config"] for r in rows], _NOWHERE)
    different = [key for key in columns if key.split(".")[0] not in schema.NOT_IDENTITY and _differs(columns[key])]
    return [key.removesuffix(".name") for key in different]


def _differs(values: Sequence[Any]) -> bool:
    """Whether the runs have not all the same value of a setting, or some none; 1 and 1.0 are one, 1 and true two."""
    if constant(values):
        return False
    seen = {(isinstance(value, bool), value) if value.__hash__ else repr(value) for value in values}
    return len(seen) > 1


def _independent(rows: Rows, keys: Sequence[str]) -> list[str]:
    """Without the options that follow from their group's choice: each optimizer has its own betas."""

    def follows(key: str) -> bool:
        group = next((one for one in keys if key.startswith(f"{one}.")), None)  # a group, or a letter's part
        if group is None:
            return False
        values: dict[Any, set[str]] = {}
        for r in rows:
            values.setdefault(setting(r["config"], group), set()).add(repr(r["config"].get(key)))
        return all(len(found) == 1 for found in values.values())

    return [key for key in keys if not follows(key)]


def _without_sizes(rows: Rows, keys: tuple[str, ...]) -> tuple[str, ...]:
    """Without what `match` made of the other settings: sizes and their target, where those tell the runs apart."""
    found = tuple(key for key in keys if not _idle(key, rows))
    if "match" not in found and not any(r["config"].get("match") for r in rows):
        return found
    kept = tuple(key for key in found if key not in (*schema.MATCHED, "match_to"))
    made: dict[str, set[str]] = {}
    for r in rows:
        own = {key: setting(r["config"], key) for key in found}
        made.setdefault(join(kept, own), set()).add(join(found, own))
    return kept if kept and all(len(several) == 1 for several in made.values()) else found


def _idle(key: str, rows: Rows) -> bool:
    """Whether a key that came later changes nothing in any run: older runs lack it."""
    return key in schema.LATER and all(r["config"].get(key) in (None, schema.LATER[key]) for r in rows)


def _distinct(values: Iterable[Any]) -> list[Any]:
    """Each value once, numbers in their order, others as they came."""
    found = list({shown(value): value for value in values}.values())
    numbers = all(is_number(value) for value in found)
    return sorted(found) if numbers else found


def _without_doubles(found: Arranged) -> Rows:
    """One run per arm, tuning, pair and identity: the latest finished one, else the latest."""
    places = [(r["arm"], r["tuning"], r["pair"], r["stratum"]) for r in found.rows]
    held = Counter(places)
    if len(held) == len(places):
        return found.rows
    groups: dict[tuple[Any, ...], Rows] = {}
    for place, r in zip(places, found.rows, strict=True):
        key = (*place, identity(r)) if held[place] > 1 else place
        groups.setdefault(key, []).append(r)

    def rank(r: dict[str, Any]) -> tuple[bool, str, str]:
        return r["state"] == "finished", str(r["env"].get("finished") or r["env"].get("started") or ""), r["run"]

    double = [group for group in groups.values() if len(group) > 1]
    for group in double:
        results = sorted({value for r in group if (value := _result(r, found.design.metric)) is not None})
        if len(results) > 1 and results[-1] - results[0] > ALIKE * abs(results[-1]):
            shown_ = " and ".join(f"{value:.6g}" for value in (results[0], results[-1]))
            for r in group:
                r["conflict"] = f"runs of the same settings end with {shown_}"
    if double:
        left_out = sum(len(group) - 1 for group in double)
        names = some([max(group, key=rank)["run"] for group in double], 3)
        said = count_of(left_out, "run")
        found.notes.append(f"{said} with the same settings as another left out: the latest finished counts ({names})")
    return [max(group, key=rank) for group in groups.values()]


def _result(r: Mapping[str, Any], metric: str) -> float | None:
    value = r["summary"].get(metric) if r["state"] == "finished" else None
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _judged(found: Arranged, options: StudyOptions) -> Design:
    """The design with the user's metric, goal, smallest effect and alpha.

    Raises:
        ConfigError: no finished run has the metric.
    """
    finished = [r for r in found.rows if r["state"] == "finished"]
    measured = {key for r in finished for key in r["summary"]}
    changes: dict[str, Any] = {
        key: value for key in ("metric", "goal", "sesoi", "alpha") if (value := getattr(options, key)) is not None
    }
    metric = options.metric or found.design.metric
    if options.metric is not None and options.goal is None:
        changes["goal"] = metrics.goal(metric)
    usual, row = metrics.goal(metric), metrics.find(metric)
    if row is not None and row.goal is not None and changes.get("goal", usual) != usual:
        word = {"minimize": "lower", "maximize": "higher"}[usual]
        raise ConfigError(f"--goal {changes['goal']} is against {metric}, of which {word} is better: leave --goal out")
    instead = metrics.WITHOUT_TEXT
    if (
        options.metric is None
        and metric == metrics.HEADLINE
        and measured
        and metric not in measured
        and instead in measured
    ):
        changes["metric"] = metric = instead
        reasons = (text for r in finished for key in ("lossy", "measure") if (text := r["env"].get(key)))
        reason = next(reasons, "its data is no text")
        found.notes.append(f"no run has {metrics.HEADLINE} ({reason}): {instead} decides")
    if measured and metric not in measured:
        raise ConfigError(unknown("metric", metric, measured))
    return dataclasses.replace(found.design, **changes)


def _baseline(found: Arranged, design: Design, asked: str | None) -> Mapping[str, Any] | None:
    """The settings of the arm that was asked for, as the runs have them; the design's own otherwise.

    Raises:
        ConfigError: no arm is meant, or several are.
    """
    if asked is None:
        return design.baseline
    whole = {r["arm"]: r["values"] for r in found.rows}
    compared = [{key: value for key, value in values.items() if key not in design.within} for values in whole.values()]
    arms = {design.arm(values): values for values in compared}
    return arms[find_arm(asked, arms, "baseline")]
