"""Figures: what is drawn from which data, equal files for equal data, nothing left behind in matplotlib."""

from __future__ import annotations

import itertools
import math
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest

from gpt_lab.frame.study import over_tokens
from gpt_lab.report.figures import Figure, absent, base, curves, draw, factors, forest, pareto, seeds, tuning
from gpt_lab.report.figures.material import Material, together
from tests.report.fabricated import (
    CASES,
    FakeStudy,
    comparison,
    drawn,
    factorial,
    one_seed,
    plain,
    pos_enc,
    study,
    tuned,
    ugly,
)
from tests.study.arms import settings

DRAWN = {
    "plain": {"forest", "seeds", "curves", "differences"},
    "ugly": {"forest", "seeds", "curves", "differences"},
    "one_seed": {"seeds", "curves", "differences"},
    "no_baseline": {"seeds", "curves"},
    "empty": set(),
    "maximise": {"forest", "seeds"},
    "factorial": {"forest", "seeds", "curves", "differences", "pareto", "interaction", "effects"},
    "tuned": {"forest", "seeds", "curves", "differences", "pareto", "tuning"},
}


def texts(figure: Figure) -> list[str]:
    """The words of a figure, from its SVG: text there is text."""
    root = ET.fromstring(figure.svg.read_text("utf-8"))
    return ["".join(element.itertext()) for element in root.iter("{http://www.w3.org/2000/svg}text")]


@pytest.mark.parametrize("case", DRAWN)
def test_what_is_drawn(case: str) -> None:
    _, _, figures = drawn(case)
    assert {figure.name for figure in figures} == DRAWN[case]
    for figure in figures:
        assert figure.png.read_bytes().startswith(b"\x89PNG")
        assert ET.fromstring(figure.svg.read_text("utf-8")).tag.endswith("svg")
        assert figure.title and figure.caption.endswith(".")
    if figures:
        assert {p.name for p in figures[0].svg.parent.iterdir()} == {
            f"{name}.{ending}" for name in DRAWN[case] for ending in ("svg", "png")
        }


def test_equal_data_give_equal_files(tmp_path: Path) -> None:
    """Byte for byte, whatever a process hashes strings with; pyplot, which holds figures, is not imported."""
    code = (
        "import sys; from pathlib import Path; from tests.report.fabricated import plain;"
        "from gpt_lab.report.figures import draw; draw(*plain(), Path(sys.argv[1]));"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[3], env={**os.environ, "PYTHONHASHSEED": "1"})
    _, _, figures = drawn("plain")
    files = [path for figure in figures for path in (figure.svg, figure.png)]
    assert len(files) == 2 * len(DRAWN["plain"])
    assert [path.name for path in files if path.read_bytes() != (tmp_path / path.name).read_bytes()] == []


def test_matplotlib_is_left_as_it_was(tmp_path: Path) -> None:
    matplotlib.rcParams["font.size"] = 17
    before = dict(matplotlib.rcParams)
    try:
        draw(*one_seed(), tmp_path)
        assert dict(matplotlib.rcParams) == before
    finally:
        matplotlib.rcdefaults()


def test_figures_of_an_earlier_report_go(tmp_path: Path) -> None:
    names = ("tuning.svg", "tuning.png", "of_a_user.svg")
    for name in names:
        (tmp_path / name).write_text("old")
    draw(*CASES["no_baseline"](), tmp_path)
    assert [name for name in names if (tmp_path / name).exists()] == ["of_a_user.svg"]


def test_no_gap_without_a_reason() -> None:
    said = {
        name: " ".join(absent(CASES[name]()[0], [])) for name in ("plain", "tuned", "empty", "no_baseline", "one_seed")
    }
    assert "no baseline is named" in said["no_baseline"]
    assert "one pair has no interval" in said["one_seed"]
    assert said["empty"] == "No figure is drawn: no run has finished."
    assert "optim.lr" in said["tuned"] and "optim.lr" not in said["plain"]
    made, _, figures = drawn("plain")
    assert absent(made, figures) == [
        "No figure of costs: FLOPs, time and parameters are the same for all arms, or not recorded."
    ]


