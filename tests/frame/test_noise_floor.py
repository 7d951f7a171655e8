"""Null pairs in a report: the noise that an equal arm would show, and whose runs they speak for."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from gpt_lab.analysis.compare import compare
from gpt_lab.analysis.comparison import Comparison
from gpt_lab.frame import load
from gpt_lab.frame.places import StudyOptions, find
from gpt_lab.frame.study import Study
from gpt_lab.noise import records as ledger
from tests.noise.test_records import A, B, made, pairs
from tests.report.made import DESIGN, arm, row
from tests.report.stores import finished
from tests.report.stores import study as stored


def known(floor: ledger.Noise | None, seeds: int = 3) -> Study:
    """A study whose baseline's noise is known."""
    scores = 2 + 0.01 * np.random.default_rng(3).standard_normal((2, seeds))
    rows = [*arm("rope", scores[0]), *arm("a", scores[1])]

    class Knows(Study):
        def noise(self, runs: list[str]) -> ledger.Noise | None:
            assert runs == [r["run"] for r in rows[:seeds]]
            return floor

    return Knows(DESIGN, pd.DataFrame(rows))


def test_compare_shows_it_and_judges_without_it() -> None:
    floor = dataclasses.replace(made(list(zip(A, B, strict=True))), last="2026-11-21T09", diverged=1)
    found, plain = compare(known(floor)), compare(known(None))
    assert row(found, "a") == row(plain, "a"), "an arm is judged by its own variance"
    half = scipy_stats.t.ppf(0.975, 4) * floor.sd / math.sqrt(3)
    assert found.noise is not None
    assert (found.noise.low, found.noise.high, found.noise.df) == pytest.approx((-half, half, 4))
    (note,) = [note for note in found.notes if note.startswith("Noise floor")]
    assert "5 null pairs of other seeds in runs/noise-x, made 2026-11-21" in note and "1 of their runs" in note
    assert not any("Noise floor" in note for note in plain.notes)


def report(root: Path, *targets: str) -> Comparison:
    options = StudyOptions(runs_dir=root, baseline="rope")
    return compare(load.read(find(targets or ("pos",), options), options))


def used(comparison: Comparison) -> bool:
    return any(note.startswith("Noise floor") for note in comparison.notes)


ARMS = {"rope": 0.0, "alibi": 0.05}


def test_a_study_finds_its_floor(tmp_path: Path) -> None:
    stored(tmp_path, ARMS)
    assert not used(report(tmp_path))
    pairs(tmp_path)
    found = report(tmp_path)
    assert used(found) and found.noise is not None and found.noise.df == 4
    assert report(tmp_path).rows == found.rows
    assert used(
        compare(load.read(find([str(tmp_path / "pos")], StudyOptions(baseline="rope")), StudyOptions(baseline="rope")))
    )
    assert find([], StudyOptions(runs_dir=tmp_path)).name == "pos", "null pairs are no study that anyone means"


@pytest.mark.parametrize(
    "other",
    [{"scale.width": 64}, {"budget.steps": 30}, {"optim.lr": 0.5}, {"position": "alibi"}, {"norm": "layernorm"}],
)
def test_another_recipe_scale_or_budget_does_not_match(tmp_path: Path, other: dict[str, Any]) -> None:
    stored(tmp_path, ARMS)
    pairs(tmp_path, **other)
    assert not used(report(tmp_path))


def test_pairs_computed_in_another_way_do_not_match(tmp_path: Path) -> None:
    stored(tmp_path, ARMS)
    resolved = {"device": "cuda", "precision": "bf16", "kernel": "sdpa", "compile": "on", "data": "fingerprint"}
    pairs(tmp_path, fields={"resolved": resolved})
    assert not used(report(tmp_path))


def test_seeds_of_the_study_do_not_count(tmp_path: Path) -> None:
    stored(tmp_path, ARMS)
    pairs(tmp_path, first=0)
    assert not used(report(tmp_path)), "two pairs are left"
    pairs(tmp_path, first=100)
    (note,) = [note for note in report(tmp_path).notes if note.startswith("Noise floor")]
    assert "7 null pairs" in note


def test_the_floor_of_null_pairs_is_not_themselves(tmp_path: Path) -> None:
    place = pairs(tmp_path)
    options = StudyOptions(runs_dir=tmp_path, group_by=("replica",), baseline="0")
    assert not used(compare(load.read(find([str(place)], options), options)))


def test_a_baseline_of_several_recipes_has_no_floor(tmp_path: Path) -> None:
    stored(tmp_path, ARMS)
    pairs(tmp_path)
    options = StudyOptions(runs_dir=tmp_path, baseline="rope", group_by=("position",))
    assert used(compare(load.read(find(["pos"], options), options)))
    finished(tmp_path, 2.5, seed=3, **{"optim.weight_decay": 0.5})
    assert not used(compare(load.read(find(["pos"], options), options)))


def test_other_code_is_said(tmp_path: Path) -> None:
    stored(tmp_path, ARMS)
    pairs(tmp_path, fields={"git": {"commit": "b" * 40, "dirty": True}})
    (note,) = [note for note in report(tmp_path).notes if note.startswith("Noise floor")]
    assert f"made with other code ({'b' * 12})" in note
