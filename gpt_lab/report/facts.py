"""Facts beside the verdicts: lost runs, floors, differences between arms, environment, commands."""

from __future__ import annotations

import contextlib
import math
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from gpt_lab import metrics
from gpt_lab.analysis import wording
from gpt_lab.analysis.comparison import Comparison
from gpt_lab.config.schema import NOT_IDENTITY
from gpt_lab.console.invocation import prefix
from gpt_lab.errors import ConfigError
from gpt_lab.frame.study import Study
from gpt_lab.options import constant
from gpt_lab.study.design import Settings, shown
from gpt_lab.study.sweep import Sweep

MOST_LOST = 200
MOST_COMMANDS = 20
NEAR_FLOOR = 0.01
"""A run sits on a floor when its bits per byte are within this share of it."""
DIFFER = {
    "commit": "code version",
    "dirty": "uncommitted changes",
    "data": "corpus or tokenizer",
    "device": "device",
    "cpu": "CPU",
    "gpu": "GPU",
    "threads": "threads",
    "precision": "precision",
    "kernel": "attention kernel",
    "compile": "compilation",
    "loss": "chunks of the loss",
    "packages": "package versions",
}
"""Where runs of one comparison should agree."""
CHOSEN = {
    "data": ("data", "tokenizer"),
    "device": ("device",),
    "precision": ("precision",),
    "kernel": ("kernel",),
    "compile": ("compile",),
    "loss": ("chunked_loss",),
}
"""Settings whose comparison makes the runs differ there on purpose."""


@dataclass(frozen=True)
class Lost:
    """Runs of one arm that are not finished: their state, their tuning and pair, what went wrong."""

    state: str
    arm: Settings
    runs: tuple[Settings, ...]
    error: str

    def __str__(self) -> str:
        each = [run.texts for run in self.runs if run]
        one = {len(texts) for texts in each} == {1} and len({texts[0][0] for texts in each}) == 1
        runs = "; ".join(str(run) for run in self.runs if run)
        if one:
            runs = f"{each[0][0][0]} {', '.join(texts[0][1] for texts in each)}"
        where = f"{self.arm} ({runs})" if self.arm and runs else self.arm or runs or "the run"
        return f"{self.state}: {where}{f': {self.error}' if self.error else ''}"


def lost(study: Study) -> list[Lost]:
    """Every run that is not finished, those of an arm and of one reason together, those that need somebody first."""
    runs = study.runs[study.runs["state"] != "finished"]
    groups: dict[tuple[str, Settings, str], list[Settings]] = {}
    for state, arm, tuning, pair, error in zip(
        runs["state"], runs["arm"], runs["tuning"], runs["pair"], runs["error"], strict=True
    ):
        own = Settings((*tuning.given, *([(study.design.pair, pair)] if pair else [])))
        groups.setdefault((state, arm, error), []).append(own)
    found = [Lost(state, arm, tuple(names), error) for (state, arm, error), names in groups.items()]
    return sorted(found, key=lambda one: wording.NOT_FINISHED.index(one.state))


def counts(study: Study) -> str:
    """`15 runs: 12 finished, 2 missing, 1 diverged`."""
    states = Counter(study.runs["state"])
    parts = [f"{states[state]} {state}" for state in ("finished", *wording.NOT_FINISHED) if states[state]]
    total = len(study.runs)
    return f"{total} {'run' if total == 1 else 'runs'}: {', '.join(parts)}"


def lost_lines(study: Study, most: int = MOST_LOST) -> list[str]:
    """The runs that are not finished, by name, so that none is dropped silently.

    Args:
        most: lines, before a last one on the others.
    """
    found = lost(study)
    lines = [str(one) for one in found[:most]]
    if rest := sum(len(one.runs) for one in found[most:]):
        lines.append(f"and {rest} more runs that are not finished: runs.csv names them")
    return lines


def summary(comparison: Comparison, study: Study) -> list[str]:
    """How many runs the verdicts rest on, and how they were made."""
    design, noise = comparison.design, comparison.noise
    unit = metrics.unit(design.metric)
    margin = "no smallest effect size of interest stated"
    if comparison.sesoi is not None:
        margin = f"smallest effect size of interest {comparison.sesoi:.4g} {unit}"
    rules = (
        f"metric {design.metric} ({design.goal}), pairs by {design.pair}, {wording.percent(design.alpha)} intervals, "
        f"{margin}, verdicts corrected: {comparison.correction}; an interval is of its arm alone, so it can exclude 0 "
        "where the corrected verdict is undecided"
    )
    tiers = {row.tier for row in comparison.rows}
    lines = [counts(study), *([f"in all runs: {', '.join(same)}"] if (same := fixed(study)) else []), rules]
    lines += [*comparison.post_hoc, *(text for tier, text in wording.TIERS.items() if tier in tiers)]
    if noise is not None:
        lines.append(f"baseline against itself: an arm equal to it would get {wording.with_interval(noise)} {unit}")
    return lines


