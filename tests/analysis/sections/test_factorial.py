"""Effects and interactions: hand numbers, published data, least squares, planted effects, what is withheld."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm

from gpt_lab.analysis.compare import compare
from gpt_lab.analysis.sections import factorial
from gpt_lab.frame import arms
from gpt_lab.frame.places import StudyOptions
from gpt_lab.frame.sources.source import Wanted, row
from gpt_lab.frame.study import Study
from gpt_lab.report.figures import base, effects
from gpt_lab.report.figures.material import Material
from gpt_lab.study import cells, sweep_file
from tests.report import made
from tests.report.factorials import FILTRATION, NAMES, Score, analysed, design, effect, noise, study
from tests.report.stores import summary
from tests.study.arms import settings

GRID: dict[str, list[Any]] = {
    "residual": ["pre", "olmo2"],
    "attention.qk_norm": ["none", "full"],
    "model.tied": [False, True],
}


def test_hand_numbers_of_a_2_by_2() -> None:
    """(1)=10, a=14, b=11, ab=21, with seeds that add 0, 1 and 5 to all: a 7, b 4, a x b 3, the same in every seed."""
    cells = {(0, 0): 10.0, (1, 0): 14.0, (0, 1): 11.0, (1, 1): 21.0}
    wave = noise(0)
    found = analysed(study(design(2), lambda x, s: cells[x["a"], x["b"]] + (0, 1, 5)[s] + wave(x, s), 3))
    assert [one.name for one in found.effects] == ["a", "b", "a × b"]
    assert [one.estimate for one in found.effects] == pytest.approx([7, 4, 3], abs=0.01)
    assert all(one.word == "matters" and one.n == 3 for one in found.effects)
    one = effect(found, "a × b").simple[0]
    assert (str(one.change), *map(str, one.places)) == ("a=hi", "b=lo", "b=hi")
    assert [interval.estimate for interval in one.at] == pytest.approx([4, 10], abs=0.01)


@pytest.mark.parametrize("k, words", [(2, ()), (3, ()), (4, (("a", "b", "c", "d"),)), (3, (("a", "b", "c"),))])
def test_least_squares_agree(k: int, words: tuple[tuple[str, ...], ...]) -> None:
    """Twice OLS's coefficients of -1/+1 columns, seeds as blocks; intervals: OLS of the per-seed effects on 1."""
    plan = design(k, words)
    rng = np.random.default_rng(k)
    table = rng.normal(2, 0.1, (2,) * 5 + (4,))
    found = analysed(made_up := study(plan, lambda x, s: float(table[(*(x.get(n, 0) for n in NAMES), s)]) + s, 4))
    runs = made_up.runs
    x = {n: np.where(runs["arm"].map(str).str.contains(f"{n}=hi"), 1.0, -1.0) for n in plan.factors}
    columns = {one.name: np.prod([x[n] for n in one.name.split(" × ")], axis=0) for one in found.effects}
    y, pairs = runs["score"].to_numpy(float), runs["pair"].to_numpy()
    blocks = np.stack([pairs == s for s in "0123"], 1).astype(float)
    fit = sm.OLS(y, np.column_stack([*columns.values(), blocks])).fit()
    assert [one.estimate for one in found.effects] == pytest.approx(2 * fit.params[: len(columns)])
    for place, one in enumerate(found.effects):
        each = []
        for s in "0123":
            mine = pairs == s
            exog = np.column_stack([*(c[mine] for c in columns.values()), np.ones(mine.sum())])
            each.append(2 * sm.OLS(y[mine], exog).fit().params[place])
        low, high = sm.OLS(np.array(each), np.ones(4)).fit().conf_int(0.05)[0]
        assert one.interval is not None
        assert (one.interval.low, one.interval.high, one.interval.df) == pytest.approx((low, high, 3))


