"""From a table of runs to verdicts: the words, the numbers, and what must never enter a mean."""

from __future__ import annotations

import dataclasses
import math
import time

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from gpt_lab.errors import ConfigError, DataError
from gpt_lab.report.compare import compare
from gpt_lab.report.stats import pooled_t
from gpt_lab.report.types import COLUMNS, Study
from gpt_lab.sweep.design import Design
from tests.report.made import DESIGN, NOISE, arm, of_size, row, run, study, warned


def test_verdicts_follow_the_interval_and_the_band() -> None:
    found = compare(of_size(-0.05, 0.05, 0.0, 0.006, -0.0095))
    verdicts = {position: row(found, position).verdict for position in "abcde"}
    assert verdicts == {"a": "better", "b": "worse", "c": "equivalent", "d": "equivalent", "e": "real but small"}
    assert [r.arm for r in found.rows if r.arm[-1] in "abd"] == [f"position={name}" for name in "adb"]
    assert [r.delta.estimate for r in found.rows if r.delta] == pytest.approx([-0.05, -0.0095, 0, 0.006, 0.05])
    assert row(found, "rope").verdict == "baseline" and row(found, "rope").delta is None
    assert {r.tier for r in found.rows} == {None, "confirm"}
    assert found.correction == "Holm over 5 comparisons" and found.sesoi == 0.01
    assert row(compare(of_size(0.009, spread=0.02)), "a").verdict == "undecided"


def test_maximize_is_the_mirror() -> None:
    made = of_size(-0.05, 0.05, 0.0)
    made.design = dataclasses.replace(made.design, goal="maximize")
    found = compare(made)
    assert (found.rows[0].arm, found.rows[-1].arm) == ("position=b", "position=a")
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
        assert row(found, name).rho == pytest.approx(np.corrcoef(scores[name], scores["rope"])[0, 1])
        p.append(expected.pvalue)
    small, large = sorted(p)
    adjusted = sorted(row(found, name).p_adjusted or 0 for name in ("a", "b"))
    assert adjusted == pytest.approx([min(1, 2 * small), max(large, min(1, 2 * small))])
    assert row(found, "a").mean == pytest.approx(scores["a"].mean())
    assert row(found, "a").sd == pytest.approx(scores["a"].std(ddof=1))
    assert row(found, "a").medians["seconds"] == 62.5


def test_the_screen_tier_is_the_pooled_t() -> None:
    rng = np.random.default_rng(1)
    scores = {name: 2 + rng.normal(0, 0.01, 3) for name in ("rope", "a", "b", "c")}
    found = compare(study([r for name, values in scores.items() for r in arm(name, values)]))
    fit = pooled_t([scores[name] - scores["rope"] for name in "abc"])
    for k, name in enumerate("abc"):
        mine = row(found, name)
        assert mine.tier == "screen" and mine.delta is not None
        assert (mine.delta.estimate, mine.delta.df, mine.delta.p) == pytest.approx(
            (fit.estimate[k], fit.df[k], fit.p()[k])
        )
        assert mine.runs_saved is None  # rho of three pairs is no ground for a number
    assert found.correction == "Benjamini-Hochberg over 3 comparisons"


def test_tiers_side_by_side_are_one_family() -> None:
    rng = np.random.default_rng(3)
    rows = [
        r for name, seeds in (("rope", 6), ("a", 6), ("b", 3)) for r in arm(name, 2 + 0.01 * rng.normal(size=seeds))
    ]
    found = compare(study(rows))
    a, b = row(found, "a"), row(found, "b")
    assert (a.tier, b.tier) == ("confirm", "screen")
    assert a.delta is not None and a.p_adjusted == pytest.approx(min(1, 2 * a.delta.p))
    assert b.delta is not None and b.p_adjusted == pytest.approx(min(1, 2 * b.delta.p))
    assert found.correction == "Holm (confirm), Benjamini-Hochberg (screen) over 2 comparisons"


