"""The data of the page's chart: what runs logged, nothing between, few numbers however many runs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest

from gpt_lab.report import chart, samples
from gpt_lab.report.figures.material import Material
from gpt_lab.store import Run
from tests.report.fabricated import CASES, FakeStudy, comparison, pos_enc, study
from tests.report.stores import save, tiny_config


def material(runs: FakeStudy) -> Material:
    return Material(comparison(runs), runs)


def made(runs: FakeStudy) -> dict[str, Any]:
    found = chart.data(material(runs))
    assert found is not None
    json.dumps(found, allow_nan=False)
    return found


def points(found: Mapping[str, Any], run: Mapping[str, Any], axis: str = "tokens") -> list[tuple[float, float]]:
    return list(zip(found["series"][run["x"][axis]], found["series"][run["y"]], strict=True))


TWO = {"position=learned": 0.0, "position=rope": -0.06}


def test_points_are_those_that_runs_logged() -> None:
    runs = study(TWO, design=pos_enc())
    found = made(runs)
    assert found["axes"] == {"step": "steps", "tokens": "tokens", "flops": "FLOPs", "seconds": "seconds"}
    assert {arm["name"] for arm in found["arms"]} == {"rope", "learned"}
    arm = next(arm for arm in found["arms"] if arm["name"] == "rope")
    logged = runs.curves(list(runs.runs["run"][3:]))
    assert [run["pair"] for run in arm["runs"]] == ["0", "1", "2"]
    for run, table in zip(arm["runs"], logged.values(), strict=True):
        for axis in chart.AXES:
            assert points(found, run, axis) == [
                (pytest.approx(x, rel=1e-5), pytest.approx(y, rel=1e-5))
                for x, y in zip(table[axis], table["val/bpb"], strict=True)
            ]
    assert len(found["series"][arm["common"]]) == 20 and found["most"] == 0


def test_thinned_alike_with_both_ends() -> None:
    runs = study(TWO, design=pos_enc())
    runs.points = np.linspace(1e3, 1e6, 5000)
    found = made(runs)
    assert found["most"] == chart.MOST_PLACES
    logged = runs.curves(list(runs.runs["run"]))
    for arm in found["arms"]:
        assert len(found["series"][arm["common"]]) == chart.MOST_PLACES
        for run in arm["runs"]:
            own = points(found, run)
            assert len(own) == chart.MOST_PLACES and (own[0][0], own[-1][0]) == (1e3, 1e6)
    values = {float(f"{y:.6g}") for table in logged.values() for y in table["val/bpb"]}
    assert {y for arm in found["arms"] for run in arm["runs"] for _, y in points(found, run)} <= values
    assert f"about {chart.MOST_PLACES} evaluations" in chart.caption(found, material(runs))


def test_a_study_of_25_runs_is_small() -> None:
    runs = study({f"position={name}": 0.01 * i for i, name in enumerate("abcde")}, seeds=5)
    runs.points = np.linspace(1e3, 1e6, 5000)
    assert len(json.dumps(made(runs), separators=(",", ":"))) < 150_000


class Odd(FakeStudy):
    """Seed 0 evaluated elsewhere than the others, values that are no numbers, and no seconds."""

    def curves(self, runs: list[str]) -> Mapping[str, pd.DataFrame]:
        found = dict(super().curves(runs))
        for run, table in found.items():
            table = table.drop(columns="seconds")
            table.loc[3, "val/bpb"] = math.inf
            table.loc[4, "val/bpb"] = math.nan
            if run.endswith("seed0"):
                table["tokens"] += 7
            found[run] = table
        return found


def test_values_that_are_no_numbers_and_runs_evaluated_elsewhere() -> None:
    runs = study(TWO, design=pos_enc())
    odd = Odd(runs.design, runs.runs)
    found = made(odd)
    assert "seconds" not in found["axes"] and "flops" in found["axes"]
    for arm in found["arms"]:
        assert found["series"][arm["common"]] == [], "no mean of what was not measured together"
        assert [len(points(found, run)) for run in arm["runs"]] == [18, 18, 18]
    assert "have no mean" in chart.caption(found, material(odd))


def test_far_arms_are_off_and_diverged_runs_are_no_part_of_the_mean() -> None:
    answer, runs = CASES["ugly"]()
    drawn = Material(answer, runs)
    found = chart.data(drawn)
    assert found is not None
    assert found["far"] == ["alibi"] and {arm["name"] for arm in found["arms"] if not arm["on"]} == {"alibi"}
    assert "Off at first, because the others would lie flat beside them: alibi." in chart.caption(found, drawn)
    assert chart.data(Material(*CASES["empty"]())) is None


def test_many_arms() -> None:
    drawn = Material(*CASES["many"]())
    found = chart.data(drawn)
    assert found is not None and len(found["arms"]) == chart.MOST
    assert sum(arm["on"] for arm in found["arms"]) == 12
    assert "learned" in [arm["name"] for arm in found["arms"] if arm["on"]], "the baseline always"
    assert "The best 12 are on at first. Only the best 29 of 80 arms" in chart.caption(found, drawn)


class TestSamples:
    def test_one_column_an_arm_of_the_same_seed(self) -> None:
        runs = study(TWO, design=pos_enc())
        runs.texts = {run: (100, f"KING: {'abc' if '0-' in run else 'xyz'} {run[-1]}") for run in runs.runs["run"]}
        sheets = samples.sheets(material(runs))
        assert [sheet.title for sheet in sheets] == ["seed 0", "seed 1", "seed 2"]
        assert [(text.name, text.prompt, text.continuation) for text in sheets[1].texts] == [
            ("rope", "KING: ", "xyz 1"),
            ("learned", "KING: ", "abc 1"),
        ]
        assert sheets[0].texts[0].note == "step 100" and "not drawn alike" not in sheets[0].said

    def test_what_differs_is_said_and_long_texts_end(self) -> None:
        runs = study(TWO, design=pos_enc())
        runs.runs["config.sample.prompt"] = ["A"] * 3 + ["B"] * 3
        runs.texts = dict.fromkeys(runs.runs["run"], (1, "z" * 5000))
        (first, *_) = samples.sheets(material(runs))
        assert "not drawn alike: prompt of samples differ" in first.said
        assert all(len(text.continuation) <= samples.LONGEST + 1 for text in first.texts)

    def test_none(self) -> None:
        assert samples.sheets(material(study(TWO, design=pos_enc()))) == []

    def test_the_last_text_of_a_run(self, tmp_path: Any) -> None:
        run: Run = save(tmp_path, tiny_config(study="pos"))
        assert run.last_sample() is None
        run.sample(90, "early")
        run.sample(100, "late")
        assert run.last_sample() == (100, "late")
