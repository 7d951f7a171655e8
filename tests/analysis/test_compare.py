"""From a table of runs to verdicts: the words, the numbers, and what must never enter a mean."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from gpt_lab.analysis.compare import compare
from gpt_lab.analysis.judge import seeds_to_plan
from gpt_lab.analysis.wording import answer
from gpt_lab.errors import ConfigError, DataError
from gpt_lab.frame.study import COLUMNS, Study
from gpt_lab.stats import power_analysis
from gpt_lab.stats.paired import correlation, paired_t
from gpt_lab.study.design import Design, Settings, Stated
from tests.report.made import DESIGN, NOISE, arm, of_size, row, run, study, warned
from tests.study.arms import settings


def test_verdicts_follow_the_interval_and_the_band() -> None:
    found = compare(of_size(-0.05, 0.05, 0.0, 0.006, -0.0095))
    verdicts = {position: row(found, position).verdict for position in "abcde"}
    assert verdicts == {"a": "better", "b": "worse", "c": "equivalent", "d": "equivalent", "e": "real but small"}
    assert [r.arm for r in found.rows if r.arm.text("position") in "abd"] == [
        settings(f"position={name}") for name in "adb"
    ]
    assert [r.delta.estimate for r in found.rows if r.delta] == pytest.approx([-0.05, -0.0095, 0, 0.006, 0.05])
    assert row(found, "rope").verdict == "baseline" and row(found, "rope").delta is None
    assert {r.tier for r in found.rows} == {None, "confirm"}
    assert found.correction == "Holm over 5 comparisons" and found.sesoi == 0.01
    assert row(compare(of_size(0.009, spread=0.02)), "a").verdict == "undecided"


def test_small_is_said_with_how_far_the_interval_reaches() -> None:
    """A difference of at least 0 and at most several margins has not been shown to be small."""
    found = compare(of_size(0.03, spread=0.02))
    e = row(found, "a")
    assert e.verdict == "real but small" and e.delta is not None and found.sesoi == 0.01
    assert f"(interval up to {e.delta.high / 0.01:.1f} times the smallest effect size of interest)" in answer(found)
    assert e.delta.high > 0.03


def test_maximize_is_the_mirror() -> None:
    made = of_size(-0.05, 0.05, 0.0)
    made.design = dataclasses.replace(made.design, goal="maximize")
    found = compare(made)
    assert (found.rows[0].arm, found.rows[-1].arm) == (settings("position=b"), settings("position=a"))
    assert (row(found, "a").verdict, row(found, "b").verdict) == ("worse", "better")


def test_the_confirm_tier_is_a_paired_t_with_holm() -> None:
    rng = np.random.default_rng(0)
    scores = {name: 2 + NOISE[:6] + rng.normal(0, 0.01, 6) for name in ("rope", "a", "b")}
    found = compare(study([r for name, values in scores.items() for r in arm(name, values)]))
    p = []
    for name in ("a", "b"):
        expected = stats.ttest_rel(scores[name], scores["rope"])
        interval = expected.confidence_interval()
        delta = row(found, name).delta
        assert delta is not None
        assert (delta.low, delta.high, delta.p, delta.df) == pytest.approx(
            (interval.low, interval.high, expected.pvalue, 5)
        )
        assert row(found, name).rho == pytest.approx(correlation(scores[name], scores["rope"]))
        p.append(expected.pvalue)
    small, large = sorted(p)
    adjusted = sorted(row(found, name).p_adjusted or 0 for name in ("a", "b"))
    assert adjusted == pytest.approx([min(1, 2 * small), max(large, min(1, 2 * small))])
    assert row(found, "a").mean == pytest.approx(scores["a"].mean())
    assert row(found, "a").sd == pytest.approx(scores["a"].std(ddof=1))
    assert row(found, "a").medians["seconds"] == 62.5


def test_three_seeds_are_a_screen_of_the_same_test() -> None:
    rng = np.random.default_rng(1)
    scores = {name: 2 + rng.normal(0, 0.01, 3) for name in ("rope", "a", "b", "c")}
    found = compare(study([r for name, values in scores.items() for r in arm(name, values)]))
    for name in "abc":
        mine = row(found, name)
        assert mine.tier == "screen" and mine.delta is not None and mine.rho is None
        assert mine.delta.p == pytest.approx(stats.ttest_rel(scores[name], scores["rope"]).pvalue)
    assert found.correction == "Holm over 3 comparisons"


def test_tiers_side_by_side_are_one_family() -> None:
    rng = np.random.default_rng(3)
    scores = {name: 2 + 0.01 * rng.normal(size=seeds) for name, seeds in (("rope", 6), ("a", 6), ("b", 3))}
    found = compare(study([r for name, values in scores.items() for r in arm(name, values)]))
    rows = [row(found, "a"), row(found, "b")]
    p = sorted(one.delta.p for one in rows if one.delta)
    adjusted = sorted(one.p_adjusted or 0.0 for one in rows)
    assert adjusted == pytest.approx([min(1, 2 * p[0]), max(min(1, 2 * p[0]), p[1])])
    assert rows[1].tier == "screen" and found.correction == "Holm over 2 comparisons"


def test_other_arms_do_not_move_a_verdict_but_by_their_number() -> None:
    """Noisy arms beside a sure one change its correction, never its interval or its margin."""
    quiet, loud = of_size(-0.05), of_size(-0.05, 0.0, 0.0)
    loud.runs.loc[loud.runs["arm"].isin([settings("position=b"), settings("position=c")]), "score"] += np.resize(
        [1.0, -1.0, 0.3], 10
    )
    one, other = row(compare(quiet), "a"), row(compare(loud), "a")
    assert one.verdict == other.verdict == "better" and one.delta == other.delta
    for made in (quiet, loud):
        made.design = dataclasses.replace(made.design, sesoi=None)
        assert row(compare(made), "a").verdict == "better" and compare(made).sesoi is None
    assert row(compare(loud), "b").verdict == "undecided"


def test_without_a_margin_nothing_is_equivalent_or_small() -> None:
    made = of_size(-0.0095, 0.0, 0.05)
    assert [row(compare(made), name).verdict for name in "abc"] == ["real but small", "equivalent", "worse"]
    made.design = dataclasses.replace(made.design, sesoi=None)
    assert [row(compare(made), name).verdict for name in "abc"] == ["better", "undecided", "worse"]


def test_what_pairing_was_worth_is_a_detail() -> None:
    found = compare(of_size(0.0, 0.01, seeds=7, spread=0.0005))
    assert any("same seed correlate by 0.9" in text and "between 0." in text for text in found.details)
    mine = row(found, "a")
    assert mine.rho is not None and mine.rho > 0.9
    assert f"position=a {mine.rho:.2f}" in found.details[0]
    assert row(compare(of_size(0.0, seeds=4)), "a").rho is None


def test_the_seed_is_the_unit_of_replication() -> None:
    """Five learning rates of one seed are one seed; of three seeds, three: the averages within each are compared."""
    rates = (0.001, 0.002, 0.003, 0.004, 0.005)
    rng = np.random.default_rng(0)

    def runs(seeds: int) -> list[dict[str, Any]]:
        return [
            run(name, seed, 2 - shift + 0.01 * rng.standard_normal(), copy=rate) | {"stratum": f"optim.lr={rate:g}"}
            for name, shift in (("rope", 0.0), ("a", 0.5))
            for seed in range(seeds)
            for rate in rates
        ]

    one = row(compare(study(runs(1))), "a")
    assert (one.verdict, one.n, one.delta, one.runs) == ("undecided", 1, None, 5)
    rows = runs(3)
    three = row(compare(study(rows)), "a")
    means = pd.DataFrame(rows).groupby(["arm", "pair"])["score"].mean()
    expected = stats.ttest_rel(means[settings("position=a")], means[settings("position=rope")])
    assert (three.n, three.tier, three.verdict) == (3, "screen", "better")
    assert three.delta is not None and (three.delta.p, three.delta.df) == pytest.approx((expected.pvalue, 2))
    lost = [r for r in rows if (r["arm"], r["pair"], r["stratum"]) != (settings("position=a"), "1", "optim.lr=0.003")]
    found = compare(study(lost))
    frame = pd.DataFrame([r for r in lost if (r["pair"], r["stratum"]) != ("1", "optim.lr=0.003")])
    same = frame.groupby(["arm", "pair"])["score"].mean()
    assert row(found, "a").mean == pytest.approx(same[settings("position=a")].mean())
    assert row(found, "rope").mean == pytest.approx(same[settings("position=rope")].mean())
    assert any("1 runs are left out of the averages within a seed" in note for note in found.notes)


def test_tier_can_be_asked_for() -> None:
    assert {r.tier for r in compare(of_size(-0.05, 0.1), tier="screen").rows} == {None, "screen"}
    found = compare(of_size(-0.05, 0.1, seeds=4), tier="confirm")
    assert (row(found, "a").verdict, row(found, "a").p_adjusted) == ("undecided", None)
    assert "5 are the fewest that confirm" in row(found, "a").warnings[0]
    with pytest.raises(ConfigError, match="unknown tier 'confrim'; did you mean 'confirm'"):
        compare(of_size(0.1), tier="confrim")  # type: ignore[arg-type]


def test_a_range_of_seeds_holds_what_decides() -> None:
    """Over studies of one effect, the range told holds the seeds that truly decide in most of them."""
    rng = np.random.default_rng(2)
    needed = power_analysis.sample_size(1.2)
    assert needed is not None
    told = []
    for _ in range(60):
        d = 1.2 + rng.standard_normal(5)
        fit = paired_t([d])
        told.append(seeds_to_plan(float(fit.estimate[0]), float(fit.error[0]), 5, sesoi=0.0, alpha=0.05, arms=1))
    held = [plan is not None and plan[0] <= needed <= (plan[1] or math.inf) for plan in told]
    assert np.mean(held) > 0.75
    assert seeds_to_plan(0.0, 1.0, 5, sesoi=0.0, alpha=0.05, arms=1) == (11, None)
    assert seeds_to_plan(0.01, 0.1, 5, sesoi=0.01, alpha=0.05, arms=9) == (19, None)
    assert seeds_to_plan(0.001, 0.01, 5, sesoi=0.0011, alpha=0.05, arms=1) is not None
    found = compare(of_size(0.004, spread=0.008))
    assert row(found, "a").verdict == "undecided" and row(found, "a").plan is not None
    assert any("plan a new study (power 80 %): position=a" in note for note in found.notes)


def test_too_few_pairs() -> None:
    one, two = row(compare(of_size(-0.5, seeds=1)), "a"), row(compare(of_size(-0.5, -0.1, seeds=2)), "a")
    assert (one.verdict, one.n, one.delta, one.plan) == ("undecided", 1, None, None)
    assert "one pair only: it differs by -0.5" in one.warnings[0]
    assert (two.verdict, two.n) == ("undecided", 2) and two.delta is not None
    assert "2 pairs only" in two.warnings[0]


def test_no_data_is_said() -> None:
    rows = [*arm("rope", 2 + NOISE), run("a", 0, 0, state="missing"), run("b", 99, 1.0)]
    rows += arm("c", [0, 0, 0], state="diverged")
    found = compare(study(rows))
    assert {row(found, p).verdict for p in "abc"} == {"no data"}
    assert found.rows[0].arm == settings("position=rope")
    assert row(found, "a").states == {"missing": 1} and row(found, "a").mean is None
    assert row(found, "b").warnings == ("no seed that the baseline finished too",)
    assert warned(found, "c") == ("3 runs diverged",)
    lonely = compare(study([run("rope", 0, 0, state="failed"), *arm("a", 2 + NOISE)]))
    assert row(lonely, "a").verdict == "no data" and "the baseline has no finished run" in row(lonely, "a").warnings
    assert lonely.noise is None


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_scores_that_are_no_number_never_enter_a_mean(bad: float) -> None:
    rows = of_size(-0.05, 0.1, seeds=7).runs.to_dict("records")
    clean = row(compare(study([r for r in rows if (r["arm"], r["pair"]) != (settings("position=a"), "3")])), "a")
    for r in rows:
        if (r["arm"], r["pair"]) == (settings("position=a"), "3"):
            r["score"] = bad
    found = row(compare(study(rows)), "a")
    assert (found.n, found.runs, found.mean, found.sd) == (6, 6, clean.mean, clean.sd)
    assert found.delta == clean.delta
    assert found.states == ({"without score": 1} if math.isnan(bad) else {"diverged": 1})


def test_baseline_missing_or_not_stated() -> None:
    made = of_size(-0.05, 0.1)
    made.design = dataclasses.replace(DESIGN, baseline={"position": "rop"})
    with pytest.raises(DataError, match=r"unknown baseline 'position=rop'; did you mean 'position=rope'.*position=a"):
        compare(made)
    made.design = dataclasses.replace(DESIGN, baseline=None)
    found = compare(made)
    assert [r.arm for r in found.rows] == [settings("position=a"), settings("position=rope"), settings("position=b")]
    assert {r.verdict for r in found.rows} == {"undecided"} and {r.delta for r in found.rows} == {None}
    assert found.noise is None and "--baseline" in found.notes[0]


def test_one_arm_tells_its_noise() -> None:
    scores = 2 + NOISE
    plain = Design("seeds")
    found = compare(study([r | {"arm": Settings()} for r in arm("rope", scores)], plain))
    assert [r.verdict for r in found.rows] == ["baseline"] and found.correction == "none: no comparison"
    half = stats.t.ppf(0.975, 6) * math.sqrt(2 * scores.var(ddof=1) / 7)
    assert found.noise is not None and (found.noise.low, found.noise.high) == pytest.approx((-half, half))
    assert compare(study([run("rope", 0, 2.0)])).noise is None


def test_noise_is_what_an_equal_arm_would_get() -> None:
    found = compare(of_size(-0.05, 0.1, spread=0.002))
    delta = row(found, "a").delta
    assert delta is not None and found.noise is not None
    assert found.noise.high == pytest.approx(delta.high - delta.estimate)
    assert (found.noise.estimate, found.noise.df, found.noise.p) == (0, 4, 1)


def test_runs_that_repeat_an_arm_and_pair_count_once() -> None:
    rows = of_size(-0.05, 0.1).runs.to_dict("records")
    again = [
        r | {"run": r["run"] + "b", "score": r["score"] + 0.002} for r in rows if r["arm"] == settings("position=a")
    ]
    found = compare(study(rows + again))
    plain = row(compare(study(rows)), "a")
    assert row(found, "a").n == 5 and row(found, "a").runs == 10
    assert row(found, "a").mean == pytest.approx((plain.mean or 0) + 0.001)
    assert "5 runs repeat an arm and pair" in found.notes[0]


def test_a_setting_that_changes_nothing_and_a_seed_that_draws_nothing() -> None:
    rows = arm("rope", 2 + NOISE) + arm("a", 2 + NOISE) + arm("b", 2.1 + NOISE) + arm("c", 2 + NOISE * 2)
    found = compare(study(rows))
    assert row(found, "a").verdict == "equivalent" and "changed nothing" in row(found, "a").warnings[0]
    assert row(found, "b").verdict == "undecided" and "draws no new run" in row(found, "b").warnings[0]
    assert row(found, "c").delta is not None and math.isfinite(row(found, "c").delta.p)  # type: ignore[union-attr]
    same = compare(study(arm("rope", [2.0] * 5) + arm("a", [2.0] * 5)))
    assert row(same, "a").verdict == "equivalent" and row(same, "a").rho is None


def test_a_null_arm_is_an_arm_like_any_other() -> None:
    design = Design("seeds", factors=("replica",), baseline={"replica": 0})
    rng = np.random.default_rng(8)
    rows = [
        run("rope", s, 2 + 0.01 * rng.standard_normal()) | {"arm": settings(f"replica={r}"), "config.replica": r}
        for r in (0, 1)
        for s in range(6)
    ]
    found = compare(study(rows, design))
    scores = pd.DataFrame(rows).pivot(index="pair", columns="config.replica", values="score")
    null = next(r for r in found.rows if r.arm == settings("replica=1"))
    assert null.delta is not None and (null.tier, null.warnings) == ("confirm", ())
    assert null.delta.p == pytest.approx(stats.ttest_rel(scores[1], scores[0]).pvalue)


def test_a_winner_is_reported_shrunk_and_screens_ask_for_a_new_study() -> None:
    found = compare(of_size(-0.05, -0.04, -0.045, 0.0, seeds=4, spread=0.001))
    assert any("position=a was selected out of 4: its difference of −0.05" in note for note in found.notes)
    assert any("A screen suggests" in note for note in found.notes)
    assert not any("A screen suggests" in note for note in compare(of_size(-0.05, 0.1)).notes)


def test_an_arm_without_noise_beside_a_winner() -> None:
    base, constant = arm("rope", 2 + NOISE[:5]), arm("same", 2.001 + NOISE[:5])
    winners = [arm(name, 1.9 + NOISE[:5] + 0.1 * np.roll(NOISE[:5], k)) for k, name in enumerate(("a", "b"), 1)]
    found = compare(study([*base, *constant, *winners[0], *winners[1]]))
    assert row(found, "a").verdict == "better"
    assert any("was selected out of 3: its difference of −0.1000" in note for note in found.notes)


def test_each_better_and_worse_says_what_leaving_out_a_seed_does() -> None:
    found = compare(of_size(-0.05, 0.05, 0.0))
    (said,) = (note for note in found.notes if "Leaving out one seed" in note)
    assert said.count(" to ") == 2 and said.endswith(": no verdict turns.")
    rows = arm("rope", [2.0] * 5) + arm("a", [1.98, 1.97, 1.985, 1.94, 1.90])
    design = dataclasses.replace(DESIGN, sesoi=None)
    fragile = compare(study(rows, design))
    mine = row(fragile, "a")
    assert (mine.verdict, mine.tier) == ("better", "screen") and mine.turns
    assert f"another verdict without seed {' or '.join(mine.turns)}" in mine.warnings[0]
    assert any(f"another verdict for position=a without seed {' or '.join(mine.turns)}" in n for n in fragile.notes)


def test_what_was_not_stated_before_the_first_run_is_post_hoc() -> None:
    made = of_size(-0.05)
    assert compare(made).post_hoc == ()
    made.stated = Stated(0.02, "val/loss", ("0", "1", "2"))
    found = compare(made)
    assert "0.01 bits per byte is post hoc: 0.02 was stated" in found.post_hoc[0]
    assert "val/bpb is post hoc: val/loss was stated" in found.post_hoc[1]
    assert row(found, "a").tier == "screen" and "seeds were added after runs were seen" in row(found, "a").warnings[0]
    made.stated = Stated(None, "val/bpb")
    assert "none was stated before the first run" in compare(made).post_hoc[0]
    assert row(compare(made), "a").tier == "confirm"


@pytest.mark.parametrize(
    "change, message",
    [
        ({"alpha": 0.0}, "alpha=0"),
        ({"alpha": 1.5}, "alpha=1.5"),
        ({"sesoi": -0.1}, "sesoi=-0.1"),
        ({"sesoi": math.inf}, "sesoi=inf"),
    ],
)
def test_bad_thresholds(change: dict[str, float], message: str) -> None:
    made = of_size(0.1)
    made.design = dataclasses.replace(made.design, **change)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=message):
        compare(made)


def test_no_runs() -> None:
    with pytest.raises(DataError, match="study pos has no runs"):
        compare(Study(DESIGN, pd.DataFrame(columns=list(COLUMNS))))


@pytest.mark.parametrize("arms, seeds", [(3333, 3), (10, 1000)])
def test_ten_thousand_runs(arms: int, seeds: int) -> None:
    rng = np.random.default_rng(9)
    one = pd.DataFrame([run("rope", 0, 2.0)])
    runs = one.loc[[0] * (arms * seeds)].reset_index(drop=True)
    runs["arm"] = [settings(f"position={i // seeds}") for i in range(len(runs))]
    runs["pair"] = [str(i % seeds) for i in range(len(runs))]
    runs["score"] = 2 + 0.01 * rng.standard_normal(len(runs))
    for i in range(60):
        runs[f"config.group{i}.option"] = "value"
    made = Study(dataclasses.replace(DESIGN, baseline={"position": 0}), runs)
    assert len(compare(made).rows) == arms