def test_what_pairing_was_worth_is_said() -> None:
    found = compare(of_size(0.0, 0.01, seeds=7, spread=0.0005))
    assert any("same seed correlate by 0.9" in note and "between 0." in note for note in found.notes)
    assert any("too few to be sure" in note for note in compare(of_size(0.0, seeds=3)).notes)
    mine = row(found, "a")
    assert mine.rho is not None and mine.rho > 0.9
    assert mine.runs_saved is not None and 100 < mine.runs_saved < 2 * 7 * mine.rho / (1 - mine.rho)


def test_tier_can_be_asked_for() -> None:
    assert {r.tier for r in compare(of_size(-0.05, 0.1), tier="screen").rows} == {None, "screen"}
    found = compare(of_size(-0.05, 0.1, seeds=4), tier="confirm")
    assert (row(found, "a").verdict, row(found, "a").more_seeds, row(found, "a").p_adjusted) == ("undecided", 1, None)
    assert "5 are the fewest that confirm" in row(found, "a").warnings[0]
    with pytest.raises(ConfigError, match="unknown tier 'confrim'; did you mean 'confirm'"):
        compare(of_size(0.1), tier="confrim")  # type: ignore[arg-type]


def test_undecided_names_the_seeds_that_decide() -> None:
    """With that many seeds more and the same estimate and spread, it is decided."""
    made = of_size(0.004, spread=0.008)
    more = row(compare(made), "a").more_seeds
    assert more is not None and 3 <= more <= 40
    seeds = 5 + more
    rng = np.random.default_rng(2)
    d = rng.standard_normal(seeds)
    d = 0.004 + (d - d.mean()) / d.std(ddof=1) * 0.008 * math.sqrt(5 / 6)
    rows = arm("rope", 2 + 0.002 * rng.standard_normal(seeds))
    rows += arm("a", [r["score"] + x for r, x in zip(rows, d, strict=True)])
    assert row(compare(study(rows)), "a").verdict != "undecided"


def test_too_few_pairs() -> None:
    one, two = row(compare(of_size(-0.5, seeds=1)), "a"), row(compare(of_size(-0.5, -0.1, seeds=2)), "a")
    assert (one.verdict, one.n, one.delta, one.more_seeds) == ("undecided", 1, None, 2)
    assert "one pair only: it differs by -0.5" in one.warnings[0]
    assert (two.verdict, two.n) == ("undecided", 2) and two.delta is not None and (two.more_seeds or 0) >= 1
    assert "2 pairs only" in two.warnings[0]


def test_no_data_is_said() -> None:
    rows = [*arm("rope", 2 + NOISE), run("a", 0, 0, state="missing"), run("b", 99, 1.0)]
    rows += arm("c", [0, 0, 0], state="diverged")
    found = compare(study(rows))
    assert {row(found, p).verdict for p in "abc"} == {"no data"}
    assert found.rows[0].arm == "position=rope"
    assert row(found, "a").states == {"missing": 1} and row(found, "a").mean is None
    assert row(found, "b").warnings == ("no seed that the baseline finished too",)
    assert warned(found, "c") == ("3 runs diverged",)
    lonely = compare(study([run("rope", 0, 0, state="failed"), *arm("a", 2 + NOISE)]))
    assert row(lonely, "a").verdict == "no data" and "the baseline has no finished run" in row(lonely, "a").warnings
    assert lonely.noise is None


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_scores_that_are_no_number_never_enter_a_mean(bad: float) -> None:
    rows = of_size(-0.05, 0.1, seeds=7).runs.to_dict("records")
    clean = row(compare(study([r for r in rows if (r["arm"], r["pair"]) != ("position=a", "3")])), "a")
    for r in rows:
        if (r["arm"], r["pair"]) == ("position=a", "3"):
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
    assert [r.arm for r in found.rows] == ["position=a", "position=rope", "position=b"]
    assert {r.verdict for r in found.rows} == {"undecided"} and {r.delta for r in found.rows} == {None}
    assert found.noise is None and "--baseline" in found.notes[0]


