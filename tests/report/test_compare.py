"""From a table of runs to verdicts: the words, what forbids them, and what must never enter a mean."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from gpt_lab.errors import ConfigError, DataError
from gpt_lab.report.compare import compare
from gpt_lab.report.stats import pooled_t
from gpt_lab.report.types import COLUMNS, Comparison, Row, Study
from gpt_lab.sweep.design import Design

DESIGN = Design("pos", factors=("position",), baseline={"position": "rope"}, mei=0.01)
TUNED = dataclasses.replace(
    DESIGN, nuisance=("optim.lr",), values={"position": ("rope", "none"), "optim.lr": (0.001, 0.003, 0.01, 0.03)}
)
NOISE = np.array([0.000, 0.004, -0.003, 0.001, -0.002, 0.003, -0.001])
"""Of seeds 0, 1, ...: what all arms share."""


def run(position: str, seed: int, score: float, **more: Any) -> dict[str, Any]:
    """A row of the table as the loader makes it."""
    lr = more.pop("lr", None)
    config = {"config.position.name": position, "config.seed": seed, "config.optim.lr": lr or 0.001}
    state = more.pop("state", "finished")
    row: dict[str, Any] = dict.fromkeys(COLUMNS, math.nan) | {
        "run": f"{position}-{lr}-{seed}-{more.pop('copy', 0)}",
        "source": "local",
        "study": "pos",
        "name": position,
        "state": state,
        "arm": f"position={position}",
        "tuning": "" if lr is None else f"optim.lr={lr:g}",
        "pair": str(seed),
        "score": score if state == "finished" else math.nan,
        "error": "",
        "tokens": 1e6,
        "seconds": 60.0 + seed,
        "parameters": 1000,
    }
    return row | config | more


def study(rows: Sequence[Mapping[str, Any]], design: Design = DESIGN) -> Study:
    return Study(design, pd.DataFrame(rows))


def arm(position: str, scores: Sequence[float], **more: Any) -> list[dict[str, Any]]:
    return [run(position, seed, float(score), **more) for seed, score in enumerate(scores)]


def row(comparison: Comparison, position: str) -> Row:
    return next(row for row in comparison.rows if row.arm == f"position={position}")


def of_size(*effects: float, seeds: int = 5, spread: float = 0.001) -> Study:
    """An arm a, b, ... for each effect, and the baseline; spread is of a pair's difference."""
    rows = arm("rope", 2 + NOISE[:seeds])
    for name, effect in zip("abcdefgh", effects, strict=False):
        wave = np.resize([spread, -spread, 0.0], seeds)
        rows += arm(name, 2 + NOISE[:seeds] + effect + wave - wave.mean())
    return study(rows)


def test_verdicts_follow_the_interval_and_the_band() -> None:
    found = compare(of_size(-0.05, 0.05, 0.0, 0.006, -0.0095))
    verdicts = {position: row(found, position).verdict for position in "abcde"}
    assert verdicts == {"a": "better", "b": "worse", "c": "equivalent", "d": "equivalent", "e": "real but small"}
    assert [r.arm for r in found.rows if r.arm[-1] in "abd"] == [f"position={name}" for name in "adb"]
    assert [r.delta.estimate for r in found.rows if r.delta] == pytest.approx([-0.05, -0.0095, 0, 0.006, 0.05])
    assert row(found, "rope").verdict == "baseline" and row(found, "rope").delta is None
    assert {r.tier for r in found.rows} == {None, "confirm"}
    assert found.correction == "Holm over 5 comparisons" and found.mei == 0.01
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
    assert row(found, "c").warnings == ("3 runs diverged",)
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


@pytest.mark.parametrize("state", ["diverged", "pruned"])
def test_an_arm_that_loses_pairs_to_divergence_is_not_better(state: str) -> None:
    rows = of_size(-0.05, 0.1, seeds=6).runs.to_dict("records")
    for r in rows:
        if (r["arm"], r["pair"]) in {("position=a", "3"), ("position=b", "2")}:
            r["state"], r["score"] = state, math.nan
    found = compare(study(rows))
    assert (row(found, "a").verdict, row(found, "a").n, row(found, "a").more_seeds) == ("undecided", 5, None)
    assert row(found, "a").warnings == (f"1 run {state}: only the others are compared",)
    assert row(found, "b").verdict == "worse"


def test_a_failed_run_only_costs_its_pair() -> None:
    rows = of_size(-0.05, seeds=6).runs.to_dict("records")
    rows[8] |= {"state": "failed", "score": math.nan}
    found = row(compare(study(rows)), "a")
    assert (found.verdict, found.n, found.states, found.warnings) == ("better", 5, {"failed": 1}, ())


