"""What a report says of windows longer than the training context: planted effects at each length."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats as scipy_stats
from statsmodels.stats.multitest import multipletests

from gpt_lab import metrics
from gpt_lab.analysis.compare import compare
from gpt_lab.analysis.sections.longer_contexts import Lengths, make, measure
from gpt_lab.frame import load
from gpt_lab.frame.places import StudyOptions
from gpt_lab.frame.study import Study
from gpt_lab.report.figures import base
from gpt_lab.report.figures import lengths as figure
from gpt_lab.report.figures.material import Material
from gpt_lab.study.design import Settings
from tests.helpers import tiny_config
from tests.report.fabricated import comparison, plain, pos_enc, study
from tests.report.stores import save, summary
from tests.study.arms import settings

HARM: Mapping[Settings, tuple[float, ...]] = {
    settings("position=rope"): (0.0, 0.1, 0.3, 0.7),
    settings("position=alibi"): (0.0, -0.02, -0.03, -0.04),
    settings("position=none"): (0.0, 0.05, 0.06, 0.07),
}
"""How much each arm's bits per byte change at 1x, 2x, 4x and 8x."""
TIMES = (1, 2, 4, 8)


def grown(seeds: int = 5, metric: str = "val/bpb", **design: Any) -> Study:
    """Runs whose values at 2x, 4x and 8x are those at 1x and HARM, give or take 0.002."""
    effects = {"position=rope": 0.0, "position=alibi": 0.03, "position=none": 0.1, "position=learned": 0.5}
    made = study(effects, seeds=seeds, design=pos_enc(baseline={"position": "rope"}, metric=metric, **design))
    runs, rng = made.runs, np.random.default_rng(11)
    runs[f"summary.{metric}"] = runs["score"]
    runs["config.scale.context"] = 64
    runs["config.eval.contexts"] = [list(TIMES)] * len(runs)
    for place, k in enumerate(TIMES[1:], start=1):
        harm = runs["arm"].map({arm: values[place] for arm, values in HARM.items()})
        runs[f"summary.{metric}_{k}x"] = runs["score"] + harm + rng.normal(0, 0.002, len(runs))
    for part in range(2, 9):
        runs[f"summary.val/excess_8x_part{part}"] = runs["arm"].map(lambda arm: HARM.get(arm, (math.nan,))[-1]) * part
    return made


@functools.cache
def found(seeds: int = 5) -> Lengths:
    made = grown(seeds)
    result = measure(compare(made), made)
    assert result is not None
    return result


def test_differences_are_paired_at_each_length() -> None:
    """Five pairs: a plain paired t, as scipy has it, and Holm over all arms and lengths."""
    runs = grown().runs
    result = found()
    columns = {k: "score" if k == 1 else f"summary.val/bpb_{k}x" for k in TIMES}
    tables = {k: runs.pivot(index="pair", columns="arm", values=column) for k, column in columns.items()}
    raw, lines = [], []
    for line in result.lines:
        if line.arm in (settings("position=alibi"), settings("position=none")):
            own = tables[line.times][line.arm] - tables[line.times][settings("position=rope")]
            t = scipy_stats.ttest_1samp(own, 0)
            low, high = t.confidence_interval(0.95)
            assert line.delta is not None
            assert (line.delta.estimate, line.delta.low, line.delta.high) == pytest.approx((own.mean(), low, high))
            assert line.mean == pytest.approx(tables[line.times][line.arm].mean())
            if line.times > 1:
                raw.append(float(t.pvalue))
                lines.append(line)
    assert len(lines) == 6 == result.family
    assert [line.p for line in lines] == pytest.approx(multipletests(raw, method="holm")[1])
    last = next(line for line in lines if (line.arm, line.times) == (settings("position=alibi"), 8))
    assert last.delta is not None and last.delta.estimate == pytest.approx(0.03 - 0.04 - 0.7, abs=0.01)


def test_the_change_is_within_each_run() -> None:
    """The seeds' spread of 0.008 cancels: the change is known to 0.002."""
    for line in found().lines:
        if line.arm in HARM and line.times > 1:
            planted = HARM[line.arm][TIMES.index(line.times)]
            assert line.change is not None
            assert line.change.low <= planted <= line.change.high or abs(line.change.estimate - planted) < 0.003
            assert line.change.high - line.change.low < 0.012


