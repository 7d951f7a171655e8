"""What is compared of an arm's runs, and what forbids a verdict however clear the numbers."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest

from gpt_lab.analysis.compare import compare
from gpt_lab.frame.study import Study
from gpt_lab.metrics import BOUND
from gpt_lab.validity.rules import RULES
from tests.report.made import BOWL, DESIGN, NOISE, TUNED, of_size, row, run, study, tuned, warned
from tests.study.arms import settings
from tests.validity.cases import CASES, changed


@pytest.mark.parametrize("state", ["diverged", "pruned"])
def test_an_arm_that_loses_pairs_to_divergence_is_not_better(state: str) -> None:
    rows = of_size(-0.05, 0.1, seeds=6).runs.to_dict("records")
    for r in rows:
        if (r["arm"], r["pair"]) in {(settings("position=a"), "3"), (settings("position=b"), "2")}:
            r["state"], r["score"] = state, math.nan
    found = compare(study(rows))
    assert (row(found, "a").verdict, row(found, "a").n, row(found, "a").plan) == ("undecided", 5, None)
    assert warned(found, "a") == (f"1 run {state}: only the others are compared",)
    assert row(found, "b").verdict == "worse"


@pytest.mark.parametrize(
    "state, error", [("failed", "killed"), ("stopped", ""), ("missing", "its folder is gone"), ("finished", "")]
)
def test_an_arm_that_lost_runs_in_any_way_is_not_better(state: str, error: str) -> None:
    """Who deletes, stops or kills the bad ones keeps the lucky ones."""
    for arm_, word in (("position=a", "better"), ("position=rope", "worse")):
        rows = of_size(-0.05 if word == "better" else 0.05, seeds=6).runs.to_dict("records")
        rows[[str(r["arm"]) for r in rows].index(arm_) + 2] |= {"state": state, "score": math.nan, "error": error}
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
    assert (none.tuning, none.on_edge, none.n, none.runs) == (settings("optim.lr=0.003"), False, 5, 15)
    assert none.delta is not None and none.delta.estimate == pytest.approx(-0.05, abs=1e-3)
    assert (none.verdict, none.tier, none.plan) == ("undecided", "screen", None)
    assert warned(found, "none") == ("tuned on the seeds that are compared",)
    worse = compare(tuned({"rope": BOWL, "none": {0.001: 2.3, 0.003: 2.1, 0.01: 2.2}}))
    assert row(worse, "none").verdict == "worse"  # the arm chose the luckiest of its values, too
    assert row(compare(made, tier="confirm"), "none").verdict == "undecided"
    assert row(compare(made, tier="confirm"), "none").verdict == "undecided"


def test_of_a_metric_that_is_maximised_the_highest_value_is_chosen() -> None:
    made = tuned({"rope": BOWL, "none": {0.001: 2.1, 0.003: 1.95, 0.01: 2.3}})
    made.design = dataclasses.replace(made.design, goal="maximize")
    assert row(compare(made), "none").tuning == settings("optim.lr=0.01")


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
        if (r["arm"], r["tuning"], r["pair"]) == (settings("position=none"), settings("optim.lr=0.01"), "4"):
            r["state"], r["score"] = "diverged", math.nan
    none = row(compare(study(rows, TUNED)), "none")
    assert none.tuning == settings("optim.lr=0.003") and none.states == {"diverged": 1}
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
    assert (beyond.verdict, beyond.on_edge, beyond.tuning) == ("better", False, settings("optim.lr=0.01"))
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
    made.runs.loc[made.runs["arm"] != settings("position=rope"), "tokens"] = 2e6
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
    made.runs["config.tokenizer.name"] = np.where(made.runs["arm"] == settings("position=a"), "bytes", "chars")
    made.design = dataclasses.replace(made.design, factors=("position", "tokenizer"))
    assert row(compare(made), "a").verdict == "better"
    made.design = dataclasses.replace(made.design, metric="val/loss")
    assert row(compare(made), "a").verdict == "undecided"
    assert warned(compare(made), "a") == ("another tokenizer than the baseline's: val/loss cannot be compared",)
    assert row(compare(made), "b").verdict == "worse"


def test_lost_text_is_said_of_runs_without_a_score_and_of_the_baseline() -> None:
    lossy = "tokenizer=hf loses text: at least 9 of 90 bytes of the validation text do not come back"
    made = of_size(-0.05, -0.05)
    mine = made.runs["arm"] == settings("position=a")
    made.runs["env.lossy"], made.runs["env.ends"] = np.where(mine, lossy, ""), True
    made.runs.loc[mine, "score"] = math.nan
    assert (row(compare(made), "a").verdict, warned(compare(made), "a")) == ("no data", (lossy,))
    assert (row(compare(made), "b").verdict, warned(compare(made), "b")) == ("better", ())
    made = of_size(-0.05)
    made.runs["env.lossy"] = np.where(made.runs["arm"] == settings("position=rope"), lossy, None)
    assert (row(compare(made), "a").verdict, warned(compare(made), "a")) == ("undecided", (f"the baseline's {lossy}",))


def test_a_bound_is_compared_only_where_the_direction_is_safe() -> None:
    """Below an exact value it is better for certain; above it, or near it, it says nothing; two are compared."""
    bounded = "val/bpb is an upper bound, the baseline's exact: a bound above it says nothing"
    for effect, word in ((-0.05, "better"), (0.05, "undecided"), (0.0, "undecided")):
        made = of_size(effect)
        made.runs["env.measure"] = np.where(made.runs["arm"] == settings("position=a"), BOUND, "")
        assert (row(compare(made), "a").verdict, warned(compare(made), "a")) == (word, (bounded,))
    both = of_size(0.05)
    both.runs["env.measure"] = BOUND
    assert (row(compare(both), "a").verdict, warned(compare(both), "a")) == ("worse", ())
    assert any("upper bound, the baseline's too: a verdict is on the bounds" in note for note in compare(both).notes)


def test_an_arm_that_measures_something_of_its_own_has_lost_nothing() -> None:
    """It has no bits per byte, for a reason that is told."""
    made = of_size(-0.05)
    mine = made.runs["arm"] == settings("position=a")
    made.runs["env.measure"] = np.where(mine, "nats of a masked token", None)
    made.runs.loc[mine, "score"] = math.nan
    said = "val/bpb is nats of a masked token, the baseline's the text's likelihood"
    assert (row(compare(made), "a").verdict, warned(compare(made), "a")) == ("no data", (said,))


def test_what_a_teacher_costs_is_noted() -> None:
    made = of_size(-0.05)
    mine = made.runs["arm"] == settings("position=a")
    made.runs["flops"], made.runs["summary.teacher/flops"] = 1e6, np.where(mine, 3e5, math.nan)
    made.runs["summary.teacher/train_flops"] = np.where(mine, 7e8, math.nan)
    noted = "position=a: a teacher's forward pass is 30% of the training FLOPs, and 7e+08 FLOPs trained it before"
    assert noted in compare(made).notes and row(compare(made), "a").verdict == "better"


def test_other_data_and_other_settings() -> None:
    made = of_size(-0.05, -0.05, 0.0)
    made.runs["config.data.name"] = np.where(made.runs["arm"] == settings("position=c"), "ptb", "shakespeare")
    made.runs["config.model.tied"] = made.runs["arm"] != settings("position=a")
    made.runs["config.position.theta"] = made.runs["arm"].map({settings("position=a"): 1e4})
    made.runs["config.eval.every"] = made.runs["arm"].map(lambda arm: len(str(arm)))
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
    own = made.runs["arm"] == settings("position=a")
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


@pytest.mark.parametrize("bpb, kept", [(2.1, True), (1.9, False)])
def test_the_floor_is_in_bits_per_byte_whichever_metric_decides(bpb: float, kept: bool) -> None:
    made = changed("floor_bigram", 2.04, 2.04)
    made.design = dataclasses.replace(made.design, metric="val/loss")
    made.runs["summary.val/bpb"] = bpb
    found = compare(made)
    assert (row(found, "a").verdict, bool(warned(found, "a"))) == (("undecided", True) if kept else ("better", False))


def test_a_source_of_mixtures_is_compared_whatever_is_beside_it() -> None:
    """Its own text is the same; the whole is not, nor the tokens of a tokenizer that was fitted on another mixture."""
    made = of_size(-0.05)
    own = made.runs["arm"] == settings("position=a")
    made.runs["config.data.sources.code.weight"] = np.where(own, 3.0, 1.0)
    made.runs["config.data.sources.code.val_fraction"] = 0.1
    made.runs["config.data.sources.more.name"] = pd.Series(["text" if a else None for a in own], dtype="object")
    made.runs["env.packing"] = pd.Series(["0.1% of the tokens dropped" if a else None for a in own], dtype="object")
    factors = ("position", "data.sources.code.weight", "data.sources.more.name")

    def found(metric: str) -> Study:
        made.design = dataclasses.replace(made.design, metric=metric, factors=factors)
        return made

    clean = compare(found("val/bpb/code"))
    assert (row(clean, "a").verdict, warned(clean, "a")) == ("better", ())
    said = (
        "position=a: other batches than the baseline's (data.sources.code.weight, data.sources.more.name): pairs share"
    )
    (note,) = (line for line in clean.notes if line.startswith(said))
    assert note.endswith("packing: 0.1% of the tokens dropped")
    for metric in ("val/bpb", "val/loss/code"):
        other = compare(found(metric))
        assert row(other, "a").verdict == "undecided" and "other data" in warned(other, "a")[0]
    made.runs["config.data.sources.code.val_fraction"] = np.where(own, 0.2, 0.1)
    assert "other data" in warned(compare(found("val/bpb/code")), "a")[0]


def test_other_batches_are_said_and_forbid_nothing_where_they_are_compared() -> None:
    made = changed("config.batch.packing", "best_fit", "stream")
    made.design = dataclasses.replace(made.design, factors=("position", "batch.packing"))
    found = compare(made)
    assert (row(found, "a").verdict, warned(found, "a")) == ("better", ())
    (said,) = (line for line in found.notes if "other batches" in line)
    assert said.endswith("(batch.packing): pairs share their initial values, not their data")


def test_a_batch_that_grew_leaves_up_to_a_whole_one_over() -> None:
    """Of 1,000 tokens 950 are spent in 40 steps, the last of them of 64; of 800 the next one would have fitted."""
    for spent, word in ((950.0, "better"), (800.0, "undecided")):
        made = of_size(-0.05)
        made.runs["tokens"], made.runs["steps"], made.runs["config.budget.tokens"] = spent, 40.0, 1000.0
        made.runs["config.batch.tokens"], made.runs["config.batch.start"] = 64, 16
        assert row(compare(made), "a").verdict == word
