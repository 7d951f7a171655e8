"""A baseline for each value of a factor: what is compared with what, and the trend over scales."""

from __future__ import annotations

import dataclasses
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from gpt_lab.analysis import wording
from gpt_lab.analysis.compare import compare
from gpt_lab.analysis.comparison import Comparison, Row
from gpt_lab.analysis.sections import ladder
from gpt_lab.errors import ConfigError, DataError
from gpt_lab.frame import arms
from gpt_lab.frame.paired_scores import references
from gpt_lab.frame.study import COLUMNS, Study
from gpt_lab.report.console import show
from gpt_lab.report.figures import base, forest
from gpt_lab.report.figures import ladder as ladder_figure
from gpt_lab.report.figures.material import Material
from gpt_lab.report.tables import Report
from gpt_lab.study.design import Design
from tests.study.arms import settings

DESIGN = Design("scales", factors=("scale", "position"), within=("scale",), baseline={"position": "rope"}, sesoi=0.01)
SIZES = {"tiny": 1e5, "mid": 1e6, "big": 1e7}
LEVEL = {"tiny": 2.4, "mid": 2.0, "big": 1.7}


class Curveless(Study):
    def curves(self, runs: list[str]) -> dict[str, pd.DataFrame]:
        return {}


def study(
    effects: dict[str, dict[str, float]],
    *,
    seeds: int = 5,
    noise: float = 0.001,
    design: Design = DESIGN,
    missing: tuple[str, ...] = (),
    **more: Any,
) -> Study:
    """Runs of the baseline and of each variant at each scale: scale's level + seed's + effect + noise."""
    rng = np.random.default_rng(0)
    shared = rng.normal(0, 0.02, seeds)
    rows = []
    for scale, size in SIZES.items():
        for position, of_scale in {"rope": {}, **effects}.items():
            arm = f"scale={scale}, position={position}"
            for seed in range(seeds) if arm not in missing else ():
                score = LEVEL[scale] + shared[seed] + of_scale.get(scale, 0.0) + rng.normal(0, noise)
                rows.append(
                    dict.fromkeys(COLUMNS, math.nan)
                    | {"run": f"{arm}-{seed}", "source": "local", "study": "scales", "name": arm, "error": ""}
                    | {
                        "state": "finished",
                        "arm": settings(arm),
                        "tuning": settings(""),
                        "pair": str(seed),
                        "score": score,
                    }
                    | {"tokens": 1e6, "seconds": 60.0, "parameters": 2 * size, "parameters_non_embedding": size}
                    | {"config.scale.name": scale, "config.position.name": position, "config.seed": seed}
                    | more
                )
    return Curveless(design, pd.DataFrame(rows))


def row(comparison: Comparison, scale: str, position: str) -> Row:
    return next(row for row in comparison.rows if row.arm == settings(f"scale={scale}, position={position}"))


GAINS = {"alibi": {"tiny": 0.03, "mid": 0.0, "big": -0.03}, "none": {"tiny": 0.05, "mid": 0.05, "big": 0.05}}


def test_each_arm_is_compared_with_the_baseline_of_its_own_scale() -> None:
    """Against one baseline of all scales every arm of another scale would differ by 0.3 and more."""
    found = compare(study(GAINS))
    for position, by_scale in GAINS.items():
        for scale, effect in by_scale.items():
            delta = row(found, scale, position).delta
            assert delta is not None and delta.estimate == pytest.approx(effect, abs=0.003)
    verdicts = [row(found, scale, "alibi").verdict for scale in SIZES]
    assert verdicts == ["worse", "equivalent", "better"]
    assert [r.arm for r in found.rows if r.verdict == "baseline"] == [
        settings(f"scale={s}, position=rope") for s in SIZES
    ]
    assert found.correction == "Holm over 6 comparisons"
    assert [r.arm.text("scale") for r in found.rows] == [s for s in SIZES for _ in range(3)]
    assert not any(r.warnings for r in found.rows)


