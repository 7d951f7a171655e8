"""Verdicts keep their promise on simulated studies, and the harness that says so can say otherwise."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.simulated.studies import (
    COVERED,
    FALSE,
    Analysis,
    Condition,
    Distribution,
    ErrorRates,
    NoiseModel,
    calibrate,
    judge,
    simulate,
)
from gpt_lab.analysis.compare import compare
from gpt_lab.analysis.comparison import VerdictName
from gpt_lab.frame.study import Study
from gpt_lab.stats import decision
from gpt_lab.stats.power_analysis import detectable
from gpt_lab.study.design import Design
from tests.processes import commands
from tests.study.arms import settings

ROOT = Path(__file__).parent.parent.parent
STUDIES = 10_000
NOISES: tuple[NoiseModel, ...] = ("equal", "noisy arm", "noisy baseline", "dispersed")


def result(condition: Condition, method: Analysis, studies: int = STUDIES) -> ErrorRates:
    return calibrate(condition, method, studies=studies)


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("arms, seeds", [(1, 3), (1, 5), (4, 3), (4, 5)])
def test_the_lab_is_right_for_normal_noise(arms: int, seeds: int, noise: NoiseModel) -> None:
    """False verdicts at 5 % +/- 1 %, two-sided; Holm's family of four stays below that."""
    found = result(Condition(arms, seeds, noise=noise), "lab")
    assert found.rejected is not None and FALSE[0] <= found.rejected <= FALSE[1]
    assert found.false_verdicts is not None and found.false_verdicts <= FALSE[1]
    assert arms > 1 or found.false_verdicts == found.rejected
    assert COVERED[0] <= found.coverage <= COVERED[1] and COVERED[0] <= found.coverage_worst <= COVERED[1]
    assert found.honest


@pytest.mark.parametrize("rho", [0.0, 0.9])
def test_the_lab_is_right_whatever_pairing_is_worth(rho: float) -> None:
    assert result(Condition(4, 5, rho=rho), "lab").honest


@pytest.mark.parametrize(
    "shape, noise, least",
    [
        *[("t3", noise, 0.03) for noise in NOISES],
        ("lognormal", "equal", 0.015),
        ("lognormal", "dispersed", 0.04),
    ],
)
def test_the_lab_errs_to_the_safe_side_for_heavy_tails(shape: Distribution, noise: NoiseModel, least: float) -> None:
    """The difference of two equally skewed runs is not skewed: tails alone make the t-test cautious."""
    found = result(Condition(4, 5, shape=shape, noise=noise), "lab")
    assert found.rejected is not None and least <= found.rejected <= FALSE[1]
    assert found.safe


@pytest.mark.parametrize("seeds", [5, 10])
def test_where_theory_does_not_hold(seeds: int) -> None:
    """Skewed noise, twice on one side: the interval covers 92 %, all errors lie on one side, 10 seeds do not help."""
    found = result(Condition(1, seeds, shape="lognormal", noise="noisy arm"), "lab")
    assert found.rejected is not None and 0.06 < found.rejected < 0.10
    assert 0.90 < found.coverage < COVERED[0]
    assert found.false_better is not None and found.false_better > 0.9 * found.rejected
    assert not found.safe


@pytest.mark.parametrize("method", ["token z", "token bootstrap"])
def test_naive_token_errors_fail(method: Analysis) -> None:
    """The control: the harness calls the token-level test wrong, by far."""
    found = result(Condition(1, 5), method, 500)
    assert found.false_verdicts is not None and found.false_verdicts > 0.5
    assert found.coverage < 0.5
    assert not found.safe


@pytest.mark.parametrize("seeds, low, high", [(3, 0.68, 0.77), (5, 0.80, 0.88)])
def test_a_bootstrap_over_few_seeds_fails(seeds: int, low: float, high: float) -> None:
    """Why there is none in the lab."""
    found = result(Condition(1, seeds), "seed bootstrap", 2000)
    assert low < found.coverage < high and not found.safe


@pytest.mark.parametrize("arms, seeds", [(4, 3), (4, 5), (9, 5)])
def test_a_planned_effect_is_found_as_often_as_planned(arms: int, seeds: int) -> None:
    found = result(Condition(arms, seeds, effects=(-detectable(seeds, arms=arms),)), "lab")
    assert found.found == pytest.approx(0.8, abs=0.05)
    assert found.wrong_way is not None and found.wrong_way < 0.001
    assert found.false_share < FALSE[1]