def floors(study: Study) -> list[str]:
    """Arms whose finished runs sit on an n-gram floor of the corpus: what they differ by may not be quality."""
    column = metrics.beside_floors(study.design.metric)
    if column not in study.runs:
        return []
    runs = study.runs[(study.runs["state"] == "finished") & study.runs[column].notna()]
    found = []
    above = runs[column] >= runs["floor_unigram"]
    if above.any():
        found.append(f"no better than counting single tokens (unigram floor): {_arms(runs, above)}")
    for order in metrics.FLOORS:
        floor = runs[f"floor_{order}"]
        near = ((runs[column] - floor).abs() <= NEAR_FLOOR * floor) & ~above
        if near.any():
            found.append(
                f"on the {order} floor of the corpus ({floor[near].median():.3f} bits per byte), where a short run may "
                f"measure how fast a plateau is left: {_arms(runs, near)}"
            )
    return found


def _arms(runs: pd.DataFrame, which: pd.Series) -> str:
    """`position=none (3 of 3 runs), ...`."""
    totals, hits = Counter(runs["arm"]), Counter(runs["arm"][which])
    return ", ".join(f"{arm or 'all'} ({hits[arm]} of {totals[arm]} runs)" for arm in totals if hits[arm])


def differences(study: Study) -> dict[str, dict[Settings, str]]:
    """Settings that differ between arms: key -> arm -> value (`a | b` where an arm has several); seeds left out."""
    runs = study.runs[study.runs["state"] != "missing"]
    arms = runs["arm"].tolist()
    names = list(dict.fromkeys(arms))
    found = {}
    for column in runs.columns:
        key = column.removeprefix("config.")
        if key == column or key.split(".")[0] in NOT_IDENTITY or key in (study.design.pair, "seed"):
            continue
        texts = _texts(runs[column])
        if len(set(texts)) < 2:
            continue
        values: dict[Settings, dict[str, None]] = {name: {} for name in names}
        for arm, text in dict.fromkeys(zip(arms, texts, strict=True)):
            values[arm][text] = None
        if len({frozenset(own) for own in values.values()}) > 1:
            found[key] = {arm: _several(list(own)) for arm, own in values.items()}
    return found


def _several(texts: Sequence[str]) -> str:
    more = f" | … ({len(texts)} values)" if len(texts) > 6 else ""
    return " | ".join(texts[:6]) + more