def test_each_scale_alone_gives_the_same_differences() -> None:
    """In the confirm tier nothing is shared between scales but the correction."""
    together = compare(study(GAINS))
    for scale in SIZES:
        made = study(GAINS)
        made.runs = made.runs[made.runs["config.scale.name"] == scale]
        made.design = dataclasses.replace(DESIGN, within=(), baseline={"scale": scale, "position": "rope"})
        for alone in compare(made).rows:
            assert alone.delta == next(r for r in together.rows if r.arm == alone.arm).delta


def test_an_unfair_arm_of_one_scale_is_told_by_its_own_baseline() -> None:
    made = study(GAINS)
    big = made.runs["config.scale.name"] == "big"
    made.runs.loc[big, "tokens"] = 2e6  # of all its arms: fair
    made.runs.loc[made.runs["arm"] == settings("scale=tiny, position=none"), "tokens"] = 3e6
    found = compare(made)
    assert any("unequal budget" in text for text in row(found, "tiny", "none").warnings)
    assert not row(found, "big", "none").warnings


def test_a_scale_without_its_baseline_compares_nothing() -> None:
    made = study(GAINS, missing=("scale=mid, position=rope",))
    found = compare(made)
    lost = row(found, "mid", "alibi")
    assert (lost.verdict, lost.delta, lost.warnings) == ("no data", None, ("its baseline was not asked for",))
    assert row(found, "big", "alibi").verdict == "better"
    trend = ladder.trends(found, made)[0]
    assert trend.slope is None and "its baseline, was not asked for at every scale" in trend.reason
    with pytest.raises(DataError, match="baseline"):
        compare(study({"alibi": {}}, missing=tuple(f"scale={s}, position=rope" for s in SIZES)))


def test_references() -> None:
    names = [settings(f"scale={s}, position={p}") for s, p in (("tiny", "rope"), ("tiny", "alibi"), ("mid", "alibi"))]
    assert references(DESIGN, names) == {names[0]: names[0], names[1]: names[0], names[2]: None}
    plain = dataclasses.replace(DESIGN, within=(), baseline={"scale": "tiny", "position": "rope"})
    assert set(references(plain, names).values()) == {names[0]}


@pytest.mark.parametrize("asked", ["alibi", "position=alibi"])
def test_another_baseline_can_be_asked_for(asked: str) -> None:
    """It is that of every scale."""
    rows = [
        {"arm": settings(f"scale={s}, position={p}"), "values": {"scale": s, "position": p}}
        for s in SIZES
        for p in ("rope", "alibi")
    ]
    assert arms._baseline(arms.Arranged(DESIGN, rows), DESIGN, asked) == {"position": "alibi"}
    with pytest.raises(ConfigError, match="unknown baseline 'position=alib'; did you mean 'position=alibi'"):
        arms._baseline(arms.Arranged(DESIGN, rows), DESIGN, "position=alib")


def test_a_planted_trend_is_found() -> None:
    made = study(GAINS)
    alibi, none = ladder.trends(compare(made), made)
    assert (alibi.variant, none.variant) == ("position=alibi", "position=none")
    assert [rung.scale for rung in alibi.rungs] == list(SIZES)
    assert alibi.slope is not None and none.slope is not None
    assert alibi.slope.estimate == pytest.approx(-0.03, abs=0.002)
    assert alibi.slope.low < -0.03 < alibi.slope.high < 0
    assert none.slope.low < 0 < none.slope.high
    turn = alibi.turns
    assert turn is not None and [rung.scale for rung in turn] == ["tiny", "big"]
    assert none.turns is None


def test_a_turn_needs_a_sure_sign() -> None:
    """Estimates around 0 turn by chance; one sure sign makes a turn possible, two make it one."""

    def turn(**effects: float) -> tuple[list[str], bool] | None:
        made = study({"alibi": effects}, noise=0.002)
        (section,) = ladder.make(compare(made), made)
        found = ladder.trends(compare(made), made)[0].turns
        said = " ".join(section.sentences)
        assert ("the sign" in said) == (found is not None)
        return None if found is None else ([rung.scale for rung in found], "may change" in said)

    assert turn(tiny=0.0005, mid=-0.0005, big=0.0005) is None
    assert turn(tiny=-0.03, mid=-0.02, big=-0.01) is None
    assert turn(tiny=0.03, mid=0.02, big=-0.02) == (["mid", "big"], False)
    assert turn(tiny=0.03, mid=0.03, big=-0.0015) == (["mid", "big"], True)