def test_a_planted_interaction_and_its_sign() -> None:
    """a costs 0.03 where b is low and gains 0.05 where b is high: said, with a warning on a's verdict."""
    wave = noise(1)
    made_up = study(design(3), lambda x, s: 2 + 0.03 * x["a"] - 0.08 * x["a"] * x["b"] + 0.1 * s + wave(x, s), 4)
    found = analysed(made_up)
    assert effect(found, "a × b").estimate == pytest.approx(-0.04, abs=0.002)
    assert effect(found, "a").estimate == pytest.approx(-0.01, abs=0.002)
    assert {one.name for one in found.effects if one.word == "matters"} >= {"a × b", "b"}
    assert effect(found, "a × c").word == effect(found, "c").word == "negligible"
    (warning,) = [text for text in found.warnings if "a=hi is worse at b=lo" in text]
    assert warning.startswith("WARNING: ") and "better at b=hi (−0.0496" in warning
    assert not any("c=" in text for text in found.warnings)


def test_no_warning_without_a_change_of_sign() -> None:
    wave = noise(2)
    found = analysed(study(design(2), lambda x, s: 2 - 0.03 * x["a"] - 0.02 * x["a"] * x["b"] + wave(x, s), 4))
    assert effect(found, "a × b").word != "undecided" and found.warnings == ()


def test_a_verdict_that_turns_at_the_baseline_only() -> None:
    """a helps by 0.04 at b low and costs 0.02 at b high while c is low; with c high it is the other way round."""
    wave = noise(3)

    def score(x: Mapping[str, int], s: int) -> float:
        sign = 1 if x["c"] else -1
        return 2 + x["a"] * (0.04 - 0.06 * x["b"]) * sign + wave(x, s)

    found = analysed(study(design(3), score, 4))
    assert effect(found, "a × b").word == "negligible", "over both levels of c it cancels"
    (warning,) = [text for text in found.warnings if "a=hi is better at b=lo" in text]
    assert "worse at b=hi" in warning and "with the other factors at the baseline" in warning


def test_the_goal_turns_the_words() -> None:
    wave = noise(1)
    plan = design(2, goal="maximize")
    found = analysed(study(plan, lambda x, s: 2 + 0.03 * x["a"] - 0.08 * x["a"] * x["b"] + wave(x, s), 4))
    assert any("a=hi is better at b=lo" in text and "worse at b=hi" in text for text in found.warnings)


def test_a_fraction_says_what_it_cannot_tell_apart() -> None:
    """2^(4-1), d = abc: c x d is planted, and a x b carries it; with an odd word the sign turns."""
    wave = noise(4)
    plan = design(4, (("a", "b", "c", "d"),))
    found = analysed(study(plan, lambda x, s: 2 + 0.08 * x["c"] * x["d"] + wave(x, s), 3))
    assert [one.name for one in found.effects] == [*"abcd", "a × b", "a × c", "a × d"]
    assert effect(found, "a × b").estimate == pytest.approx(0.04, abs=0.002)
    assert effect(found, "a × b").aliases == "+ c × d"
    assert effect(found, "a").aliases == "1 of higher order"
    assert any("resolution IV" in text and "I = a × b × c × d" in text for text in found.notes)

    plan = design(3, (("a", "b", "c"),))
    found = analysed(study(plan, lambda x, s: 2 + 0.08 * x["a"] * x["b"] + wave(x, s), 3))
    assert [(one.name, one.aliases) for one in found.effects] == [("a", "− b × c"), ("b", "− a × c"), ("c", "− a × b")]
    assert effect(found, "c").estimate == pytest.approx(-0.04, abs=0.002), "c changes nothing, a x b does"


def test_low_is_the_baseline_s_level() -> None:
    """Another baseline turns the signs of what it turns."""
    wave = noise(5)
    score: Score = lambda x, s: 2 + 0.05 * x["a"] + 0.02 * x["a"] * x["b"] + wave(x, s)  # noqa: E731
    one = analysed(study(design(2), score, 3))
    other = analysed(study(design(2, baseline={"a": "hi", "b": "lo"}), score, 3))
    for name, sign in (("a", -1), ("b", 1), ("a × b", -1)):
        assert effect(other, name).estimate == pytest.approx(sign * effect(one, name).estimate)