def test_the_section() -> None:
    made = grown()
    (section,) = make(compare(made), made)
    assert section.title == "Beyond the training context"
    assert [row[:2] for row in section.rows[:4]] == [("rope", "1x"), ("", "2x"), ("", "4x"), ("", "8x")]
    assert len(section.rows) == 4 * 3 + 1, "learned has one length"
    assert all(len(row) == len(section.heads) for row in section.rows)
    said = " ".join(section.sentences)
    assert "64 tokens" in said and "secondary to the verdicts on val/bpb" in said
    assert "corrected by Holm over 6 comparisons" in said
    assert "At 8x against 1x: better: alibi; worse: rope, none." in said
    assert "Without 8x: learned; position=learned has no positions past the training context." in said


def test_lengths_that_were_not_asked_for_are_no_fault_of_the_encoding() -> None:
    made = grown()
    made.runs["config.eval.contexts"] = [[1]] * len(made.runs)
    (section,) = make(compare(made), made)
    assert "Without 8x: learned; not asked for." in section.sentences


def test_two_seeds_have_no_interval() -> None:
    for line in found(seeds=2).lines:
        if line.times > 1 and line.arm in HARM:
            assert line.change is not None and math.isnan(line.change.low) and line.p is None


def test_of_an_accuracy_more_is_better() -> None:
    made = grown(metric="val/accuracy", goal="maximize")
    (section,) = make(compare(made), made)
    assert "At 8x against 1x: better: none, rope; worse: alibi." in section.sentences[1]
    assert "val/accuracy" in section.heads


def test_nothing_without_longer_windows() -> None:
    made, runs = plain()
    assert make(made, runs) == []
    with base.look():
        assert figure.draw(Material(made, runs)) is None


def test_without_a_baseline_the_changes_are_there() -> None:
    made = grown()
    made.design = replace(made.design, baseline=None)
    (section,) = make(compare(made), made)
    assert all(row[4] == "–" for row in section.rows) and any(row[3] != "–" for row in section.rows)


def test_the_figure_has_a_line_for_each_arm() -> None:
    made = grown()
    with base.look():
        drawing = figure.draw(Material(comparison(made), made))
    assert drawing is not None
    whole, places = drawing.canvas.axes
    lines = {str(line.get_label()): line for line in whole.lines}
    assert set(lines) == {"rope", "alibi", "none", "learned"}
    assert list(lines["rope"].get_xdata()) == list(TIMES) and list(lines["learned"].get_xdata()) == [1]
    rises = np.diff(np.asarray(lines["rope"].get_ydata(), float))
    assert rises == pytest.approx([0.1, 0.2, 0.4], abs=0.01)
    assert sorted(len(np.atleast_1d(line.get_ydata())) for line in places.lines) == [2, 8, 8, 8]
    assert "Not measured beyond the training context: learned." in drawing.caption


def test_any_length_may_decide(tmp_path: Path) -> None:
    """`--metric val/bpb_8x` works like val/bpb, and an accuracy is known to be better the higher it is."""
    for position, worse in (("rope", 0.3), ("alibi", 0.0)):
        for seed in range(3):
            cfg = tiny_config(study="pos", position=position, seed=seed, **{"eval.contexts": [1, 8]})
            bpb = 2.5 + 0.01 * seed
            more = {
                "val/bpb_8x": bpb + worse + 0.003 * (seed == len(position) - 4),
                "val/accuracy_8x": 0.5 - worse + 0.001 * seed * len(position),
            }
            save(tmp_path, cfg).finish("finished", summary(bpb, **more))
    folder = str(tmp_path / "pos")
    of_bpb = load.load([folder], StudyOptions(metric="val/bpb_8x", baseline="rope"))
    rows = {row.arm: row for row in compare(of_bpb).rows}
    assert rows[settings("position=alibi")].verdict == "better"
    (section,) = make(compare(of_bpb), of_bpb)
    assert "val/bpb" in section.heads
    of_accuracy = load.load([folder], StudyOptions(metric="val/accuracy_8x", baseline="rope"))
    assert of_accuracy.design.goal == "maximize"
    assert {row.arm: row for row in compare(of_accuracy).rows}[settings("position=alibi")].verdict == "better"


def test_units_are_those_of_one_context() -> None:
    assert metrics.unit("val/bpb_8x") == metrics.unit("val/bpb") == "bits per byte"
    assert metrics.axis("val/loss_beyond_4x") == "val/loss_beyond_4x (nats per token)"
    assert metrics.axis("val/accuracy_2x") == "val/accuracy_2x (share of the answers)"