class TestForest:
    def test_rows_in_order_with_numbers_and_words(self) -> None:
        found = texts(next(f for f in drawn("plain")[2] if f.name == "forest"))
        names = [t for t in found if t in {"baseline against itself", "rope", "alibi", "sinusoidal", "none", "learned"}]
        assert names == ["baseline against itself", "rope", "alibi", "sinusoidal", "none"]
        assert any(t.endswith("better") and t.startswith("−0.063 [") for t in found)
        assert any(t.endswith("undecided") for t in found)
        assert "← better" in found and "worse →" in found

    def test_larger_is_better_when_maximised(self) -> None:
        found = texts(drawn("maximise")[2][0])
        assert "← worse" in found and "better →" in found

    def test_marks_stand_where_the_numbers_say(self) -> None:
        made, runs = plain()
        with base.look():
            drawing = forest.draw(Material(made, runs))
        assert drawing is not None
        ax = drawing.canvas.axes[0]
        points = {float(line.get_xdata()[0]) for line in ax.lines if len(line.get_xdata()) == 1}
        assert {r.delta.estimate for r in made.rows if r.delta} | {0.0} <= points
        band = next(p for p in ax.patches if p.get_facecolor()[:3] == matplotlib.colors.to_rgb(base.BAND))
        assert (band.get_x(), band.get_width()) == (-0.01, 0.02)

    def test_one_arm_far_away_does_not_hide_the_others(self) -> None:
        made, runs = ugly()
        with base.look():
            drawing = forest.draw(Material(made, runs))
        assert drawing is not None
        assert drawing.canvas.axes[0].get_xlim()[1] < 0.2, "the arm at +1.7 is an arrow"
        assert "1 row reaches beyond the axis" in drawing.caption
        assert "position=sinusoidal" in drawing.caption, "an arm without data is named"

    def test_every_arm_counts_up_to_sixty(self) -> None:
        made, runs = CASES["many"]()
        with base.look():
            drawing = forest.draw(Material(made, runs))
        assert drawing is not None and "The best 60 of 79 arms" in drawing.caption