def test_a_missing_arm_withholds_all_effects() -> None:
    lost = {("a=hi, b=hi", s): "diverged" for s in range(3)}
    made_up = study(design(2), noise(6), 3, lost)
    found = analysed(made_up)
    assert found.effects == () and found.warnings == ()
    assert "needs all 4 arms" in found.notes[-1] and "a=hi, b=hi (3 diverged)" in found.notes[-1]
    gone = Study(made_up.design, made_up.runs[made_up.runs["arm"] != settings("a=hi, b=hi")])
    assert "none has finished of a=hi, b=hi" in analysed(gone).notes[-1]
    assert len(factorial.sections(compare(gone), gone)) == 1


def test_a_missing_run_leaves_its_seed_out() -> None:
    lost = {("a=hi, b=lo", 1): "failed"}
    wave = noise(7)
    whole: Score = lambda x, s: 2 + 0.05 * x["a"] + wave(x, s)  # noqa: E731
    spoiled: Score = lambda x, s: whole(x, s) + 9 * (s == 1) * x["b"]  # noqa: E731
    found = analysed(study(design(2), spoiled, 5, lost))
    assert {one.n for one in found.effects} == {4}
    assert all(abs(one.estimate) < 0.06 for one in found.effects)
    assert "Left out, as each effect needs every arm: seed 1 (missing: a=hi, b=lo)." in found.notes


@pytest.mark.parametrize("words", [(), None])
def test_what_fairness_forbids_is_not_claimed(words: tuple[()] | None) -> None:
    """A diverged run: the others of its arm are the better ones, so nothing is claimed of effects that need the arm."""
    score: Score = lambda x, s: 2 + 0.1 * x["a"] * x["b"] + noise(7)(x, s)  # noqa: E731
    lost = {("a=hi, b=lo", 1): "diverged"}
    fair, spoiled = (study(design(2, words), score, 5, gone) for gone in ({}, lost))
    assert {one.word for one in analysed(fair).effects} == {"matters"}
    assert {one.word for one in analysed(spoiled).effects} == {"undecided: see notes"}
    assert {one.n for one in analysed(spoiled).effects} == {4}
    (section,) = factorial.sections(compare(spoiled), spoiled)
    assert any("hold for what is computed from them too: a=hi, b=lo" in text for text in section.sentences)


def test_w_and_bs_full_product_is_read_as_the_fraction() -> None:
    """All 8 runs that W&B's grid made; the file asks for 4: the others match no cell."""
    parameters = {name: {"values": values} for name, values in GRID.items()}
    raw: dict[str, Any] = {
        "method": "grid",
        "parameters": {**parameters, "seed": {"values": [0]}},
        "gpt_lab": {"baseline": {name: values[0] for name, values in GRID.items()}},
    }
    whole = sweep_file.read(Path("w.yaml"), raw)
    part = sweep_file.read(
        Path("w.yaml"), {**raw, "gpt_lab": {**raw["gpt_lab"], "design": "factorial", "fraction": "1/2"}}
    )
    rows = [
        row(f"e/p/{i}", "wandb", "w", "x", "finished", one.flat(), summary(2.0 + 0.01 * i))
        for i, one in enumerate(cells.configs(cells.cells(whole)))
    ]
    wanted = [Wanted(cell.key, cell.values, cell.identity, "missing", None) for cell in cells.cells(part)]
    found = arms.arrange(rows, wanted, part, StudyOptions(), "w")
    assert [r["run"] for r in found.rows] == ["e/p/0", "e/p/3", "e/p/5", "e/p/6"]
    assert "4 runs in the folder that match no cell of the sweep: left out" in found.notes
    assert found.design.factorial == (tuple(GRID),)


def test_fewer_seeds_than_a_verdict_needs() -> None:
    wave = noise(8)
    found = analysed(study(design(2), lambda x, s: 2 + x["a"] + wave(x, s), 2))
    assert all(one.word == "undecided" and one.p is None and one.interval for one in found.effects)
    found = analysed(study(design(2), lambda x, s: 2 + x["a"] + wave(x, s), 1))
    assert found.lenth is None and len(found.singles) == 3 and all(one.interval is None for one in found.effects)
    assert "nothing tells how large chance is" in found.notes[-1]


