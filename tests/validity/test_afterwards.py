"""What is compared of an arm's runs, and what forbids a verdict however clear the numbers."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest

from gpt_lab.analysis.compare import compare
from gpt_lab.frame.study import Study
from gpt_lab.validity.rules import RULES
from tests.report.made import BOWL, DESIGN, NOISE, TUNED, of_size, row, run, study, tuned, warned


@pytest.mark.parametrize("state", ["diverged", "pruned"])
def test_an_arm_that_loses_pairs_to_divergence_is_not_better(state: str) -> None:
    rows = of_size(-0.05, 0.1, seeds=6).runs.to_dict("records")
    for r in rows:
        if (r["arm"], r["pair"]) in {("position=a", "3"), ("position=b", "2")}:
            r["state"], r["score"] = state, math.nan
    found = compare(study(rows))
    assert (row(found, "a").verdict, row(found, "a").n, row(found, "a").plan) == ("undecided", 5, None)
    assert warned(found, "a") == (f"1 run {state}: only the others are compared",)
    assert row(found, "b").verdict == "worse"


@pytest.mark.parametrize("state, error", [("failed", "killed"), ("stopped", ""), ("missing", "its folder is gone")])
def test_an_arm_that_lost_runs_in_any_way_is_not_better(state: str, error: str) -> None:
    """Who deletes, stops or kills the bad ones keeps the lucky ones."""
    for arm_, word in (("position=a", "better"), ("position=rope", "worse")):
        rows = of_size(-0.05 if word == "better" else 0.05, seeds=6).runs.to_dict("records")
        rows[[r["arm"] for r in rows].index(arm_) + 2] |= {"state": state, "score": math.nan, "error": error}
        found = row(compare(study(rows)), "a")
        assert (found.verdict, found.n) == ("undecided", 5) and found.withheld
        assert found.warnings[0].startswith("of ")


def test_runs_to_come_leave_a_hint() -> None:
    rows = of_size(-0.05, seeds=6).runs.to_dict("records")
    for r in rows:
        if r["pair"] == "5":
            r |= {"state": "missing", "score": math.nan}
    found = row(compare(study(rows)), "a")
    assert (found.verdict, found.tier, found.n) == ("better", "screen", 5)
    assert found.warnings == ("2 of the planned runs are still to come, so nothing is confirmed yet",)


def test_a_baseline_that_lost_runs_to_divergence_makes_no_arm_worse() -> None:
    rows = of_size(0.1, seeds=6).runs.to_dict("records")
    rows[2] |= {"state": "diverged", "score": math.nan}
    assert row(compare(study(rows)), "a").verdict == "undecided"


def test_nuisance_settings_are_chosen_within_each_arm() -> None:
    made = tuned({"rope": BOWL, "none": {0.001: 2.1, 0.003: 1.95, 0.01: 2.3}})
    found = compare(made)
    none = row(found, "none")
    assert (none.tuning, none.on_edge, none.n, none.runs) == ("optim.lr=0.003", False, 5, 15)
    assert none.delta is not None and none.delta.estimate == pytest.approx(-0.05, abs=1e-3)
    assert (none.verdict, none.tier, none.plan) == ("undecided", "screen", None)
    assert warned(found, "none") == ("tuned on the seeds that are compared",)
    worse = compare(tuned({"rope": BOWL, "none": {0.001: 2.3, 0.003: 2.1, 0.01: 2.2}}))
    assert row(worse, "none").verdict == "worse"  # the arm chose the luckiest of its values, too
    assert row(compare(made, tier="confirm"), "none").verdict == "undecided"
    assert row(compare(made, tier="confirm"), "none").verdict == "undecided"


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
    rows = tuned({"rope": BOWL, "none": falling}, seeds=[0, 1]).runs.to_dict("records")
    rows += [run(position, s, 0, lr=0.03, state="diverged") for s in range(2) for position in ("none", "rope")]
    rows += tuned({"rope": {0.003: 2.0}, "none": {0.01: 1.9}}, seeds=range(2, 7)).runs.to_dict("records")
    beyond = row(compare(study(rows, TUNED)), "none")
    assert (beyond.verdict, beyond.on_edge, beyond.tuning) == ("better", False, "optim.lr=0.01")
    for r in rows:
        if r["state"] == "diverged":
            r["state"] = "missing"  # never begun: nobody knows what lies beyond
    assert row(compare(study(rows, TUNED)), "none").on_edge


def test_unequal_tuning_forbids_better() -> None:
    more = {0.001: 2.1, 0.003: 1.9, 0.01: 2.3, 0.03: 2.4}
    found = row(compare(tuned({"rope": BOWL, "none": more})), "none")
    assert found.verdict == "undecided" and found.warnings[1].startswith(
        "unequal tuning: 4 values tried, the baseline 3. Way out: "
    )
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
    assert warned(found, "a") == ("unequal budget: 2e+06 tokens, the baseline 1e+06",)
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
    assert warned(compare(made), "a") == ("another tokenizer than the baseline's: val/loss cannot be compared",)
    assert row(compare(made), "b").verdict == "worse"


def test_lost_text_is_said_of_runs_without_a_score_and_of_the_baseline() -> None:
    lossy = "tokenizer=hf loses text: at least 9 of 90 bytes of the validation text do not come back"
    made = of_size(-0.05, -0.05)
    mine = made.runs["arm"] == "position=a"
    made.runs["env.lossy"], made.runs["env.ends"] = np.where(mine, lossy, ""), True
    made.runs.loc[mine, "score"] = math.nan
    assert (row(compare(made), "a").verdict, warned(compare(made), "a")) == ("no data", (lossy,))
    assert (row(compare(made), "b").verdict, warned(compare(made), "b")) == ("better", ())
    made = of_size(-0.05)
    made.runs["env.lossy"] = np.where(made.runs["arm"] == "position=rope", lossy, None)
    assert (row(compare(made), "a").verdict, warned(compare(made), "a")) == ("undecided", (f"the baseline's {lossy}",))


def test_other_data_and_other_settings() -> None:
    made = of_size(-0.05, -0.05, 0.0)
    made.runs["config.data.name"] = np.where(made.runs["arm"] == "position=c", "ptb", "shakespeare")
    made.runs["config.model.tied"] = made.runs["arm"] != "position=a"
    made.runs["config.position.theta"] = made.runs["arm"].map({"position=a": 1e4})
    made.runs["config.eval.every"] = made.runs["arm"].map(len)
    found = compare(made)
    assert (row(found, "a").verdict, warned(found, "a")) == (
        "undecided",
        ("differs from the baseline in model.tied too",),
    )
    assert (row(found, "b").verdict, row(found, "b").warnings) == ("better", ())
    assert (row(found, "c").verdict, warned(found, "c")) == (
        "undecided",
        ("other data than the baseline's: val/bpb cannot be compared",),
    )


def matched(target: float, match: object = "params") -> Study:
    """Arms a and b at an effect of -0.05; a has another d_ff, of a `match` to this target."""
    made = of_size(-0.05, -0.05)
    own = made.runs["arm"] == "position=a"
    for key, value in {"match": match, "match_to": target}.items():
        made.runs[f"config.{key}"] = pd.Series([value if a else None for a in own], dtype="object")
    made.runs["config.mlp.d_ff"] = [400 if a else 344 for a in own]
    made.runs["parameters_non_embedding"] = 1000.0
    made.design = dataclasses.replace(made.design, factors=("position", "match"))
    return made


def test_what_match_changed_is_no_doubt() -> None:
    """A target within 0.5 % of what the baseline has; any other target, and a d_ff without `match`, are doubts."""
    for target in (1000, 1004):
        found = compare(matched(target))
        assert (row(found, "a").verdict, warned(found, "a")) == ("better", ())
    for target in (1100, 900):
        found = compare(matched(target))
        assert (row(found, "a").verdict, row(found, "b").verdict) == ("undecided", "better")
        assert warned(found, "a") == ("differs from the baseline in mlp.d_ff too",)
    assert row(compare(matched(1000, match=None)), "a").verdict == "undecided"
    sharing = matched(1000)
    sharing.design = dataclasses.replace(sharing.design, factors=("position",))
    for key, value in (("match", "params"), ("match_to", 1000)):  # a sweep whose every arm is matched
        sharing.runs[f"config.{key}"] = value
    assert warned(compare(sharing), "a") == ()
    sharing.runs["parameters_non_embedding"] = 1100.0
    assert warned(compare(sharing), "a") == ("differs from the baseline in mlp.d_ff too",)


def changed(column: str, arm: object, others: object = None, *, better: bool = True, pairs: int = 5) -> Study:
    """Arm a at an effect of -0.05 (better) or 0.05, whose runs of the first pairs have this in a column."""
    made = of_size(-0.05 if better else 0.05)
    mine = (made.runs["arm"] == "position=a") & (made.runs["pair"].astype(int) < pairs)
    made.runs[column] = pd.Series([arm if own else others for own in mine], dtype="object")
    return made


def by_design(made: Study, **changes: object) -> Study:
    made.design = dataclasses.replace(made.design, **changes)  # type: ignore[arg-type]
    return made


def lost(better: bool, state: str = "diverged") -> Study:
    made = of_size(-0.05 if better else 0.05, seeds=6)
    row_of = made.runs["arm"] == ("position=a" if better else "position=rope")
    made.runs.loc[row_of & (made.runs["pair"] == "3"), ["state", "score"]] = [state, math.nan]
    return made


def tried(mine: dict[float, float], base: dict[float, float], better: bool, chosen: float = 0.003) -> Study:
    """Both tuned on seeds 0 and 1, then five fresh seeds at the chosen values."""
    shift = -0.05 if better else 0.05
    scores = {"rope": base, "none": {lr: score + shift for lr, score in mine.items()}}
    rows = tuned(scores, seeds=[0, 1]).runs.to_dict("records")
    best = min(base, key=base.__getitem__)
    rows += tuned({"rope": {best: 2.0}, "none": {chosen: 2.0 + shift}}, seeds=range(2, 7)).runs.to_dict("records")
    for r in rows:  # one name for the arm in question, whatever the case
        r["arm"] = r["arm"].replace("position=none", "position=a")
    return study(rows, TUNED)


def ladder(better: bool, *, edge: bool) -> Study:
    """Both at the best of three values, the arm's in the middle or at the end."""
    rising = {0.001: 2.0, 0.003: 2.1, 0.01: 2.2}
    return tried(rising if edge else BOWL, BOWL, better, chosen=0.001 if edge else 0.003)