def test_a_baseline_that_lost_runs_to_divergence_makes_no_arm_worse() -> None:
    rows = of_size(0.1, seeds=6).runs.to_dict("records")
    rows[2] |= {"state": "diverged", "score": math.nan}
    assert row(compare(study(rows)), "a").verdict == "undecided"


def tuned(
    scores: Mapping[str, Mapping[float, float]], seeds: Sequence[int] = range(5), design: Design = TUNED
) -> Study:
    """Each arm with each learning rate at this score on every seed, plus the seed's own noise."""
    rows = []
    for position, by_lr in scores.items():
        for lr, score in by_lr.items():
            wiggle = [0.0005, -0.0005, 0.0, 0.0002, -0.0002, 0.0001, -0.0001]
            own = 0.0 if position == "rope" else 1.0
            rows += [run(position, s, score + NOISE[s % 7] + own * wiggle[s % 7], lr=lr) for s in seeds]
    return study(rows, design)


BOWL = {0.001: 2.2, 0.003: 2.0, 0.01: 2.1}


def test_nuisance_settings_are_chosen_within_each_arm() -> None:
    made = tuned({"rope": BOWL, "none": {0.001: 2.1, 0.003: 1.95, 0.01: 2.3}})
    found = compare(made)
    none = row(found, "none")
    assert (none.tuning, none.on_edge, none.n, none.runs) == ("optim.lr=0.003", False, 5, 15)
    assert none.delta is not None and none.delta.estimate == pytest.approx(-0.05, abs=1e-3)
    assert (none.verdict, none.tier) == ("better", "screen")
    assert none.warnings == ("tuned on the seeds that are compared: screen only",)
    assert row(compare(made, tier="confirm"), "none").verdict == "undecided"
    assert row(compare(made, tier="confirm"), "none").more_seeds == 5


def test_fresh_seeds_confirm_what_others_chose() -> None:
    rows = tuned({"rope": BOWL, "none": {0.001: 2.1, 0.003: 1.95, 0.01: 2.3}}, seeds=[0]).runs.to_dict("records")
    rows += tuned({"rope": {0.003: 2.0}, "none": {0.003: 1.96}}, seeds=range(1, 6)).runs.to_dict("records")
    found = compare(study(rows, TUNED))
    none = row(found, "none")
    assert (none.verdict, none.tier, none.n, none.warnings) == ("better", "confirm", 5, ())
    assert none.delta is not None and none.delta.estimate == pytest.approx(-0.04, abs=1e-3)
    assert any("chose no nuisance value" in note for note in found.notes)


def test_only_values_with_all_their_pairs_are_chosen() -> None:
    rows = tuned({"rope": BOWL, "none": {0.001: 2.1, 0.003: 2.0, 0.01: 1.5}}).runs.to_dict("records")
    for r in rows:
        if (r["arm"], r["tuning"], r["pair"]) == ("position=none", "optim.lr=0.01", "4"):
            r["state"], r["score"] = "diverged", math.nan
    none = row(compare(study(rows, TUNED)), "none")
    assert none.tuning == "optim.lr=0.003" and none.states == {"diverged": 1}
    assert not any("diverged" in warning for warning in none.warnings)  # that value was not chosen


def test_an_optimum_at_the_edge_forbids_better_and_worse() -> None:
    falling = {0.001: 2.3, 0.003: 2.2, 0.01: 1.9}
    found = row(compare(tuned({"rope": BOWL, "none": falling})), "none")
    assert (found.verdict, found.on_edge) == ("undecided", True)
    assert any("at the edge" in warning for warning in found.warnings)
    worse = row(compare(tuned({"rope": BOWL, "none": {k: v + 0.5 for k, v in falling.items()}})), "none")
    assert worse.verdict == "undecided"
    other = row(compare(tuned({"rope": falling, "none": {k: v - 0.2 for k, v in BOWL.items()}})), "none")
    assert other.verdict == "undecided" and any("the baseline's best optim.lr" in w for w in other.warnings)
    rows = tuned({"rope": BOWL, "none": falling}).runs.to_dict("records")
    rows += [run("none", s, 0, lr=0.03, state="diverged") for s in range(5)]
    rows += [run("rope", s, 0, lr=0.03, state="diverged") for s in range(5)]
    beyond = row(compare(study(rows, TUNED)), "none")
    assert (beyond.verdict, beyond.on_edge, beyond.tuning) == ("better", False, "optim.lr=0.01")
    for r in rows:
        if r["state"] == "diverged":
            r["state"] = "missing"  # never begun: nobody knows what lies beyond
    assert row(compare(study(rows, TUNED)), "none").on_edge


def test_unequal_tuning_forbids_better() -> None:
    more = {0.001: 2.1, 0.003: 1.9, 0.01: 2.3, 0.03: 2.4}
    found = row(compare(tuned({"rope": BOWL, "none": more})), "none")
    assert found.verdict == "undecided" and "unequal tuning: 4 values tried, the baseline 3" in found.warnings
    less = row(compare(tuned({"rope": {k: v - 0.4 for k, v in more.items()}, "none": BOWL})), "none")
    assert less.verdict == "undecided"


