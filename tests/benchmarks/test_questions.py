"""The ready-made questions: what the table says of them is what their runs say."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from benchmarks import questions
from gpt_lab.analysis import wording
from gpt_lab.analysis.compare import compare
from gpt_lab.analysis.sections import factorial
from gpt_lab.study import cells, sweep_file
from tests.processes import commands
from tests.report import factorials, made
from tests.study.arms import settings
from tests.sweep.test_shipped import QUESTIONS

ROOT = Path(__file__).parent.parent.parent
MOST_BYTES = 300_000
COMMITTED = questions.committed().get("questions", {})


def test_they_are_the_ones_with_an_experiment() -> None:
    assert sorted(questions.QUESTIONS) == QUESTIONS
    for name in questions.QUESTIONS:
        assert (ROOT / "experiments" / f"{name}.yaml").is_file()


def test_the_answer_names_every_arm() -> None:
    """Planted: one arm 0.05 below and one 0.05 above the baseline."""
    told = questions.sentence(compare(made.of_size(0.05, -0.05)))
    assert told == (
        "against rope: b −0.0500 [−0.0512, −0.0488] better, a +0.0500 [+0.0488, +0.0512] worse (bits per byte, 5 seeds)"
    )


def test_the_answer_names_what_was_chosen() -> None:
    scores = {"rope": {0.001: 2.0, 0.003: 1.9, 0.01: 2.1}, "none": {0.001: 2.0, 0.003: 2.1, 0.01: 2.2}}
    told = questions.sentence(compare(made.tuned(scores)))
    assert told.startswith("against rope (lr=0.003): none (lr=0.001, the edge) +0.1")


def test_the_answer_of_a_factorial_is_its_effects() -> None:
    """Planted: a adds 1, b nothing, both together 0.5 more; so a is 1.25, b and a x b 0.25."""
    wave = (0.001, -0.001, 0.0005, -0.0005)
    found = factorials.study(factorials.design(2), lambda x, s: x["a"] + 0.5 * x["a"] * x["b"] + wave[s] * x["a"], 4)
    effects = factorial.analyse(compare(found), found)
    assert effects is not None
    told = questions.told(effects)
    assert re.fullmatch(r"a \+1\.2500 \[\S+, \S+\] matters, b \+0\.2500 .*, a × b \+0\.2500 .*", told), told


def test_the_table() -> None:
    """Times and answers come when every question has one."""
    some = {name: {"seconds": 90.0, "answer": f"{name} | wins"} for name in questions.QUESTIONS}
    lines = questions.table(some).splitlines()
    assert lines[:2] == ["| question | command | minutes | answer |", "|---|---|---:|---|"]
    asked = sweep_file.load("norm").design.question
    row = f"| [{asked}](../sweeps/results/norm/report.md) | `uv run sweep norm --report` | 1.5 | norm \\| wins |"
    assert row in lines
    assert len(lines) == 2 + len(questions.QUESTIONS)
    del some["norm"]
    assert f"| [{asked}](../sweeps/norm.yaml) | `uv run sweep norm --report` |" in questions.table(some).splitlines()


def test_the_committed_ones_are_complete() -> None:
    assert set(COMMITTED) in (set(), set(questions.QUESTIONS))
    kept = {path.parent.name for path in questions.REPORTS.glob("*/report.md")}
    assert kept & set(questions.QUESTIONS) == set(COMMITTED)
    if COMMITTED:
        found = questions.committed()
        assert found["machine"]["cpu"] and found["machine"]["cores"] == 2


def test_a_committed_answer_is_its_report_s() -> None:
    for name, told in COMMITTED.items():
        folder = questions.REPORTS / name
        assert questions.answer(name, folder) == told["answer"]
        text = (folder / "report.md").read_text(encoding="utf-8")
        for row in compare(questions.read(name, folder)).rows:
            if row.delta is not None:
                assert f"| {wording.verdict(row)} | {wording.with_interval(row.delta)} |" in text, (name, row.arm)
        figures = re.findall(r"\]\((figures/[^)]+)\)", text)
        assert figures and all((folder / figure).is_file() for figure in figures), name
        assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < MOST_BYTES, name


def test_pairing_pays_where_the_initial_values_are_shared() -> None:
    """LayerNorm against RMSNorm, 5 seeds at scale tiny: a correlation of 0.5 saves half of the runs."""
    sweep = sweep_file.load("norm")
    assert len(sweep.design.values["seed"]) == 5
    assert {cfg.scale.name for cfg in cells.configs(cells.cells(sweep))} == {"tiny"}
    rows = compare(questions.read("norm", questions.REPORTS / "norm")).rows if "norm" in COMMITTED else ()
    assert all(row.n == 5 and (row.rho or 0) >= 0.5 for row in rows if row.arm == settings("norm=rmsnorm"))


@pytest.mark.slow
def test_the_script(tmp_path: Path) -> None:
    """One question from its one command to the answer; four steps show nothing, and the answer is the report's."""
    path = ROOT / "benchmarks" / "questions.py"
    done = commands.script(path, ["recall", "--quick", "--out", str(tmp_path)], tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "questions.json").read_text(encoding="utf-8"))["questions"]["recall"]
    assert found["command"] == "uv run sweep recall --report" and found["seconds"] > 0
    assert found["answer"] == questions.answer("recall", tmp_path / "recall")
    assert re.search(r"induction · depth=2 \S+ \[\S+, \S+\] \w+", found["answer"])
    text = (tmp_path / "recall" / "report.md").read_text(encoding="utf-8")
    assert "8 runs: 8 finished" in text and "uv run report" in text
