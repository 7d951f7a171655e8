"""The content of a claim as plain data: the design, each arm's verdict, each run with its config and its score."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpt_lab import yamlfile
from gpt_lab.analysis import wording
from gpt_lab.analysis.comparison import Comparison, Row
from gpt_lab.claims import code
from gpt_lab.errors import ConfigError, DataError
from gpt_lab.frame import arms
from gpt_lab.frame.load import Loaded
from gpt_lab.frame.paired_scores import Paired, pair_up, references
from gpt_lab.frame.sources.source import ENVIRONMENT
from gpt_lab.report import facts
from gpt_lab.store import record
from gpt_lab.store.run import timestamp
from gpt_lab.study.design import Design, Settings

FORMAT = 3
"""Raised when claim.json changes its meaning."""
OF_THE_RUN = ("command", "started", "finished", "data")
"""Of ENVIRONMENT, what each run has of its own."""
NUMBERS = ("steps", "tokens", "flops", "seconds", "parameters", "parameters_non_embedding", "train_flops_per_token")
SEEDS = ("arm", "tuning", "pair", "counts", "state", "score", "difference", "identity", "run")


@dataclass(frozen=True)
class Content:
    """claim.json without its digests, and the text of the files that it names."""

    claim: dict[str, Any]
    files: Mapping[str, bytes]


def content(comparison: Comparison, study: Loaded, name: str, command: str) -> Content:
    """The claim of a comparison.

    Raises:
        ConfigError: no baseline, so nothing is claimed. DataError: a run whose settings are no config.
    """
    design = comparison.design
    if design.baseline_arm is None:
        raise ConfigError("no baseline is stated, so there is nothing to claim: choose one with --baseline")
    paired = pair_up(study.runs, design)
    environments: list[dict[str, Any]] = []
    configs: dict[str, bytes] = {}
    cells = [
        _cell(study, index, bool(paired.finished[index]), environments, configs) for index in range(len(study.runs))
    ]
    now = code.of_this_checkout()
    patch = code.patch() if now.dirty else b""
    files = {**configs, "seeds.csv": _seeds(cells, study.runs["arm"], paired, design)}
    if patch:
        files["code.diff"] = patch
    sweep = None
    if study.sweep is not None:
        from gpt_lab.sweep.ledger.sweep_text import readable

        files["sweep.yaml"] = readable(study.sweep).encode("utf-8", "replace")
        sweep = {"path": str(study.sweep.path), "overrides": list(study.sweep.overrides)}
    claim = {
        "format": FORMAT,
        "name": name,
        "made": timestamp(),
        "command": command,
        "answer": wording.answer(comparison),
        "design": {
            **{key: getattr(design, key) for key in ("study", "question", "metric", "goal", "pair", "family", "alpha")},
            "factors": list(design.factors),
            "nuisance": list(design.nuisance),
            "baseline": str(design.baseline_arm),
        },
        "sesoi": comparison.sesoi,
        "correction": comparison.correction,
        "noise": None if comparison.noise is None else dataclasses.asdict(comparison.noise),
        "run_sd": run_sd(paired),
        "arms": [_arm(row) for row in comparison.rows],
        "remarks": facts.remarks(comparison, study),
        "cells": cells,
        "sweep": sweep,
        "code": {"commit": now.commit, "dirty": now.dirty, "diff": "code.diff" if patch else None},
        "environment": {"made_on": {**record.machine(), "packages": record.packages()}, "runs": environments},
    }
    return Content(claim, files)


def run_sd(paired: Paired) -> float | None:
    """Standard deviation of one run over the pairs, the median of the arms; None with one run an arm."""
    arms = [scores[np.isfinite(scores)] for scores in paired.scores]
    deviations = [float(own.std(ddof=1)) for own in arms if len(own) > 1]
    return float(np.median(deviations)) if deviations else None


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys as a tree, the inverse of RunConfig.flat.

    Raises:
        DataError: a key is both a value and a section.
    """
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        *sections, last = key.split(".")
        at = tree
        for section in sections:
            at = at.setdefault(section, {})
            if not isinstance(at, dict):
                raise DataError(f"a run's setting {section!r} is both a value and a section ({key})")
        if isinstance(at.get(last), dict):
            raise DataError(f"a run's setting {key!r} is both a value and a section")
        at[last] = value
    return tree


def _cell(
    study: Loaded, index: int, counts: bool, environments: list[dict[str, Any]], configs: dict[str, bytes]
) -> dict[str, Any]:
    """One run as claim.json has it; adds its environment and its config to the lists."""
    row = {key: study.runs[key].iat[index] for key in ("arm", "tuning", "pair", "state", "error", "run", "source")}
    origin = study.origin(str(row["run"]))
    flat, env = origin.get("config") or {}, origin.get("env") or {}
    cell: dict[str, Any] = {**{key: str(value) for key, value in row.items()}, "counts": counts}
    cell["score"] = _number(study.runs["score"].iat[index])
    cell |= {key: _number(study.runs[key].iat[index]) for key in NUMBERS}
    cell["data"] = env.get("data")
    cell["identity"] = arms.identity(dict(origin)) if flat else None
    cell["overrides"] = _overrides(env.get("command"))
    cell["environment"] = None
    cell["config"] = None
    if flat:
        shared = {key: env.get(key) for key in ENVIRONMENT if key not in OF_THE_RUN}
        if shared not in environments:
            environments.append(shared)
        cell["environment"] = environments.index(shared)
        slug = re.sub(r"[^A-Za-z0-9._=-]+", "-", " ".join((cell["arm"], cell["tuning"], cell["pair"]))).strip("-.")
        cell["config"] = f"configs/{index:04d}-{slug[:80]}.yaml"
        text = yamlfile.text(nested(flat))
        configs[cell["config"]] = text.encode("utf-8", "surrogatepass")
    return cell


def _arm(row: Row) -> dict[str, Any]:
    """What the comparison says of an arm, by its name and its settings."""
    said = {field.name: getattr(row, field.name) for field in dataclasses.fields(row)}
    delta = None if row.delta is None else dataclasses.asdict(row.delta)
    return {**said, "arm": str(row.arm), "settings": dict(row.arm.given), "tuning": str(row.tuning), "delta": delta}


def _number(value: Any) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None


def _overrides(command: Any) -> list[str] | None:
    """The settings of `train key=value ...`; None for another command."""
    try:
        words = shlex.split(command) if isinstance(command, str) else []
    except ValueError:
        return None
    return words[1:] if words[:1] == ["train"] else None


def _seeds(cells: list[dict[str, Any]], arms: Iterable[Settings], paired: Paired, design: Design) -> bytes:
    """seeds.csv: each run's score and, of those that count, its difference to its baseline's of the same pair."""
    text = io.StringIO()
    out = csv.DictWriter(text, SEEDS, extrasaction="ignore", lineterminator="\n")
    out.writeheader()
    scores = {
        arm: dict(zip(paired.pairs, map(float, own), strict=True))
        for arm, own in zip(paired.arms, paired.scores, strict=True)
    }
    against = references(design, paired.arms)
    for cell, arm in zip(cells, arms, strict=True):
        base = against[arm]
        of_pair = math.nan if base is None else scores[base][cell["pair"]]
        known = cell["counts"] and arm != base and math.isfinite(of_pair)
        difference = cell["score"] - of_pair if known else None
        out.writerow({**cell, "counts": "yes" if cell["counts"] else "no", "difference": difference})
    return text.getvalue().encode("utf-8", "replace")