def on_the_same_seeds(better: bool) -> Study:
    shift = -0.05 if better else 0.05
    return tuned({"rope": BOWL, "a": {lr: score + shift for lr, score in BOWL.items()}})


def alone(better: bool, lr: float = 0.003) -> Study:
    """One learning rate in each arm."""
    shift = -0.05 if better else 0.05
    return tuned({"rope": {0.001: 2.0}, "a": {lr: 2.0 + shift}})


def gaps(better: bool, *, whole: bool) -> Study:
    """Each value of the arm lost another of the seeds that choose, or none did."""
    made = ladder(better, edge=False)
    for place, lr in enumerate(() if whole else BOWL):
        own = (made.runs["arm"] == "position=a") & (made.runs["tuning"] == f"optim.lr={lr:g}")
        made.runs.loc[own & (made.runs["pair"] == str(place % 2)), ["state", "score"]] = ["failed", math.nan]
    return made


def spent(better: bool, tokens: float) -> Study:
    made = of_size(-0.05 if better else 0.05)
    made.runs.loc[made.runs["arm"] == "position=a", "tokens"] = tokens
    return made


def ended(better: bool, steps: float) -> Study:
    """Runs of 100 steps; the arm's ended after so many."""
    made = changed("steps", steps, 100.0, better=better)
    made.runs["config.budget.steps"] = 100
    return made