def _text(value: Any) -> str:
    """As on the command line; a setting that the run does not have is empty."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    return shown(value)


def _texts(column: pd.Series) -> list[str]:
    """`_text` of each value; of a setting that all runs share it is made once."""
    values = column.tolist()
    return [_text(values[0])] * len(values) if constant(values) else [_text(value) for value in values]


def environment(study: Study) -> dict[str, Counter[str]]:
    """Where the runs ran: what -> value -> number of runs. Runs that never began are left out."""
    runs = study.runs[study.runs["state"] != "missing"]
    found = {}
    for column in runs.columns:
        key = column.removeprefix("env.")
        if key != column and key not in ("command", "started", "finished", "lossy", "ends", "measure", "seen"):
            values = Counter(_texts(runs[column]))
            if set(values) != {"–"} and set(values) != {""}:
                found[key] = values
    return found


def disagreements(study: Study) -> list[str]:
    """Sentences on what differs between the runs that should not: code version, data, hardware, packages."""
    found = []
    everywhere = environment(study)
    for key in (key for key in DIFFER if key in everywhere):
        values = everywhere[key]
        known = Counter({value: number for value, number in values.items() if value not in ("–", "")})
        chosen = any(f.split(".")[0] in CHOSEN.get(key, ()) for f in (*study.design.factors, *study.design.nuisance))
        if len(known) > 1 and not chosen:
            found.append(f"runs differ in {DIFFER[key]}: {_versions(known) if key == 'packages' else _listed(known)}")
    return found


def _listed(values: Counter[str]) -> str:
    parts = [
        f"{value[:12] if len(value) == 40 else value} ({number} {'run' if number == 1 else 'runs'})"
        for value, number in values.most_common(4)
    ]
    return ", ".join(parts) + (f" and {len(values) - 4} more" if len(values) > 4 else "")


def _versions(values: Counter[str]) -> str:
    """Only the packages whose versions differ."""
    sets = [dict(part.rsplit(" ", 1) for part in text.split(", ") if " " in part) for text in values]
    names = dict.fromkeys(name for versions in sets for name in versions)
    parts = []
    for name in names:
        seen = list(dict.fromkeys(versions.get(name, "none") for versions in sets))
        if len(seen) > 1:
            parts.append(f"{name} {' and '.join(seen)}")
    return ", ".join(parts)


def remarks(comparison: Comparison, study: Study) -> list[str]:
    """All sentences below the table, each once: warnings with their arms, floors, disagreements, notes."""
    warned: dict[str, list[str]] = {}
    for row in comparison.rows:
        for text in row.warnings:
            warned.setdefault(text, []).append(str(row.arm) or "the runs")
    warnings = [f"{'; '.join(arms)}: {text}" for text, arms in warned.items()]
    found = [*warnings, *floors(study), *disagreements(study), *comparison.notes, *study.notes]
    return list(dict.fromkeys(found))


def _seeds(sweep: Sweep) -> list[str]:
    """`--seeds N` where the sweep ran with other seeds than its file states; [] where the file cannot tell."""
    from gpt_lab.study import sweep_file

    try:
        stated = sweep_file.load(sweep.path, sweep.overrides).design
    except ConfigError:
        return []
    mine, theirs = (list(one.values.get(one.pair, ())) for one in (sweep.design, stated))
    return [] if mine == theirs or sweep.design.looks is not None else ["--seeds", str(len(mine))]


def fixed(study: Study) -> list[str]:
    """`key=value` of what all runs share: budget, scale, data, tokenizer and what is not the default; no seeds."""
    from gpt_lab.config import composition, setting_names

    runs = study.runs[study.runs["state"] != "missing"]
    shared = {}
    for column in runs.columns:
        key = str(column).removeprefix("config.")
        if key == column or not len(runs) or key.split(".")[0] in NOT_IDENTITY:
            continue
        values = runs[column].tolist()
        text = _text(values[0])
        if text != "–" and (constant(values) or all(_text(value) == text for value in values)):
            shared[key] = text
    default = {key: _text(value) for key, value in composition.compose([]).flat().items()}
    chosen = {f"{group}.name": f"{group}={shared.get(f'{group}.name')}" for group in setting_names.GROUPS}
    usual = default
    if groups := [text for key, text in chosen.items() if key in shared and shared[key] != default.get(key)]:
        usual = {}
        with contextlib.suppress(ConfigError):  # a part of a package that is not installed here
            usual = {key: _text(value) for key, value in composition.compose(groups).flat().items()}
    compared = {factor.split(".")[0] for factor in (*study.design.factors, *study.design.nuisance)}
    found = []
    for key, value in shared.items():
        group, _, option = key.partition(".")
        if key in ("seed", "replica", "batch.seed", study.design.pair) or key in study.design.factors:
            continue
        if group == "tokenizer" and shared.get("data.name") == "synthetic":  # which makes its own symbols
            continue
        if option == "name" and group in setting_names.GROUPS:
            if group in ("scale", "data", "tokenizer") or value != default.get(key):
                found.append(f"{group}={value}")
        elif group == "budget" or (value != usual.get(key, default.get(key)) and group not in compared):
            found.append(f"{key}={value}")
    return found


def commands(study: Study, report: str) -> list[str]:
    """Command lines that repeat the study: its sweep and this report; without a sweep each run's own."""
    if (sweep := study.sweep) is not None:
        own = [prefix() + shlex.join(["sweep", str(sweep.path), *sweep.overrides, *_seeds(sweep)])]
    else:
        known = (text for text in study.runs.get("env.command", ()) if isinstance(text, str) and text)
        own = [f"{prefix()}{text}" for text in dict.fromkeys(known)]
    if len(own) > MOST_COMMANDS:
        own = [*own[:MOST_COMMANDS], f"# and {len(own) - MOST_COMMANDS} more: column env.command of runs.csv"]
    return [*own, *([report] if report else [])]
