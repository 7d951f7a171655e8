"""Which versions of code, data, packages and machines two runs of a pair may have, and other rules in detail."""

from __future__ import annotations

import numpy as np

from gpt_lab.analysis.compare import compare
from gpt_lab.study.design import Design
from tests.report.made import of_size, row, study, warned
from tests.study.arms import settings
from tests.validity.cases import by_design, changed


def test_versions_may_change_between_pairs() -> None:
    """Both runs of a pair by one version: their difference is none of the code's, the data's or the machine's."""
    made = of_size(-0.05)
    for column, kinds in {
        "env.commit": ("e" * 40, "f" * 40),
        "env.data": ("old", "new"),
        "env.precision": ("fp32", "bf16"),
    }.items():
        made.runs[column] = np.where(made.runs["pair"].astype(int) < 2, *kinds)
    assert (row(compare(made), "a").verdict, row(compare(made), "a").warnings) == ("better", ())
    one = (made.runs["arm"] == settings("position=a")) & (made.runs["pair"] == "0")
    made.runs.loc[one, "env.commit"] = "f" * 40
    assert warned(compare(made), "a") == ("other code than the baseline's in 1 pair",)


def test_uncommitted_changes_of_other_content_are_other_code() -> None:
    made = changed("env.changes", "a" * 12, "b" * 12)
    made.runs["env.commit"], made.runs["env.dirty"] = "e" * 40, True
    assert warned(compare(made), "a") == ("other code than the baseline's in 5 pairs",)
    made.runs["env.changes"] = None  # nobody knows what was changed
    assert row(compare(made), "a").verdict == "better"


def test_what_only_one_run_names_is_no_sameness() -> None:
    """Data or code that one of two runs does not name; where none does, nothing is known and nothing withheld."""
    assert warned(compare(changed("env.data", None, "known")), "a") == (
        "another version of the data than the baseline's in 5 pairs",
    )
    assert warned(compare(changed("env.commit", None, "e" * 40)), "a") == ("other code than the baseline's in 5 pairs",)
    for column in ("env.commit", "env.data", "env.packages"):
        assert row(compare(changed(column, None, None)), "a").warnings == ()
    for column, value in (("env.precision", "fp32"), ("env.ends", True)):
        assert row(compare(changed(column, None, value)), "a").warnings == ()


def test_the_content_of_the_code_counts_where_it_is_known() -> None:
    """Outside git, or at two commits: the hash of the modules says whether it is the same code."""
    made = changed("env.code", "a" * 12, "b" * 12)
    assert warned(compare(made), "a") == ("other code than the baseline's in 5 pairs",)
    same = changed("env.commit", "e" * 40, "f" * 40)
    same.runs["env.code"] = "c" * 12
    assert row(compare(same), "a").verdict == "better"


def test_the_best_of_all_evaluations_is_not_the_end() -> None:
    made = by_design(of_size(-0.05), metric="best/val_loss")
    assert row(compare(made), "a").verdict == "undecided"
    assert "not that of the end" in row(compare(made), "a").warnings[0]


def test_a_budget_that_batches_do_not_divide_is_no_early_end() -> None:
    made = of_size(-0.05)
    made.runs["steps"], made.runs["tokens"] = 10.0, 1000.0
    made.runs["config.budget.tokens"] = 1099  # not enough for an eleventh step
    assert row(compare(made), "a").warnings == ()
    made.runs["config.budget.tokens"] = 1200
    assert "ended at 83% of its budget" in row(compare(made), "a").warnings[0]


def test_seconds_on_other_machines() -> None:
    made = changed("env.cpu", "new", "old")
    made.runs["config.budget.seconds"] = 60.0
    assert warned(compare(made), "a") == ("another machine than the baseline's in 5 pairs",)


def test_what_a_preset_bundles_and_how_large_it_is_are_said_and_forbid_nothing() -> None:
    design = Design("m", factors=("model",), baseline={"model": "llama"}, sesoi=0.01)
    rows = of_size(-0.05).runs.to_dict("records")
    for r in rows:
        own = r["arm"] == settings("position=a")
        r |= {
            "arm": settings("model=gpt2" if own else "model=llama"),
            "config.norm.name": "layernorm" if own else "rmsnorm",
        }
        r |= {"config.position.name": "learned" if own else "rope", "parameters": 1100 if own else 1000}
    found = compare(study(rows, design))
    gpt2 = next(one for one in found.rows if one.arm == settings("model=gpt2"))
    assert (gpt2.verdict, gpt2.warnings) == ("better", ())
    assert "model=gpt2: model changes position, norm: a verdict is on all of them together" in found.notes
    assert any(note.startswith("model=gpt2: +10.0% parameters") for note in found.notes)
