"""Null pairs in a report: the pooled variance with a known prior, whose runs they speak for, their calibration."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from gpt_lab.report import frame, stats
from gpt_lab.report.calibrate import COVERED, FALSE, Condition, Noise, Result, calibrate
from gpt_lab.report.compare import compare
from gpt_lab.report.targets import Options, find
from gpt_lab.report.types import Comparison, Study
from gpt_lab.sweep import noise as ledger
from gpt_lab.sweep.power import NOISE_DF, detectable_effect
from tests.report.made import DESIGN, arm, row
from tests.report.stores import finished
from tests.report.stores import study as stored
from tests.sweep.test_noise import A, B, made, pairs

STUDIES = 10_000


def test_one_arm_is_the_formula() -> None:
    """s2 = (d0 s0^2 + (n-1) s_v^2) / (d0 + n-1), df = d0 + n-1; no more than NOISE_DF of the pairs' degrees."""
    d = np.array([0.01, 0.03, 0.014])
    for df, counted in ((4, 4), (29, NOISE_DF)):
        fit = stats.pooled_t([d], stats.Null(0.02**2, df))
        variance = (counted * 0.02**2 + 2 * d.var(ddof=1)) / (counted + 2)
        assert (fit.error[0], fit.df[0]) == pytest.approx((math.sqrt(variance / 3), counted + 2))
        assert fit.estimate[0] == pytest.approx(d.mean())
    alone = stats.pooled_t([d], stats.Null((d.std(ddof=1) / 2.01) ** 2, 4))
    assert (alone.df[0], alone.p()[0]) == pytest.approx((2, stats.paired_t([d]).p()[0])), "too noisy for that floor"


def test_studies_side_by_side_are_judged_as_alone() -> None:
    rng = np.random.default_rng(0)
    d = rng.standard_normal((50, 4, 3))
    d[0, 1, 2] = np.nan
    known = rng.chisquare(4, 50) / 2
    together = stats.pooled_t(d, stats.Null(known, 4))
    for number in range(50):
        one = stats.pooled_t(d[number], stats.Null(known[number], 4))
        assert one.error == pytest.approx(together.error[number]) and one.df == pytest.approx(together.df[number])
    plain = stats.pooled_t(d)
    joined = together.df > plain.df
    assert together.df[joined] == pytest.approx(plain.df[joined] + 4) and joined.mean() > 0.8
    assert together.error[~joined] == pytest.approx(plain.error[~joined])


def result(condition: Condition, null_pairs: int) -> Result:
    return calibrate(condition, "screen", studies=STUDIES, null_pairs=null_pairs)


@pytest.mark.parametrize("null_pairs", [5, 10, 30])
@pytest.mark.parametrize("arms, seeds", [(1, 3), (4, 3), (1, 5)])
@pytest.mark.parametrize("noise", ["equal", "dispersed"])
def test_a_known_floor_keeps_the_promise(arms: int, seeds: int, noise: Noise, null_pairs: int) -> None:
    found = result(Condition(arms, seeds, noise=noise), null_pairs)
    assert COVERED[0] <= found.coverage <= COVERED[1]
    assert found.rejected is not None and found.rejected <= FALSE[1] + 0.01
    assert found.width < result(Condition(arms, seeds, noise=noise), 0).width


@pytest.mark.parametrize("arms", [1, 4])
def test_a_noisy_baseline_errs_to_the_safe_side(arms: int) -> None:
    """Null pairs are then noisier than any arm's differences."""
    found = result(Condition(arms, 3, noise="noisy baseline"), 10)
    assert found.safe and found.coverage >= 0.95


def test_where_a_floor_is_too_low() -> None:
    """An arm twice as noisy as the baseline: 88-93 % where it stands alone, as screens have it without a floor."""
    alone = result(Condition(1, 3, noise="noisy arm"), 10)
    assert 0.87 < alone.coverage < 0.93
    assert COVERED[0] <= result(Condition(4, 3, noise="noisy arm"), 10).coverage <= COVERED[1]


@pytest.mark.parametrize("arms, null_pairs", [(1, 3), (1, 5), (4, 5), (2, 7)])
def test_a_planned_effect_is_found_as_often_as_planned(arms: int, null_pairs: int) -> None:
    effect = detectable_effect(3, rho=0.5, comparisons=arms, tier="screen", noise_df=null_pairs - 1)
    found = result(Condition(arms, 3, effects=(-effect,)), null_pairs)
    assert found.found == pytest.approx(0.8, abs=0.05)
    assert effect < 0.95 * detectable_effect(3, rho=0.5, comparisons=arms, tier="screen")