def test_drawn_values_each_on_their_own_seeds() -> None:
    """Random search: no value has all pairs; the best of those with most is taken, and said."""
    rows = [run("rope", s, 2 + NOISE[s], lr=0.001 * (s + 1)) for s in range(3)]
    rows += [run("none", s, 1.9 + NOISE[s], lr=0.002 * (s + 1)) for s in range(3)]
    design = dataclasses.replace(TUNED, values={})
    found = row(compare(study(rows, design)), "none")
    assert (found.n, found.verdict) in {(0, "no data"), (1, "undecided")}
    assert any("all its pairs" in warning for warning in found.warnings)


def test_unequal_tokens_forbid_better_unless_the_budget_is_the_question() -> None:
    made = of_size(-0.05, 0.1)
    made.runs.loc[made.runs["arm"] != "position=rope", "tokens"] = 2e6
    found = compare(made)
    assert (row(found, "a").verdict, row(found, "b").verdict) == ("undecided", "worse")
    assert row(found, "a").warnings == ("unequal budget: 2e+06 tokens, the baseline 1e+06",)
    made.runs["config.budget.flops"] = 1e12
    made.runs["flops"] = 1e12
    assert row(compare(made), "a").verdict == "better"  # equal FLOPs were asked for and spent
    budget = dataclasses.replace(DESIGN, factors=("position", "budget.tokens"), baseline={"position": "rope"})
    made = study(made.runs.drop(columns=["config.budget.flops"]).to_dict("records"), budget)
    assert row(compare(made), "a").verdict == "better"


def test_another_tokenizer_needs_bits_per_byte() -> None:
    made = of_size(-0.05, 0.1)
    made.runs["config.tokenizer.name"] = np.where(made.runs["arm"] == "position=a", "bytes", "chars")
    made.design = dataclasses.replace(made.design, factors=("position", "tokenizer"))
    assert row(compare(made), "a").verdict == "better"
    made.design = dataclasses.replace(made.design, metric="val/loss")
    assert row(compare(made), "a").verdict == "undecided"
    assert row(compare(made), "a").warnings == ("another tokenizer than the baseline's: val/loss cannot be compared",)
    assert row(compare(made), "b").verdict == "worse"


def test_other_data_and_other_settings() -> None:
    made = of_size(-0.05, -0.05, 0.0)
    made.runs["config.data.name"] = np.where(made.runs["arm"] == "position=c", "ptb", "shakespeare")
    made.runs["config.model.tied"] = made.runs["arm"] != "position=a"
    made.runs["config.position.theta"] = made.runs["arm"].map({"position=a": 1e4})
    made.runs["config.eval.every"] = made.runs["arm"].map(len)
    found = compare(made)
    assert (row(found, "a").verdict, row(found, "a").warnings) == (
        "undecided",
        ("differs from the baseline in model.tied too",),
    )
    assert (row(found, "b").verdict, row(found, "b").warnings) == ("better", ())
    assert (row(found, "c").verdict, row(found, "c").warnings) == (
        "undecided",
        ("other data than the baseline's: val/bpb cannot be compared",),
    )


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
    default = dataclasses.replace(DESIGN, mei=None)
    assert compare(study(rows.to_dict("records"), default)).mei == pytest.approx(0.005 / math.log(2))
    noisy = rows.assign(score=2 + (rows["score"] - 2) * 20)
    sds = noisy.groupby("arm")["score"].std()
    scale = math.sqrt(4 / stats.chi2.median(4))
    assert compare(study(noisy.to_dict("records"), default)).mei == pytest.approx(
        math.sqrt((sds**2).median()) * scale / 2
    )
    loss = rows.assign(**{"summary.val/bpb": 2.0, "summary.val/loss": 2.0 * math.log(2) * 3.5})
    per_token = dataclasses.replace(default, metric="val/loss")
    assert compare(study(loss.to_dict("records"), per_token)).mei == pytest.approx(0.005 * 3.5)
    assert compare(study(rows.to_dict("records"), per_token)).mei == pytest.approx(0.005)
    perplexity = dataclasses.replace(default, metric="val/ppl")
    assert compare(study(loss.to_dict("records"), perplexity)).mei == pytest.approx(0.005 * 3.5 * 2, rel=1e-3)
    other = compare(study(rows.to_dict("records"), dataclasses.replace(default, metric="perf/tokens_per_s")))
    assert other.mei == pytest.approx(math.sqrt((rows.groupby("arm")["score"].std() ** 2).median()) * scale / 2)


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
        ({"mei": -0.1}, "mei=-0.1"),
        ({"mei": math.inf}, "mei=inf"),
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
