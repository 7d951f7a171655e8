"""Sequential seeds in the report: planted effects, what is said of the looks, and promises kept in simulation."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from gpt_lab.analysis import looks
from gpt_lab.analysis.calibrate import Condition, Noise, Shape
from gpt_lab.analysis.calibrate_looks import Looked, beyond, calibrate_looks
from gpt_lab.analysis.compare import compare
from gpt_lab.analysis.comparison import Comparison
from gpt_lab.analysis.sections import every
from gpt_lab.errors import ConfigError
from gpt_lab.frame.study import Study
from gpt_lab.report import markdown
from gpt_lab.report.tables import Report
from gpt_lab.stats import decision
from gpt_lab.stats.alpha_spending import boundaries
from gpt_lab.study.design import Looks
from tests.report import made
from tests.report.made import NOISE, row

ROOT = Path(__file__).parent.parent.parent
STUDIES = 10_000
DESIGN = dataclasses.replace(
    made.DESIGN, sesoi=0.02, looks=Looks(3, 6, 3), values={"position": ("rope",), "seed": (0, 1, 2, 3, 4, 5, 6)}
)
WIGGLE = np.array([0.001, -0.002, 0.001, 0.002, -0.001, 0.0015, 0.0])


def study(arms: Mapping[str, tuple[float, Sequence[int]]], base: Sequence[int] = range(6), family: int = 3) -> Study:
    """Arms with an effect and the seeds that they have."""
    rows = [made.run("rope", s, 2 + NOISE[s]) for s in base]
    for number, (name, (effect, seeds)) in enumerate(arms.items()):
        rows += [made.run(name, s, 2 + NOISE[s] + effect + WIGGLE[(s + number) % 7]) for s in seeds]
    return made.study(rows, dataclasses.replace(DESIGN, looks=Looks(3, 6, family)))


def answered(**changes: tuple[float, Sequence[int]]) -> tuple[Comparison, Study]:
    arms = {"alibi": (-0.3, range(3)), "none": (0.3, range(3)), "learned": (0.02, range(6)), **changes}
    of = study(arms)
    return compare(of), of


def test_planted_effects() -> None:
    found, _ = answered()
    assert [row(found, name).verdict for name in ("alibi", "none", "learned")] == ["better", "worse", "real but small"]
    assert {r.tier for r in found.rows} == {None, "sequential"}
    assert [row(found, name).n for name in ("alibi", "none", "learned")] == [3, 3, 6]
    assert found.correction == "alpha spent over looks at 3 to 6 seeds, Holm over 3 comparisons"
    flat, _ = answered(learned=(0.0, range(4)))
    assert row(flat, "learned").verdict == "equivalent"
    assert not any("likelier" in note for note in found.notes)
    assert not any("screen" in note.lower() for note in found.notes)


def test_the_interval_is_the_repeated_one() -> None:
    found, of = answered()
    delta = row(found, "alibi").delta
    d = -0.3 + WIGGLE[:3]
    half = float(boundaries(3, 6).critical(3, 0.05)) * d.std(ddof=1) / math.sqrt(3)
    assert delta is not None
    assert (delta.estimate, delta.low, delta.high) == pytest.approx((d.mean(), d.mean() - half, d.mean() + half))
    naive = compare(dataclasses.replace(of, design=dataclasses.replace(of.design, looks=None)), tier="screen")
    assert (plain := row(naive, "alibi").delta) is not None and delta.high - delta.low > plain.high - plain.low
    assert found.noise is not None and found.noise.high > 0


def test_what_came_after_the_look_is_not_compared() -> None:
    """As under `wandb agent`, which runs every cell."""
    found, _ = answered()
    whole, _ = answered(alibi=(-0.3, range(6)))
    assert row(whole, "alibi").delta == row(found, "alibi").delta and row(whole, "alibi").n == 3
    assert "3 pairs after the look that decided, or after a gap, are not compared." in whole.notes


def test_before_the_first_look() -> None:
    found, of = answered(alibi=(-0.3, range(2)), none=(0.3, (0, 1, 3, 4)))
    for name in ("alibi", "none"):
        one = row(found, name)
        assert (one.verdict, one.n, one.delta) == ("undecided", 2, None)
        assert "2 pairs only: the first look is after 3" in one.warnings
    (section,) = every.sections(found, of)
    why = {line[0]: line[-1] for line in section.rows}
    assert why == {"position=alibi": "open", "position=none": "open", "position=learned": "all 6 seeds"}
    assert any("same `sweep` command" in text for text in section.sentences)


def test_the_family_is_the_file_s() -> None:
    """Arms that nobody has run yet count: a report in mid-sweep is no more generous than the last one."""
    few = {"alibi": (-0.034, range(3))}
    alone, many = (compare(study(few, range(3), family)) for family in (1, 40))
    assert row(alone, "alibi").verdict == "better"
    assert row(many, "alibi").verdict != "better"


def test_the_section_says_what_was_spent() -> None:
    found, of = answered()
    (section,) = every.sections(found, of)
    assert section.title == "Sequential seeds"
    lines = {line[0]: line[1:] for line in section.rows}
    share = 0.05 / 3 * 0.5**1.5
    assert lines["position=alibi"] == ("1", "3 of 6", f"{share:.2g}", "decided")
    assert lines["position=learned"] == ("4", "6 of 6", f"{0.05 / 3:.2g}", "all 6 seeds")
    assert section.sentences[0] == "18 runs of the 24 that 6 seeds for every arm would take (75%)."
    assert any("looks somewhat more different than it is" in text for text in section.sentences)
    assert "## Sequential seeds" in markdown.markdown(Report(found, of), [])


def test_a_lost_run_ends_an_arm_and_forbids_better() -> None:
    rows = [made.run("rope", s, 2 + NOISE[s]) for s in range(5)]
    rows += [made.run("alibi", s, 2 + NOISE[s] - 0.026 + WIGGLE[s]) for s in range(4)]
    rows += [made.run("alibi", 4, 0.0, state="diverged")]
    of = made.study(rows, dataclasses.replace(DESIGN, looks=Looks(3, 6, 1)))
    found = compare(of)
    one = row(found, "alibi")
    assert one.n == 4 and one.verdict != "better"
    assert any("1 run diverged" in text for text in one.warnings)
    (section,) = every.sections(found, of)
    assert section.rows[0][-1] == "lost a run"


def test_no_other_tier_holds() -> None:
    _, of = answered()
    for tier in ("screen", "confirm"):
        with pytest.raises(ConfigError, match=f"no {tier} verdict holds: leave --tier out"):
            compare(of, tier=tier)


def test_the_same_score_in_every_pair() -> None:
    rows = [made.run(name, s, 2 + NOISE[s]) for name in ("rope", "alibi") for s in range(3)]
    found = compare(made.study(rows, DESIGN))
    assert row(found, "alibi").verdict == "equivalent"
    assert "the setting changed nothing" in row(found, "alibi").warnings[0]


# -- promises, by simulation --


def result(condition: Condition, sesoi: float = 0.0, studies: int = STUDIES) -> Looked:
    return calibrate_looks(condition, 3, sesoi, studies=studies)


@pytest.mark.parametrize("shape", ["normal", "t3"])
@pytest.mark.parametrize("rho", [0.0, 0.5])
@pytest.mark.parametrize("arms", [1, 4])
def test_false_verdicts_and_coverage(arms: int, rho: float, shape: Shape) -> None:
    """5 % over the family, intervals cover 95 % after stopping; both with three standard errors of 10,000 studies."""
    found = result(Condition(arms, 10, rho=rho, shape=shape))
    assert found.false_differences <= 0.0565
    assert found.coverage >= 0.9435 and found.coverage_worst >= 0.9435
    if shape == "normal":
        assert found.false_differences >= 0.038, "and not by being blind"


@pytest.mark.parametrize("noise", ["noisy arm", "noisy baseline", "dispersed"])
def test_unequal_noise_does_not_break_the_level(noise: Noise) -> None:
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


def test_holm_may_say_more_than_the_looks_and_never_less() -> None:
    d = np.random.default_rng(0).standard_normal((4000, 4, 10)) + np.array([3.0, 3.0, 1.2, 1.2])[:, None]
    found = looks.decide(d, Looks(3, 10, 4), 0.05, 0.0)
    named = np.isin(found.claim, (decision.LOWER, decision.HIGHER, decision.EQUIVALENT))
    assert not (found.stand.decided & ~named).any()
    assert (named & ~found.stand.decided).any()


@pytest.mark.slow
def test_the_benchmark_writes_its_table(tmp_path: Path) -> None:
    out = tmp_path / "sequential.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "sequential.py"), "--quick", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"written: {out}" in done.stdout
    quick, committed = (
        json.loads(path.read_text(encoding="utf-8")) for path in (out, ROOT / "benchmarks/results/sequential.json")
    )
    keys = [[(row["kind"], row["distance"], row["condition"]) for row in table["rows"]] for table in (quick, committed)]
    assert keys[0] == keys[1], "run benchmarks/sequential.py again"
    assert committed["machine"]["cpu"]
    nulls = [row for row in committed["rows"] if row["kind"] == "null"]
    assert every(row["studies"] == 20_000 and row["false_differences"] <= 0.052 for row in nulls)
    assert every(row["coverage_worst"] >= 0.948 for row in committed["rows"])
    assert committed["mix"]["runs"] <= 0.5 and committed["mix"]["same"] > 0.999