def timed(better: bool, rate: float) -> Study:
    """A budget of 60 seconds, in which the arm's runs have this share of the baseline's tokens per second."""
    made = of_size(-0.05 if better else 0.05)
    own = made.runs["arm"] == "position=a"
    made.runs["config.budget.seconds"], made.runs["train_flops_per_token"] = 60.0, 1e6
    made.runs["tokens_per_s"] = 1000.0 * np.where(own, rate, 1.0) * (1 + 0.01 * np.sin(np.arange(len(made.runs))))
    return made


EVEN = {0.001: 2.2, 0.003: 2.0, 0.009: 2.2}
"""A parabola in the logarithm, lowest at 0.003."""
CASES = {
    "lost": (lambda better: lost(better), lambda better: of_size(-0.05 if better else 0.05, seeds=6)),
    "gone": (lambda better: lost(better, "failed"), lambda better: of_size(-0.05 if better else 0.05, seeds=5)),
    "twice": (
        lambda better: changed("conflict", "runs of the same settings end with 2 and 2.1", "", better=better, pairs=1),
        lambda better: changed("conflict", "", "", better=better),
    ),
    "few": (
        lambda better: changed("targets", 300.0, 300.0, better=better),
        lambda better: changed("targets", 30_000.0, 30_000.0, better=better),
    ),
    "floor": (
        lambda better: changed("floor_bigram", 1.9, 1.9, better=better),
        lambda better: changed("floor_bigram", 2.04, 2.04, better=better),
    ),
    "torch": (
        lambda better: changed("env.packages", "python 3.11, torch 2.12.0", "python 3.11, torch 2.11.0", better=better),
        lambda better: changed("env.packages", "torch 2.11.0, wandb 0.31", "torch 2.11.0, wandb 0.30", better=better),
    ),
    "busy": (lambda better: timed(better, 0.7), lambda better: timed(better, 0.98)),
    "tuning": (
        lambda better: tried({**BOWL, 0.03: 2.3} if better else {0.001: 2.2, 0.003: 2.0}, BOWL, better),
        lambda better: tried(BOWL, BOWL, better),
    ),
    "edge": (lambda better: ladder(better, edge=True), lambda better: ladder(better, edge=False)),
    "gaps": (lambda better: gaps(better, whole=False), lambda better: gaps(better, whole=True)),
    "reused": (on_the_same_seeds, lambda better: tried(BOWL, BOWL, better)),
    "untuned": (alone, lambda better: alone(better, 0.001)),
    "rate": (
        lambda better: by_design(
            changed("config.optim.name", "muon", "adamw", better=better), factors=("position", "optim")
        ),
        lambda better: by_design(
            changed("config.optim.name", "adamw", "adamw", better=better), factors=("position", "optim")
        ),
    ),
    "tune": (
        lambda better: by_design(tried(BOWL, EVEN, better), tuning_pairs=(0, 1)),
        lambda better: by_design(tried(EVEN, EVEN, better), tuning_pairs=(0, 1)),
    ),
    "budget": (lambda better: spent(better, 2e6 if better else 5e5), lambda better: spent(better, 1.001e6)),
    "schedule": (
        lambda better: changed("config.schedule.warmup", 0.3, 0.05, better=better),
        lambda better: by_design(
            changed("config.schedule.warmup", 0.3, 0.05, better=better), factors=("position", "schedule")
        ),
    ),
    "middle": (lambda better: ended(better, 60.0), lambda better: ended(better, 100.0)),
    "tokenizer": (
        lambda better: by_design(changed("config.tokenizer.name", "byte", "bpe", better=better), metric="val/loss"),
        lambda better: by_design(
            changed("config.tokenizer.name", "byte", "bpe", better=better), factors=("position", "tokenizer")
        ),
    ),
    "lossy": (
        lambda better: changed("env.lossy", "tokenizer=hf loses text: ...", "", better=better),
        lambda better: by_design(
            changed("env.lossy", "tokenizer=hf loses text: ...", "", better=better), metric="val/loss"
        ),
    ),
    "ends": (
        lambda better: changed("env.ends", False, True, better=better),
        lambda better: changed("env.ends", True, True, better=better),
    ),
    "data": (
        lambda better: changed("env.data", "new", "old", better=better, pairs=2),
        lambda better: by_design(changed("env.data", "new", "old", better=better), factors=("position", "tokenizer")),
    ),
    "code": (
        lambda better: changed("env.commit", "f" * 40, "e" * 40, better=better, pairs=2),
        lambda better: changed("env.commit", "f" * 40, "f" * 40, better=better),
    ),
    "numbers": (
        lambda better: changed("env.precision", "bf16", "fp32", better=better),
        lambda better: by_design(
            changed("env.precision", "bf16", "fp32", better=better), factors=("position", "precision")
        ),
    ),
    "machine": (
        lambda better: by_design(changed("env.cpu", "new", "old", better=better), metric="perf/peak_memory_gb"),
        lambda better: changed("env.cpu", "new", "old", better=better),
    ),
    "settings": (
        lambda better: changed("config.model.dropout", 0.1, 0.0, better=better),
        lambda better: changed("config.eval.every", 10, 20, better=better),
    ),
}
"""Of each rule a study that breaks it, and one that comes near and is fair; both better or worse by 0.05."""


@pytest.mark.parametrize("rule", RULES)
def test_planted_unfairness_withholds_what_the_table_says(rule: str) -> None:
    """And the same difference without it is called what it is."""
    unfair, fair = CASES[rule]
    for better, word in ((True, "better"), (False, "worse")):
        named = row(compare(fair(better)), "a")
        assert (named.verdict, named.warnings) == (word, ()), f"a fair study, {word}"
        found = row(compare(unfair(better)), "a")
        assert any(text.endswith(f". Way out: {RULES[rule].way}") for text in found.warnings), found.warnings
        withheld = "all" in RULES[rule].withheld or word in RULES[rule].withheld
        assert found.verdict == ("undecided" if withheld else word)
