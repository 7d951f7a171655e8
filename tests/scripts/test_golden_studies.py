"""The committed studies say what they said, to twelve digits: estimates, intervals, p, tiers, n, verdicts.

Quantiles of Student's t end in another bit on a CPU of another kind.

A change that is meant is written down by `python scripts/golden_studies.py`.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest

from benchmarks import questions

SCRIPT = Path(__file__).parent.parent.parent / "scripts" / "golden_studies.py"


@functools.cache
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("golden_studies", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@functools.cache
def golden() -> dict[str, Any]:
    return dict(json.loads(script().GOLDEN.read_text("utf-8")))


def leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of a tree with its place."""
    if isinstance(tree, dict | list) and tree:
        items = tree.items() if isinstance(tree, dict) else enumerate(tree)
        for key, value in items:
            yield from leaves(value, f"{path}/{key}")
    else:
        yield path, tree


def apart(name: str) -> dict[str, tuple[Any, Any]]:
    """Where the code and the file differ: place -> (file, code)."""
    module = script()
    now = dict(leaves(json.loads(module.text(module.numbers(name)))))
    then = dict(leaves(golden()[name]))
    places = {*now, *then}
    return {at: (then.get(at), now.get(at)) for at in sorted(places) if not same(then.get(at, ...), now.get(at, ...))}


def same(then: Any, now: Any) -> bool:
    """Equal, or numbers whose first twelve digits are."""
    if isinstance(then, float) and isinstance(now, float):
        return math.isclose(then, now, rel_tol=1e-12, abs_tol=1e-15)
    return type(then) is type(now) and bool(then == now)


def test_every_committed_study_is_held() -> None:
    assert sorted(golden()) == script().studies()
    verdicts = [arm["verdict"] for one in golden().values() for arm in one["metrics"][one["decides"]]["arms"].values()]
    assert len(golden()) >= 9 and {"baseline", "better", "worse", "undecided"} <= {*verdicts}


@pytest.mark.parametrize("name", sorted(path.parent.name for path in questions.REPORTS.glob("*/runs.csv")))
def test_the_numbers_are_the_same(name: str) -> None:
    assert apart(name) == {}


def test_a_change_in_the_eleventh_digit_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one run's score; and an interval of another level."""
    module, read = script(), questions.read

    def nudged(name: str, folder: Path, metric: str = "") -> Any:
        study = read(name, folder, metric)
        place = study.runs.columns.get_loc("score")
        study.runs.iloc[0, place] *= 1 + 1e-10
        return study

    monkeypatch.setattr(module, "read", nudged)
    assert any(place.endswith("/mean") for place in apart("pos_enc"))

    def wider(name: str, folder: Path, metric: str = "") -> Any:
        study = read(name, folder, metric)
        return dataclasses.replace(study, design=dataclasses.replace(study.design, alpha=0.0500001))

    monkeypatch.setattr(module, "read", wider)
    assert any(place.endswith("/delta/low") for place in apart("pos_enc"))


def test_the_report_says_the_same() -> None:
    """The committed report.md has every estimate that the file holds: each arm is compared with the same baseline."""
    for name, one in golden().items():
        report = (questions.REPORTS / name / "report.md").read_text("utf-8").replace("\\_", "_")
        for arm, row in one["metrics"][one["decides"]]["arms"].items():
            line = next(line for line in report.splitlines() if line.startswith((f"| {arm} |", f"| **{arm}** |")))
            if row["delta"] is not None:
                shown = re.search(r"([+−]?[\d.]+) \[", line)
                assert shown is not None, (name, arm)
                digits = len(shown[1].partition(".")[2])
                assert float(shown[1].replace("−", "-")) == round(row["delta"]["estimate"], digits), (name, arm)
            else:
                assert row["verdict"] == "baseline" and "baseline" in line, (name, arm)


def test_runs_are_read_whole() -> None:
    for name in script().studies():
        study = questions.read(name, questions.REPORTS / name)
        assert len(study.runs) == len(pd.read_csv(questions.REPORTS / name / "runs.csv", low_memory=False))