def test_a_seed_that_draws_nothing_decides_nothing() -> None:
    found = analysed(study(design(2), lambda x, s: 2 + 0.1 * x["a"] + 0.3 * s, 4))
    assert {one.word for one in found.effects} == {"the same in every pair"}
    assert all(one.interval is None and one.p is None for one in found.effects) and found.warnings == ()


def test_one_replicate_has_a_half_normal_plot(tmp_path: Path) -> None:
    """Montgomery's reading of the filtration data: a, c, d, a x c and a x d stand out; c beyond its own margin only."""
    plan = design(4, goal="maximize", sesoi=1.0)
    score: Score = lambda x, s: float(FILTRATION[sum(x[n] << j for j, n in enumerate(NAMES[:4]))])  # noqa: E731
    made_up = study(plan, score, 1)
    found = analysed(made_up)
    assert found.lenth is not None and found.lenth.pse == pytest.approx(2.625)
    beyond = {name for name, value in found.singles if abs(value) > found.lenth.simultaneous}
    assert beyond == {"a", "d", "a × c", "a × d"}
    assert "Beyond the margin of one contrast, 6.75: c." in found.notes[-1]
    material = Material(compare(made_up), made_up)
    with base.look():
        assert effects.draw(material) is None, "there are no intervals"
        drawing = effects.half_normal_plot(material)
        assert drawing is not None
        svg, _ = base.write(drawing, tmp_path)
    text = svg.read_text("utf-8")
    assert "a × c (−)" in text and "a × d (+)" in text and "b (+)" not in text
    assert "2.62" in drawing.caption and "a, a × c, a × d, d, c" in drawing.caption


def test_effects_are_drawn(tmp_path: Path) -> None:
    wave = noise(1)
    made_up = study(design(3), lambda x, s: 2 - 0.08 * x["a"] * x["b"] + wave(x, s), 4)
    material = Material(compare(made_up), made_up)
    with base.look():
        drawing = effects.draw(material)
        assert drawing is not None and effects.half_normal_plot(material) is None
        svg, _ = base.write(drawing, tmp_path)
    text = svg.read_text("utf-8")
    assert "a × b" in text and "matters" in text and "negligible" in text
    assert drawing.caption.startswith("Mean val/bpb at a factor's high level minus that at its low one")


def test_differences_of_differences_of_a_grid() -> None:
    """3 x 2 without `design: factorial`: against the baseline's cell, by hand."""
    plan = design(2, None, values={"a": ("lo", "mid", "hi"), "b": ("lo", "hi")})
    means = {(0, 0): 2.0, (1, 0): 2.1, (2, 0): 2.2, (0, 1): 2.05, (1, 1): 2.15, (2, 1): 1.95}
    wave = noise(9)
    made_up = study(plan, lambda x, s: means[x["a"], x["b"]] + 0.2 * s + wave(x, s), 4)
    found = analysed(made_up)
    assert not found.coded
    assert [one.name for one in found.effects] == ["a=mid × b=hi", "a=hi × b=hi"]
    assert [one.estimate for one in found.effects] == pytest.approx([0.0, -0.3], abs=0.004)
    assert [one.word for one in found.effects] == ["negligible", "matters"]
    assert any("a=hi is worse at b=lo (+0.2" in text and "better at b=hi (−0.1" in text for text in found.warnings)
    assert any("b=hi is worse at a=lo" in text and "better at a=hi" in text for text in found.warnings)
    assert not any("mid" in text for text in found.warnings)