class TestCurves:
    def test_mean_band_and_floors(self) -> None:
        made, runs = plain()
        with base.look():
            drawing = curves.draw(Material(made, runs))
        assert drawing is not None
        whole, end = drawing.canvas.axes
        ends = {round(float(line.get_ydata()[-1]), 9) for line in end.lines}
        means = {round(float(row.mean), 9) for row in made.rows if row.mean is not None}
        assert means <= ends, "the curves end at the final means"
        heights = {float(line.get_ydata()[0]) for line in whole.lines if len(set(line.get_ydata())) == 1}
        assert {3.962, 2.6904, 2.0805} <= heights
        assert 3.962 not in {float(line.get_ydata()[0]) for line in end.lines}, "out of the enlarged part"

    def test_no_floors_for_another_metric(self) -> None:
        made, runs = plain()
        made = replace(made, design=replace(made.design, metric="val/loss"))
        assert curves._floors(Material(made, runs)) == {}

    def test_floors_of_different_corpora_are_not_drawn(self) -> None:
        made, runs = plain()
        runs.runs.loc[0, "floor_trigram"] = 1.9
        assert set(curves._floors(Material(made, runs))) == {"unigram", "bigram"}

    def test_diverged_runs_are_shown_and_counted(self) -> None:
        made, runs = tuned()
        one = runs.runs.index[
            (runs.runs["arm"] == settings("optim=muon")) & (runs.runs["tuning"] == settings("optim.lr=0.01"))
        ][0]
        runs.runs.loc[one, ["state", "score"]] = ["diverged", math.nan]
        material = Material(made, runs)
        assert list(material.diverged) == [runs.runs.loc[one, "run"]], "not those of values that were not chosen"
        with base.look():
            drawing = curves.draw(material)
        assert drawing is not None and "1 diverged" in drawing.caption

    def test_a_difference_in_mid_schedule_is_said(self) -> None:
        """An arm with half the baseline's tokens ends its schedule where the baseline is in the middle of its own."""
        for share in (1.0, 0.5):
            material = Material(*plain())
            short = material.curves[settings("position=rope")]
            for pair, line in list(short.items()):
                short[pair] = line[line.index <= share * line.index[-1]]  # type: ignore[index]
            with base.look():
                drawing = curves.differences(material)
            assert drawing is not None
            assert ("position=rope: its budget is not the baseline's" in drawing.caption) is (share < 1)
            assert ("The verdict is about the last place only." in drawing.caption) is (share == 1)

    def test_paired_differences_end_at_the_table(self) -> None:
        made, runs = plain()
        with base.look():
            drawing = curves.differences(Material(made, runs))
        assert drawing is not None
        panels = {ax.get_title(loc="left"): ax for ax in drawing.canvas.axes if ax.get_visible()}
        assert set(panels) == {"rope", "alibi", "sinusoidal", "none"}
        for row in made.rows:
            if row.delta is None:
                continue
            ax = panels[row.arm.text("position")]
            thick = next(line for line in ax.lines if line.get_linewidth() == 1.6)
            assert thick.get_ydata()[-1] == pytest.approx(row.delta.estimate, abs=1e-9)
            low, high = row.delta.low, row.delta.high
            band = ax.collections[0].get_paths()[0].vertices
            last = sorted({round(float(y), 9) for x, y in band if x == band[:, 0].max()})
            assert last == pytest.approx(sorted((low, high)), abs=1e-8), "the band is the t interval"

    def test_runs_over_other_tokens_are_interpolated(self) -> None:
        a = pd.Series([3.0, 2.0, 1.0], index=[0.0, 100.0, 200.0])
        b = pd.Series([2.5, 1.5], index=[50.0, 150.0])
        grid, interpolated = together([a, b])
        assert interpolated and grid.index[0] == 50 and grid.index[-1] == 150
        assert np.allclose(grid[0], grid[1]), "both are the same straight line"
        same, interpolated = together([a, a + 1])
        assert not interpolated and len(same) == 3

    def test_a_curve_is_finite_sorted_and_last_wins(self) -> None:
        table = pd.DataFrame(
            {"tokens": [20, 10, 10, 30, math.nan], "val/bpb": [2.0, 9.0, 3.0, math.inf, 1.0], "step": range(5)}
        )
        assert over_tokens(table, "val/bpb").to_dict() == {10.0: 3.0, 20.0: 2.0}
        assert over_tokens(table, "val/loss").empty and over_tokens(None, "val/bpb").empty

    def test_few_points_are_all_drawn(self) -> None:
        x = np.arange(float(base.COLUMNS))
        assert (base.thinned(x, x) == np.arange(len(x))).all()

    def test_spikes_and_ends_outlive_thinning(self) -> None:
        rng = np.random.default_rng(0)
        x = np.sort(rng.uniform(0, 1, 20_000))
        low = rng.standard_normal(len(x))
        low[1234], low[17_000] = 99.0, -99.0
        kept = base.thinned(x, low, columns=100)
        assert {0, 1234, 17_000, len(x) - 1} <= {*kept.tolist()} and (np.diff(kept) > 0).all() and len(kept) <= 400
        column = np.minimum((x - x[0]) / (x[-1] - x[0]) * 100, 99).astype(int)
        for number in range(100):
            every, own = low[column == number], low[kept[column[kept] == number]]
            assert (own.min(), own.max(), own[0], own[-1]) == (every.min(), every.max(), every[0], every[-1])
        high = low + rng.uniform(0, 1, len(x))
        band = base.thinned(x, low, high, columns=100)
        for number in range(100):
            mine = band[column[band] == number]
            assert low[mine].min() == low[column == number].min() and high[mine].max() == high[column == number].max()

    def test_only_runs_that_are_drawn_are_read(self) -> None:
        made, runs = CASES["many"]()
        assert len(Material(made, runs).curves) == 12
        assert isinstance(runs, FakeStudy) and len(runs.asked) == 12 * 3

    def test_of_many_pairs_some_are_drawn_and_it_is_said(self) -> None:
        made = study({"position=learned": 0.0, "position=rope": -0.1}, seeds=120, design=pos_enc())
        material = Material(comparison(made), made)
        with base.look():
            drawings = [curves.draw(material), curves.differences(material), seeds.draw(material)]
        assert len(made.asked) == 2 * 50
        for drawing in drawings:
            assert drawing is not None and "Of 120 pairs the first 50 are drawn." in drawing.caption
        strokes = [line.get_xdata()[0] for line in drawings[2].canvas.axes[0].lines if line.get_linewidth() == 1.4]  # type: ignore[union-attr]
        assert sorted(strokes) == pytest.approx(sorted(r.mean for r in comparison(made).rows if r.mean)), "of all runs"

    def test_runs_at_values_that_were_not_chosen_do_not_count(self) -> None:
        made, runs = tuned()
        material = Material(made, runs)
        for row in made.rows:
            assert set(material.finished(row)["tuning"]) == {row.tuning}
            assert float(material.scores(row).mean()) == pytest.approx(row.mean)


