"""The planted learning rate: what the study asks for, and what its committed results say."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from gpt_lab.study import sweep_file
from gpt_lab.sweep.search import search

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def script() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "benchmarks" / "tuned_arms.py"))


def test_both_studies_begin_at_the_planted_rate(script: dict[str, Any]) -> None:
    untuned = search.Search(sweep_file.read(Path("untuned.yaml"), script["UNTUNED"]))
    assert untuned.cells is not None and len(untuned.cells) == 10
    rates = {(cell.values["optim"], cell.values["optim.lr"]) for cell in untuned.cells}
    assert rates == {("adamw", 5e-4), ("muon", 4e-3)}
    tuned = search.Search(sweep_file.read(Path("tuned.yaml"), script["TUNED"])).tuner
    assert tuned is not None and (tuned.least, tuned.most, len(tuned.rows)) == (10, 18, 10)
    assert [arm.ladders[0].start for arm in tuned.arms] == [5e-4, 4e-3]


def test_the_report_refuses_the_planted_gap_and_tuning_leaves_the_honest_one() -> None:
    found = json.loads((ROOT / "benchmarks" / "results" / "tuned_arms.json").read_text(encoding="utf-8"))
    untuned, tuned = found["untuned"], found["tuned"]
    assert untuned["verdict"] == "undecided" and untuned["high"] < -untuned["sesoi"], (
        "its interval alone would be better"
    )
    assert "learning rate that was not tuned (0.004, the baseline 0.0005)" in untuned["warnings"][0]
    assert (tuned["verdict"], tuned["tier"], tuned["warnings"]) == ("undecided", "confirm", [])
    assert untuned["high"] < tuned["low"] < 0 < tuned["high"], "what is left may be nothing"
    assert {row["values"] for row in tuned["tuning"]} == {"8"} and len(tuned["tuning"]) == 2
    text = (ROOT / "docs" / "tuning.md").read_text(encoding="utf-8")
    for one in (untuned, tuned):
        assert f"{abs(one['estimate']):.2f}" in text