def test_no_other_method_takes_a_floor() -> None:
    with pytest.raises(ValueError, match="confirm takes no null pairs"):
        calibrate(Condition(1, 5), "confirm", studies=10, null_pairs=5)
    assert calibrate(Condition(1, 5), "screen", studies=50) == calibrate(Condition(1, 5), "screen", studies=50)


def known(floor: ledger.Noise | None, seeds: int = 3) -> Study:
    """A study whose baseline's noise is known."""
    scores = 2 + 0.01 * np.random.default_rng(3).standard_normal((2, seeds))
    rows = [*arm("rope", scores[0]), *arm("a", scores[1])]

    class Knows(Study):
        def noise(self, runs: list[str]) -> ledger.Noise | None:
            assert runs == [r["run"] for r in rows[:seeds]]
            return floor

    return Knows(DESIGN, pd.DataFrame(rows))


def test_compare_uses_it_and_says_so() -> None:
    floor = dataclasses.replace(made(list(zip(A, B, strict=True))), last="2026-11-21T09", diverged=1)
    found = compare(known(floor))
    d = compare(known(None))
    mine, plain = row(found, "a").delta, row(d, "a").delta
    assert mine is not None and plain is not None and found.noise is not None
    assert (plain.df, mine.df) == (2, 6) and mine.estimate == plain.estimate
    half = scipy_stats.t.ppf(0.975, 4) * floor.sd / math.sqrt(3)
    assert (found.noise.low, found.noise.high, found.noise.df) == pytest.approx((-half, half, 4))
    (note,) = [note for note in found.notes if note.startswith("Noise floor")]
    assert "5 null pairs of other seeds in runs/noise-x, made 2026-11-21" in note
    assert "count as 4 degrees of freedom in the variance of each screen verdict" in note and "1 of their runs" in note
    assert not any("Noise floor" in note for note in d.notes)


def test_a_confirming_verdict_stands_alone() -> None:
    floor = made(list(zip(A, B, strict=True)))
    found, plain = compare(known(floor, 6)), compare(known(None, 6))
    assert row(found, "a") == row(plain, "a") and row(found, "a").tier == "confirm"
    (note,) = [note for note in found.notes if note.startswith("Noise floor")]
    assert "degrees of freedom" not in note
    assert found.noise is not None and found.noise.df == 4


def report(root: Path, *targets: str) -> Comparison:
    options = Options(runs_dir=root, baseline="rope")
    return compare(frame.read(find(targets or ("pos",), options), options))


def used(comparison: Comparison) -> bool:
    return any(note.startswith("Noise floor") for note in comparison.notes)


ARMS = {"rope": 0.0, "alibi": 0.05}


def test_a_study_finds_its_floor(tmp_path: Path) -> None:
    stored(tmp_path, ARMS)
    assert not used(report(tmp_path))
    pairs(tmp_path)
    found = report(tmp_path)
    assert used(found) and row(found, "alibi").delta.df == 6  # type: ignore[union-attr]
    assert report(tmp_path).rows == found.rows
    assert used(compare(frame.read(find([str(tmp_path / "pos")], Options(baseline="rope")), Options(baseline="rope"))))
    assert find([], Options(runs_dir=tmp_path)).name == "pos", "null pairs are no study that anyone means"


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
    options = Options(runs_dir=tmp_path, group_by=("replica",), baseline="0")
    assert not used(compare(frame.read(find([str(place)], options), options)))


def test_a_baseline_of_several_recipes_has_no_floor(tmp_path: Path) -> None:
    stored(tmp_path, ARMS)
    pairs(tmp_path)
    options = Options(runs_dir=tmp_path, baseline="rope", group_by=("position",))
    assert used(compare(frame.read(find(["pos"], options), options)))
    finished(tmp_path, 2.5, seed=3, **{"optim.weight_decay": 0.5})
    assert not used(compare(frame.read(find(["pos"], options), options)))


def test_other_code_is_said(tmp_path: Path) -> None:
    stored(tmp_path, ARMS)
    pairs(tmp_path, fields={"git": {"commit": "b" * 40, "dirty": True}})
    (note,) = [note for note in report(tmp_path).notes if note.startswith("Noise floor")]
    assert f"made with other code ({'b' * 12})" in note
