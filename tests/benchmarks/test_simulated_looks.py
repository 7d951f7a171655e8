"""Sequential seeds keep their promises in simulated studies whose truth is known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.simulated.looks import Looked, beyond, calibrate_looks
from benchmarks.simulated.studies import Condition, Distribution, NoiseModel
from tests.processes import commands

ROOT = Path(__file__).parent.parent.parent
STUDIES = 10_000


def result(condition: Condition, sesoi: float = 0.0, studies: int = STUDIES) -> Looked:
    return calibrate_looks(condition, 3, sesoi, studies=studies)


@pytest.mark.parametrize("shape", ["normal", "t3"])
@pytest.mark.parametrize("rho", [0.0, 0.5])
@pytest.mark.parametrize("arms", [1, 4])
def test_false_verdicts_and_coverage(arms: int, rho: float, shape: Distribution) -> None:
    """5 % over the family, intervals cover 95 % after stopping; both with three standard errors of 10,000 studies."""
    found = result(Condition(arms, 10, rho=rho, shape=shape))
    assert found.false_differences <= 0.0565
    assert found.coverage >= 0.9435 and found.coverage_worst >= 0.9435
    if shape == "normal":
        assert found.false_differences >= 0.038, "and not by being blind"


@pytest.mark.parametrize("noise", ["noisy arm", "noisy baseline", "dispersed"])
def test_unequal_noise_does_not_break_the_level(noise: NoiseModel) -> None:
    assert result(Condition(4, 10, noise=noise)).false_differences <= 0.0565


@pytest.mark.parametrize("arms", [1, 4])
def test_at_the_edge_of_the_band(arms: int) -> None:
    """Where false claims of each kind are likeliest: half of alpha, as each is on one side."""
    found = result(Condition(arms, 10, effects=(1.0,) * arms), 1.0)
    assert 0.012 < found.false_equivalences <= 0.03
    assert 0.015 < found.false_differences <= 0.03
    assert found.coverage >= 0.9435


def test_far_arms_take_half_the_runs_and_get_the_same_verdicts() -> None:
    for arms, distance in ((1, 3.0), (4, 4.5)):
        found = result(beyond(arms, 10, distance, 0.5), 0.5, 2000)
        assert found.runs <= 0.5
        assert found.same is not None and found.same > 0.999 and found.opposite == 0
        assert found.overstated is not None and 1 < found.overstated < 1.05
        inside = result(Condition(arms, 10), distance + 0.5, 2000)
        assert inside.runs <= 0.5 and inside.decided > 0.999, "equivalence saves runs too"


def test_near_arms_take_nearly_all() -> None:
    """The control: half the runs is no promise for any effect."""
    assert result(beyond(4, 10, 1.0, 0.5), 0.5, 2000).runs > 0.9


@pytest.mark.slow
def test_the_benchmark_writes_its_table(tmp_path: Path) -> None:
    out = tmp_path / "sequential.json"
    done = commands.script(ROOT / "benchmarks" / "sequential.py", ["--quick", "--out", str(out)], ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"written: {out}" in done.stdout
    quick, committed = (
        json.loads(path.read_text(encoding="utf-8")) for path in (out, ROOT / "benchmarks/results/sequential.json")
    )
    keys = [[(row["kind"], row["distance"], row["condition"]) for row in table["rows"]] for table in (quick, committed)]
    assert keys[0] == keys[1], "run benchmarks/sequential.py again"
    assert committed["machine"]["cpu"]
    nulls = [row for row in committed["rows"] if row["kind"] == "null"]
    assert all(row["studies"] == 20_000 and row["false_differences"] <= 0.052 for row in nulls)
    assert all(row["coverage_worst"] >= 0.948 for row in committed["rows"])
    assert committed["mix"]["runs"] <= 0.5 and committed["mix"]["same"] > 0.999