class TestCosts:
    def test_front(self) -> None:
        points = [(1.0, 5.0), (2.0, 3.0), (2.0, 4.0), (3.0, 3.5), (4.0, 1.0)]
        assert pareto.front_of(points) == [0, 1, 4]
        assert pareto.front_of(points, maximise=True) == [0]

    def test_panels_and_what_is_the_same(self) -> None:
        with base.look():
            drawing = pareto.draw(Material(*factorial()))
        assert drawing is not None
        labels = [ax.get_xlabel() for ax in drawing.canvas.axes]
        assert labels == ["training FLOPs (10¹² FLOPs)", "parameters (10³)"]
        made = study({"position=learned": 0.0, "position=rope": -0.1}, design=pos_enc())
        made.runs.loc[made.runs["arm"] == settings("position=rope"), "parameters"] *= 2
        with base.look():
            drawing = pareto.draw(Material(comparison(made), made))
        assert drawing is not None and len(drawing.canvas.axes) == 1
        assert "training FLOPs: the same for all arms, 1.21×10¹³" in drawing.caption
        low, high = drawing.canvas.axes[0].get_ylim()
        assert low < made.runs["score"].min() and made.runs["score"].max() < high, "strokes are whole"


class TestTuning:
    def test_ladders_edge_and_diverged(self) -> None:
        with base.look():
            drawing = tuning.draw(Material(*tuned()))
        assert drawing is not None
        assert "Squared" in drawing.caption and "optim=muon" in drawing.caption
        assert "diverged" in drawing.caption
        ax = drawing.canvas.axes[0]
        assert ax.get_xscale() == "log" and ax.get_xlabel() == "optim.lr"
        lines = [line for line in ax.lines if len(line.get_xdata()) == 4 and line.get_linewidth() > 1]
        assert [list(line.get_xdata()) for line in lines] == [[0.001, 0.002, 0.004, 0.008], [0.01, 0.03, 0.1, 0.3]]
        assert math.isnan(lines[1].get_ydata()[-1])

    def test_one_value_is_no_curve(self) -> None:
        made, runs = tuned()
        runs.runs = runs.runs[
            runs.runs["tuning"].isin([settings("optim.lr=0.004"), settings("optim.lr=0.01"), settings("optim.lr=0.1")])
        ]
        runs.runs = runs.runs[
            (runs.runs["arm"] != settings("optim=sgd")) | (runs.runs["tuning"] == settings("optim.lr=0.1"))
        ]
        with base.look():
            assert tuning.draw(Material(made, runs)) is None