@pytest.mark.parametrize("family", [1, 4])
def test_claims_about_the_band_are_rarely_false(family: int) -> None:
    """At the edge of the band, where a false claim is likeliest: an arm there is neither beyond it nor inside."""
    rng = np.random.default_rng(1)
    edge = 1.0 + rng.standard_normal((STUDIES, family, 6))
    judged = judge(edge, 0.05, sesoi=1.0)
    for claim in (decision.HIGHER, decision.EQUIVALENT):
        assert (judged.claim == claim).any(1).mean() < 0.035  # half of alpha, each is one side
    assert not (judged.claim == decision.LOWER).any()


CLAIMS: dict[int, VerdictName] = {
    decision.LOWER: "better",
    decision.HIGHER: "worse",
    decision.SMALL: "real but small",
    decision.EQUIVALENT: "equivalent",
    decision.OPEN: "undecided",
}


@pytest.mark.parametrize("sesoi", [0.0, 0.8])
@pytest.mark.parametrize("seeds", [3, 5, 6])
def test_the_harness_judges_as_compare_does(seeds: int, sesoi: float) -> None:
    """Whole studies through compare() get the very verdicts and intervals that the arrays get."""
    condition = Condition(4, seeds, noise="dispersed", effects=(-3.0, 1.0, 0.3))
    scores = simulate(condition, 40, np.random.default_rng(2))
    judged = judge(scores[:, 1:] - scores[:, :1], 0.05, sesoi)
    seen = set()
    for number in range(len(scores)):
        runs = pd.DataFrame(
            {
                "run": f"{v}-{s}",
                "state": "finished",
                "arm": settings(f"v={v}"),
                "tuning": settings(""),
                "pair": str(s),
                "score": score,
            }
            for v, of_arm in enumerate(scores[number])
            for s, score in enumerate(of_arm)
        )
        design = Design("simulated", factors=("v",), baseline={"v": 0}, sesoi=sesoi)
        rows = {row.arm: row for row in compare(Study(design, runs)).rows}
        for v in range(4):
            row = rows[settings(f"v={v + 1}")]
            assert row.verdict == CLAIMS[int(judged.claim[number, v])]
            assert row.delta is not None
            expected = (judged.low[number, v], judged.high[number, v], judged.p[number, v])
            assert (row.delta.low, row.delta.high, row.delta.p) == pytest.approx(expected)
            seen.add(row.verdict)
    assert {"better", "undecided"} <= seen


def test_simulated_runs_are_as_stated() -> None:
    rng = np.random.default_rng(3)
    for shape in ("normal", "lognormal"):
        scores = simulate(Condition(2, 50, rho=0.6, shape=shape, effects=(-1.0,)), 4000, rng)
        assert scores.var() - scores.mean((0, 2)).var() == pytest.approx(1, rel=0.05)
        assert scores.mean((0, 2)) == pytest.approx([0, -1, 0], abs=0.02)
        assert np.corrcoef(scores[:, 0].ravel(), scores[:, 2].ravel())[0, 1] == pytest.approx(0.6, abs=0.02)
    noisy = simulate(Condition(2, 50, rho=0.0, noise="noisy arm"), 2000, rng)
    assert noisy.std((0, 2)) == pytest.approx([1, 1, 2], rel=0.02)


def test_the_same_seed_gives_the_same_numbers() -> None:
    condition = Condition(2, 5)
    assert result(condition, "lab", 50) == result(condition, "lab", 50)
    assert result(condition, "lab", 50) != calibrate(condition, "lab", studies=50, seed=1)
    assert not math.isclose(result(condition, "lab", 50).width, result(replace(condition, rho=0.6), "lab", 50).width)


@pytest.mark.slow
def test_the_benchmark_writes_its_table(tmp_path: Path) -> None:
    out = tmp_path / "calibration.json"
    done = commands.script(ROOT / "benchmarks" / "calibration.py", ["--quick", "--out", str(out)], ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"written: {out}" in done.stdout
    quick, committed = (
        json.loads(path.read_text(encoding="utf-8")) for path in (out, ROOT / "benchmarks/results/calibration.json")
    )
    keys = [[(row["method"], row["condition"]) for row in table["rows"]] for table in (quick, committed)]
    assert keys[0] == keys[1], "run benchmarks/calibration.py again"
    assert all(row["studies"] >= 2000 for row in committed["rows"])
    assert committed["machine"]["cpu"]
    for row in committed["rows"]:
        if row["condition"]["shape"] == "normal" and row["method"] == "lab":
            assert row["honest"]
        if row["method"] != "lab":
            assert not row["safe"]