def test_a_grid_withholds_only_what_needs_the_missing_cell() -> None:
    plan = design(2, None, values={"a": ("lo", "mid", "hi"), "b": ("lo", "hi")})
    lost = {("a=mid, b=hi", s): "diverged" for s in range(3)} | {("a=hi, b=hi", 0): "failed"}
    made_up = study(plan, noise(10), 3, lost)
    found = analysed(made_up)
    assert [(one.name, one.n) for one in found.effects] == [("a=hi × b=hi", 2)]
    assert "Withheld for lack of runs: a=mid × b=hi (a=mid, b=hi (3 diverged))." in found.notes
    part = Study(plan, made_up.runs[made_up.runs["arm"] != settings("a=mid, b=hi")])
    assert "Withheld for lack of runs: a=mid × b=hi (not run)." in analysed(part).notes


def test_a_withheld_interaction_stays_in_the_family() -> None:
    """Holm counts it as p = 1, so that a cell that diverges makes no other interaction surer."""
    plan = design(2, None, values={"a": ("lo", "mid", "hi"), "b": ("lo", "hi")})
    whole = study(plan, noise(10), 4)
    lost = study(plan, noise(10), 4, {("a=mid, b=hi", s): "diverged" for s in range(4)})
    p = {one.name: one.interval.p for one in analysed(whole).effects if one.interval}
    (one,) = analysed(lost).effects
    assert one.p == pytest.approx(min(1.0, 2 * p["a=hi × b=hi"]))
    gone = study(design(2, None), noise(10), 3, {("a=hi, b=hi", s): "diverged" for s in range(3)})
    assert analysed(gone).effects == () and "a=hi, b=hi (3 diverged)" in analysed(gone).notes[0]


def test_what_is_no_grid_has_no_section() -> None:
    """One factor, one change at a time, no baseline."""
    for made_up in (made.of_size(0.1), made.of_size(0.1, 0.2)):
        assert factorial.sections(compare(made_up), made_up) == []
    star = study(design(2, None), noise(11), 3)
    star.runs = star.runs[star.runs["arm"] != settings("a=hi, b=hi")]
    assert factorial.sections(compare(star), star) == []
    free = study(design(2, None), noise(11), 3)
    comparison = compare(free)
    part = replace(comparison, design=replace(free.design, baseline={"a": "lo"}))
    assert factorial.analyse(comparison, free) is not None and factorial.analyse(part, free) is None
    free.design = replace(free.design, baseline=None)
    assert factorial.sections(compare(free), free) == []


def test_seeds_that_chose_the_tuning_are_said() -> None:
    """Three seeds that also chose a rate: said. With five fresh ones more, only these are compared."""
    plan = design(2, (), nuisance=("optim.lr",))
    for fresh in (0, 5):
        rows = []
        for rate in (0.001, 0.004):
            wave = noise(12)
            seeds = range(3 + fresh) if rate == 0.001 else range(3)
            part = study(plan, lambda x, s, r=rate, w=wave: 2 + 10 * r + w(x, s), 3 + fresh).runs
            part = part[part["pair"].isin([str(s) for s in seeds])]
            part = part.assign(tuning=[plan.tuning({"optim.lr": rate})] * len(part))
            rows.append(part.assign(run=part["run"] + f"-{rate}"))
        found = analysed(Study(plan, pd.concat(rows)))
        assert {one.n for one in found.effects} == {fresh or 3}
        said = "Only seeds that chose no nuisance value are compared." if fresh else "also chose the nuisance values"
        assert any(said in note for note in found.notes)


def test_the_section_of_a_report() -> None:
    wave = noise(1)
    made_up = study(design(3), lambda x, s: 2 + 0.03 * x["a"] - 0.08 * x["a"] * x["b"] + wave(x, s), 4)
    (section,) = factorial.sections(compare(made_up), made_up)
    assert section.title == "Effects of the factors" and section.sentences[0].startswith("WARNING: ")
    assert section.heads == ("effect", "Δ val/bpb", "p (Holm)", "verdict", "n", "at the other's levels")
    row = next(row for row in section.rows if row[0] == "a × b")
    assert row[1].startswith("−0.0397") and row[3:5] == ("matters", "4")
    assert row[5].startswith("a=hi: +0.0") and " at b=lo, −0.0" in row[5] and row[5].endswith(" at hi")
    assert all(len(row) == len(section.heads) for row in section.rows)