def test_one_arm_tells_its_noise() -> None:
    scores = 2 + NOISE
    plain = Design("seeds")
    found = compare(study([r | {"arm": ""} for r in arm("rope", scores)], plain))
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
    again = [r | {"run": r["run"] + "b", "score": r["score"] + 0.002} for r in rows if r["arm"] == "position=a"]
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
        run("rope", s, 2 + 0.01 * rng.standard_normal()) | {"arm": f"replica={r}", "config.replica": r}
        for r in (0, 1)
        for s in range(6)
    ]
    found = compare(study(rows, design))
    scores = pd.DataFrame(rows).pivot(index="pair", columns="arm", values="score")
    null = next(r for r in found.rows if r.arm == "replica=1")
    assert null.delta is not None and (null.tier, null.warnings) == ("confirm", ())
    assert null.delta.p == pytest.approx(stats.ttest_rel(scores["replica=1"], scores["replica=0"]).pvalue)


def test_default_band() -> None:
    """0.005 nats per byte in the metric's unit, or half a run's standard deviation if that is more."""
    rows = of_size(0.0).runs
    default = dataclasses.replace(DESIGN, sesoi=None)
    assert compare(study(rows.to_dict("records"), default)).sesoi == pytest.approx(0.005 / math.log(2))
    noisy = rows.assign(score=2 + (rows["score"] - 2) * 20)
    sds = noisy.groupby("arm")["score"].std()
    scale = math.sqrt(4 / stats.chi2.median(4))
    assert compare(study(noisy.to_dict("records"), default)).sesoi == pytest.approx(
        math.sqrt((sds**2).median()) * scale / 2
    )
    loss = rows.assign(**{"summary.val/bpb": 2.0, "summary.val/loss": 2.0 * math.log(2) * 3.5})
    per_token = dataclasses.replace(default, metric="val/loss")
    assert compare(study(loss.to_dict("records"), per_token)).sesoi == pytest.approx(0.005 * 3.5)
    assert compare(study(rows.to_dict("records"), per_token)).sesoi == pytest.approx(0.005)
    perplexity = dataclasses.replace(default, metric="val/ppl")
    assert compare(study(loss.to_dict("records"), perplexity)).sesoi == pytest.approx(0.005 * 3.5 * 2, rel=1e-3)
    other = compare(study(rows.to_dict("records"), dataclasses.replace(default, metric="perf/tokens_per_s")))
    assert other.sesoi == pytest.approx(math.sqrt((rows.groupby("arm")["score"].std() ** 2).median()) * scale / 2)


def test_a_winner_is_reported_shrunk_and_screens_ask_for_fresh_seeds() -> None:
    found = compare(of_size(-0.05, -0.04, -0.045, 0.0, seeds=4, spread=0.004))
    assert any("position=a was selected out of 4: its difference of -0.05" in note for note in found.notes)
    assert any("confirm a better arm" in note for note in found.notes)
    assert not any("confirm a better arm" in note for note in compare(of_size(-0.05, 0.1)).notes)


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
def test_ten_thousand_runs_in_seconds(arms: int, seeds: int) -> None:
    rng = np.random.default_rng(9)
    one = pd.DataFrame([run("rope", 0, 2.0)])
    runs = one.loc[[0] * (arms * seeds)].reset_index(drop=True)
    runs["arm"] = [f"position={i // seeds}" for i in range(len(runs))]
    runs["pair"] = [str(i % seeds) for i in range(len(runs))]
    runs["score"] = 2 + 0.01 * rng.standard_normal(len(runs))
    for i in range(60):
        runs[f"config.group{i}.option"] = "value"
    made = Study(dataclasses.replace(DESIGN, baseline={"position": 0}), runs)
    began = time.process_time()
    assert len(compare(made).rows) == arms
    assert time.process_time() - began < 5
