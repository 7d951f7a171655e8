"""The terminal's table: whole at 100 columns, one table where it fits, nothing lost in silence."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import pytest
from rich.console import Console

from gpt_lab.analysis import wording
from gpt_lab.analysis.comparison import Comparison
from gpt_lab.frame.study import Study
from gpt_lab.report import console, facts, tables
from gpt_lab.report.tables import Report
from tests.report import fabricated
from tests.study.arms import settings

EVERY = ("plain", "ugly", "one_seed", "no_baseline", "empty", "maximise", "factorial")


def shown(pair: tuple[Comparison, Study], width: int) -> str:
    text = io.StringIO()
    console.show(Report(*pair), Console(file=text, width=width, highlight=False))
    return text.getvalue()


def words(text: str) -> str:
    """Without line breaks and the space around them, as folding adds."""
    return re.sub(r"\s+", "", text)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("width", [80, 100, 140, 200])
def test_nothing_is_cut(name: str, width: int) -> None:
    comparison, study = getattr(fabricated, name)()
    text = shown((comparison, study), width)
    assert all(len(line) <= width for line in text.splitlines())
    assert "…" not in text
    flat = words(text)
    assert words(comparison.design.question or comparison.design.study) in flat
    assert words(wording.answer(comparison)) in flat
    for line in facts.remarks(comparison, study):
        assert words(line) in flat
    for row in comparison.rows:
        if row.delta is not None:
            assert wording.with_interval(row.delta) in text
        assert row.verdict.split()[0] in text


def test_one_row_per_arm_best_first_baseline_marked() -> None:
    comparison, study = fabricated.plain()
    text = shown((comparison, study), 200)
    arms = [line.split()[0] for line in text.splitlines() if re.match(r" (rope|alibi|learned|sinusoidal|none) ", line)]
    assert arms == ["rope", "alibi", "learned", "sinusoidal", "none"]
    (marked,) = [line for line in text.splitlines() if "◂" in line]
    assert marked.split()[0] == "learned" and "baseline" in marked


def test_one_table_where_it_fits_else_two() -> None:
    pair = fabricated.plain()
    wide, narrow = shown(pair, 140), shown(pair, 100)
    assert "What each arm costs" not in wide and "What each arm costs" in narrow
    line = next(line for line in wide.splitlines() if line.startswith(" rope"))
    row = pair[0].rows[0]
    assert row.delta is not None
    for cell in (wording.with_interval(row.delta), "better", "screen", "0.62", "923k", "5.9M", "22.3k", "1.18"):
        assert cell in line


def test_runs_without_a_partner_are_no_pairs() -> None:
    comparison, study = fabricated.plain()
    rows = [
        replace(row, n=0, delta=None, verdict="no data") if row.arm == settings("position=rope") else row
        for row in comparison.rows
    ]
    line = next(
        x for x in shown((replace(comparison, rows=tuple(rows)), study), 100).splitlines() if x.startswith(" rope")
    )
    assert line.split()[-3] == "0"
    assert tables.replicates(fabricated.no_baseline()[0].rows[0], fabricated.no_baseline()[0]) == 3


def test_rules_and_noise_are_told() -> None:
    comparison, study = fabricated.plain()
    text = " ".join(shown((comparison, study), 120).split())
    assert "15 runs: 15 finished" in text
    assert "smallest effect size of interest 0.01 bits per byte" in text and "Holm over 3 comparisons" in text
    assert "95 % intervals" in text and "pairs by seed" in text
    assert "baseline against itself: an arm equal to it would get 0.000 [−0.011, +0.011]" in text
    changed = replace(comparison, design=replace(comparison.design, alpha=0.1), noise=None)
    again = shown((changed, study), 120)
    assert "90 % intervals" in again and "baseline against itself" not in again


def test_lost_runs_are_named() -> None:
    text = shown(fabricated.ugly(), 140)
    assert "24 runs: 13 finished, 1 failed, 4 diverged, 4 missing, 1 stopped, 1 running" in text
    assert "failed: position=rope (seed 3): CUDA out of memory" in text
    assert "diverged: position=none (seed 0, 1, 2, 3)" in text
    assert "missing: position=sinusoidal (seed 0, 1, 2, 3)" in text
    assert "4 missing" in text
    assert "1 folder without run.json was skipped: runs/pos_enc/<b>torn</b>" in text


def test_many_lost_runs_are_counted() -> None:
    effects = {f"position=p{i}": 0.0 for i in range(30)}
    states = {(arm, s): "missing" for arm in list(effects)[1:] for s in range(3)}
    design = fabricated.pos_enc(baseline={"position": "p0"})
    made = fabricated.study(effects, design=design, states=states)
    text = shown((fabricated.comparison(made), made), 120)
    assert text.count("missing: ") == console.MOST_LOST
    assert f"and {(29 - console.MOST_LOST) * 3} more runs that are not finished" in text


def test_text_of_runs_is_no_markup() -> None:
    comparison, study = fabricated.plain()
    study.notes.append("a [bold]note[/bold] of runs/[red]x")
    design = replace(comparison.design, question="Is [b]this[/b] [/] fine?")
    text = shown((replace(comparison, design=design), study), 140)
    assert "a [bold]note[/bold] of runs/[red]x" in text
    assert "Is [b]this[/b] [/] fine?" in text


def test_a_study_without_compared_settings() -> None:
    made = fabricated.study({"": 0.0}, design=fabricated.pos_enc(factors=(), baseline=None))
    assert "all runs" in shown((fabricated.comparison(made), made), 120)


def test_tuned_values_and_their_edge() -> None:
    tunings = {arm: {"optim.lr=0.001": 0.05, "optim.lr=0.01": 0.0} for arm in ("optim=adamw", "optim=sgd")}
    design = fabricated.pos_enc(factors=("optim",), nuisance=("optim.lr",), baseline={"optim": "adamw"})
    made = fabricated.study({"optim=adamw": 0.0, "optim=sgd": 0.2}, design=design, tunings=tunings)
    chosen = {"optim=adamw": "optim.lr=0.001", "optim=sgd": "optim.lr=0.01"}
    text = shown((fabricated.comparison(made, tunings=chosen), made), 160)
    lines = {line.split()[0]: line for line in text.splitlines() if line.startswith((" adamw", " sgd"))}
    assert "optim.lr=0.001" in lines["adamw"] and "edge" not in lines["adamw"]
    assert "optim.lr=0.01 (edge)" in lines["sgd"]


# -- what a report says beside its table --


def test_floors_are_told_once_with_their_arms() -> None:
    _, study = fabricated.plain()
    study.runs["score"] = 2.4
    study.runs.loc[study.runs["arm"] == settings("position=none"), "score"] = 2.70  # floor 2.6904
    study.runs.loc[study.runs["arm"] == settings("position=rope"), "score"] = 3.99  # above 3.962
    text = facts.floors(study)
    assert len(text) == 2
    assert text[0] == "no better than counting single tokens (unigram floor): position=rope (3 of 3 runs)"
    assert text[1].startswith("on the bigram floor of the corpus (2.690 bits per byte)")
    assert text[1].endswith("position=none (3 of 3 runs)")
    study.runs["score"] = 2.4
    assert facts.floors(study) == []


def test_what_runs_should_agree_in() -> None:
    _, study = fabricated.plain()
    study.runs["env.commit"] = ["a" * 40] * 12 + ["b" * 40] * 3
    study.runs["env.precision"] = ["fp32"] * 10 + ["bf16"] * 5
    study.runs["env.cores"] = [2] * 10 + [4] * 5
    versions = ["python 3.11.7, torch 2.11.0, numpy 2.0"] * 14 + ["python 3.11.7, torch 2.12.0"]
    study.runs["env.packages"] = versions
    assert facts.disagreements(study) == [
        f"runs differ in code version: {'a' * 12} (12 runs), {'b' * 12} (3 runs)",
        "runs differ in precision: fp32 (10 runs), bf16 (5 runs)",
        "runs differ in package versions: torch 2.11.0 and 2.12.0, numpy 2.0 and none",
    ]
    study.design = replace(study.design, factors=("precision",))
    assert not [line for line in facts.disagreements(study) if "precision" in line]


def test_settings_that_differ_between_arms_only() -> None:
    _, study = fabricated.plain()
    study.runs["config.norm.eps"] = [1e-6] * 14 + [None]
    study.runs["config.label"] = [str(i) for i in range(15)]
    found = facts.differences(study)
    assert set(found) == {"position.name", "norm.eps"}
    assert found["position.name"][settings("position=rope")] == "rope"
    assert found["norm.eps"][settings("position=none")] == "1e-06 | –"