def test_the_slope_is_that_of_each_pair() -> None:
    made = study(GAINS)
    trend = ladder.trends(compare(made), made)[0]
    scores = made.runs.set_index(["arm", "pair"])["score"]
    slopes = []
    for seed in "01234":
        alibi, rope = ([scores[settings(f"scale={s}, position={p}"), seed] for s in SIZES] for p in ("alibi", "rope"))
        d = np.subtract(alibi, rope)
        slopes.append(np.polyfit([5, 6, 7], d, 1)[0])
    assert trend.slope is not None
    assert trend.slope.estimate == pytest.approx(np.mean(slopes))
    half = 2.776445 * np.std(slopes, ddof=1) / math.sqrt(5)
    assert trend.slope.high - trend.slope.estimate == pytest.approx(half, rel=1e-5)


def test_no_trend_without_what_it_needs() -> None:
    made = study(GAINS, seeds=2)
    assert all(t.slope is None and "2 pairs" in t.reason for t in ladder.trends(compare(made), made))
    made = study(GAINS)
    made.runs["parameters_non_embedding"] = 5e5
    assert all(t.slope is None and "do not differ" in t.reason for t in ladder.trends(compare(made), made))
    made = study(GAINS, missing=("scale=mid, position=none",))
    found = {t.variant: t for t in ladder.trends(compare(made), made)}
    assert found["position=alibi"].slope is not None
    assert "every scale" in found["position=none"].reason
    plain = study(GAINS, design=dataclasses.replace(DESIGN, within=(), baseline={"scale": "mid", "position": "rope"}))
    assert ladder.make(compare(plain), plain) == []


@pytest.mark.parametrize("seeds", [3, 5])
def test_intervals_of_the_trend_cover(seeds: int) -> None:
    """200 studies of two variants whose effect does not depend on scale: 400 intervals, 95 % of them hold 0."""
    rng = np.random.default_rng(seeds)
    held = []
    for _ in range(200):
        slopes = [s - rng.normal(0, 1, seeds) for s in [rng.normal(0, 1, seeds)] * 2]
        held += [interval.low < 0 < interval.high for interval in ladder._intervals(slopes, 0.05) if interval]
    assert len(held) == 400 and 0.91 <= np.mean(held) <= 0.985


def test_the_section_says_it() -> None:
    made = study(GAINS, **{"config.scale.context": 128, "config.init.name": "normal"})
    comparison = compare(made)
    (section,) = ladder.make(comparison, made)
    text = " ".join(section.sentences)
    assert "position=alibi: it gains on the baseline with scale (5 pairs)." in text
    assert "position=none: no sure trend with scale (5 pairs)." in text
    assert "the sign changes between tiny and big" in text
    assert "One learning rate serves all scales" in text and "context" not in text
    assert [row[:2] for row in section.rows] == [
        ("position=alibi", "tiny"), ("", "mid"), ("", "big"), ("position=none", "tiny"), ("", "mid"), ("", "big"),
    ]  # fmt: skip
    mup = study(GAINS, **{"config.init.name": "mup"})
    assert "One learning rate" not in " ".join(ladder.make(compare(mup), mup)[0].sentences)


def test_every_form_of_the_report(tmp_path: Path) -> None:
    made = study(GAINS)
    comparison = compare(made)
    assert wording.answer(comparison).count("position=rope with the same scale") == 1
    assert wording.answer(comparison).count("with the same") == 1
    console = Console(width=200, record=True, file=io.StringIO())
    show(Report(comparison, made), console)
    text = console.export_text()
    assert "Effect against scale" in text and "the sign changes between tiny and big" in text
    with base.look():
        material = Material(comparison, made)
        for family, said in ((forest, "with the same scale"), (ladder_figure, "position=alibi")):
            drawing = family.draw(material)
            assert drawing is not None
            assert said in base.write(drawing, tmp_path)[0].read_text()
