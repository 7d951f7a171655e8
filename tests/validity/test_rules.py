"""The rules on fair comparison find themselves, and nothing else knows them."""

from __future__ import annotations

import re
from pathlib import Path

from gpt_lab.validity import rules
from gpt_lab.validity.rule import Rule
from gpt_lab.validity.rules import RULES
from tests.test_imports import heavy_after
from tests.validity.cases import CASES

FOLDER = Path(rules.__file__).parent
PACKAGE = FOLDER.parent.parent


def test_each_file_of_the_folder_gives_rules() -> None:
    for path in FOLDER.glob("[a-z]*.py"):
        module = vars(rules)[path.stem]
        assert [rule for rule in vars(module).values() if isinstance(rule, Rule)], path.name


def test_the_order_is_one() -> None:
    """No two rules share a place or a name, and no two things of one side share where they are said."""
    places = [rule.place for rule in RULES.values()]
    assert places == sorted(set(places)) and set(CASES) == set(RULES)
    assert len(RULES) == len(rules.every()), "two rules of one name"
    for side in ("beforehand", "afterwards"):
        said = [place for rule in RULES.values() for place, _ in getattr(rule, side)]
        assert len(said) == len(set(said)), side
    assert all(rule.afterwards for rule in RULES.values()), "a rule is never found"


def test_nothing_else_names_a_rule() -> None:
    """Neither its module nor its name: what another part of the lab needs of a rule stands beside the folder."""
    modules = re.compile(r"validity\.rules\.\w|from gpt_lab\.validity\.rules import (?!AFTERWARDS|BEFOREHAND|RULES)")
    asked = re.compile(rf"""RULES\[|rule\.name|\.rule (==|!=|in) |["']({"|".join(RULES)})["'] (not )?in .*rule""")
    for path in [*PACKAGE.rglob("*.py"), *(PACKAGE.parent / "scripts").glob("*.py")]:
        if FOLDER not in path.parents:
            text = path.read_text("utf-8")
            assert not modules.search(text) and not asked.search(text), path


def test_a_dry_run_asks_the_rules_without_pandas() -> None:
    assert heavy_after("import gpt_lab.validity.beforehand")[0] == []