class TestInteraction:
    def test_lines_are_the_cells(self) -> None:
        made, runs = factorial()
        with base.look():
            drawing = factors.draw(Material(made, runs))
        assert drawing is not None
        ax = drawing.canvas.axes[0]
        assert ax.get_xlabel() == "position" and [t.get_text() for t in ax.get_xticklabels()] == [
            "alibi", "learned", "none", "rope",
        ]  # fmt: skip
        means = {row.arm: row.mean for row in made.rows}
        first = next(line for line in ax.lines if len(line.get_xdata()) == 4)
        assert first.get_ydata()[0] == means[settings("attention=gqa, position=alibi")]

    def test_zipped_factors_do_not_cross(self) -> None:
        design = replace(pos_enc(), factors=("depth", "width"), baseline={"depth": 2, "width": 64})
        made = study({"depth=2, width=64": 0.0, "depth=4, width=128": -0.1, "depth=8, width=256": -0.2}, design=design)
        with base.look():
            assert factors.draw(Material(comparison(made), made)) is None

    def test_third_factor_stays_at_the_baseline(self) -> None:
        design = replace(pos_enc(), factors=("a", "b", "c"), baseline={"a": 1, "b": 1, "c": 1})
        cells = {f"a={i}, b={j}, c={k}": 0.1 * k + 0.01 * i for i in (1, 2) for j in (1, 2) for k in (1, 2)}
        made = study(cells, design=design)
        square = factors._square(Material(comparison(made), made), "a", "b")
        assert square is not None and {str(row.arm)[-1] for row in square.cells.values()} == {"1"}


class TestLook:
    @pytest.mark.parametrize("wanted", [[0.5, 0.5, 0.5], [0.0, 0.01, 0.02], [0.97, 1.0, 0.2], [3.0, -1.0]])
    def test_labels_do_not_touch(self, wanted: list[float]) -> None:
        moved = base.spread_out(wanted, 0.1)
        places = sorted(moved)
        assert all(b - a >= 0.1 - 1e-9 for a, b in itertools.pairwise(places))
        assert places[0] >= -1e-9 and places[-1] <= 1 + 1e-9
        assert sorted(range(len(wanted)), key=lambda i: moved[i]) == sorted(range(len(wanted)), key=lambda i: wanted[i])

    def test_axis_shows_all_but_a_few_far_out(self) -> None:
        assert sorted(base.near([1.0, 1.1, 0.9, 1.05, 9.0, math.nan])) == [0.9, 1.0, 1.05, 1.1]
        assert base.near([0.0, 9.0]) == [0.0, 9.0], "one of two is no outlier"
        assert len(base.near([0.1, 0.3, 1.0, 3.0, 9.0, 27.0])) == 6, "a wide spread is not cut"
        low, high = base.reach([1.0, 2.0], keep=(0.0,))
        assert low < 0 < 2 < high

    def test_every_colour_has_its_variable(self) -> None:
        """A colour without one would be wrong in the dark scheme."""
        for case in ("factorial", "tuned", "ugly"):
            for figure in drawn(case)[2]:
                used = set(re.findall(r"#[0-9a-f]{6}\b", figure.svg.read_text("utf-8")))
                assert used <= set(base.VARIABLES), f"{case} {figure.name}"

    def test_names_are_cut_and_folded(self) -> None:
        assert base.ellipsis("a" * 50, 10) == "aaaaa…aaaa"
        assert base.folded("attention=mha, position=learned", 20) == "attention=mha,\nposition=learned"
        assert len(base.folded(", ".join(f"key{i}=value" for i in range(9)), 20).split("\n")) == 2

    def test_a_dollar_is_a_dollar(self, tmp_path: Path) -> None:
        made = study({"position=learned": 0.0, "position=$x_1$": -0.1, "position=日本": 0.1}, design=pos_enc())
        figures = draw(comparison(made), made, tmp_path)
        assert "$x_1$" in texts(figures[0]) and "日本" in texts(figures[0])

    def test_seeds_are_all_there(self) -> None:
        made, runs = plain()
        with base.look():
            drawing = seeds.draw(Material(made, runs))
        assert drawing is not None
        dots = [x for line in drawing.canvas.axes[0].lines if line.get_linestyle() == "None" for x in line.get_xdata()]
        assert sorted(dots) == sorted(runs.runs["score"])
