"""Where the runs of a sweep are."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpt_lab.config import composition
from gpt_lab.study import sweep_file
from gpt_lab.study.place import PLAIN, runs_folder


@pytest.mark.parametrize(
    "value", ["/tmp/a-b_c/1.0", "./runs", "../x", "1/2", "true/null", "~/x", "'a b/c'", "'it\\'s/x'"]
)
def test_a_folder_is_what_a_run_makes_of_it(value: str) -> None:
    """Plain paths are read without the parser of command lines, and are the same."""
    sweep = sweep_file.load("pos_enc", [f"runs_dir={value}"])
    assert runs_folder(sweep) == Path(composition.compose_tree([f"runs_dir={value}"])["runs_dir"]) / "pos_enc"


def test_words_that_may_mean_something_else_are_not_plain() -> None:
    assert not any(PLAIN.fullmatch(f"runs_dir={value}") for value in ("null", "7", "${x}/y", "a b/c", "'a/b", "a\\/b"))
