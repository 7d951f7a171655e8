"""Sequential seeds in the report: planted effects, and what is said of the looks."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from gpt_lab.analysis import looks
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


def test_holm_may_say_more_than_the_looks_and_never_less() -> None:
    d = np.random.default_rng(0).standard_normal((4000, 4, 10)) + np.array([3.0, 3.0, 1.2, 1.2])[:, None]
    found = looks.decide(d, Looks(3, 10, 4), 0.05, 0.0)
    named = np.isin(found.claim, (decision.LOWER, decision.HIGHER, decision.EQUIVALENT))
    assert not (found.standings.decided & ~named).any()
    assert (named & ~found.standings.decided).any()
