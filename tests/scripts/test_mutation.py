"""The table of planted faults (scripts/mutation.toml) is about the code as it is, and each fault was caught."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest

from scripts import mutation
from tests.processes import commands

FAULTS = mutation.faults()


def test_each_text_stands_once_and_each_test_is_there() -> None:
    texts = mutation.sources()
    for fault in FAULTS:
        assert fault.file(texts).is_file()
        assert fault.watched_by()
        assert fault.old != fault.new
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) >= 30


def test_a_text_that_is_gone_is_named() -> None:
    fault, file = FAULTS[0], Path("stats/moved.py")
    for text, said in (("nothing", "nowhere"), (2 * fault.old, "2 times in stats/moved.py")):
        with pytest.raises(LookupError, match=f"{fault.name}.*{said}"):
            fault.file({file: text})
    assert fault.file({file: fault.old, Path("b.py"): ""}) == file


def test_tests_that_have_moved_are_found_and_those_that_are_gone_named(tmp_path: Path) -> None:
    (test,) = FAULTS[0].tests
    (tmp_path / "tests" / "elsewhere").mkdir(parents=True)
    with pytest.raises(LookupError, match=f"{FAULTS[0].name}.*{test} is gone"):
        FAULTS[0].watched_by(tmp_path)
    moved = tmp_path / "tests" / "elsewhere" / Path(test).name
    moved.write_text("")
    assert FAULTS[0].watched_by(tmp_path) == [str(moved.relative_to(tmp_path))]


def test_the_first_failure_is_named(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import pytest\n@pytest.mark.parametrize('x', ['a - b', 'c'])\ndef test_x(x):\n    assert x == 'a - b'\n"
    )
    (tmp_path / "test_that.py").write_text("def test_x():\n    pass\n")
    done = commands.call(functools.partial(tell, tmp_path), tmp_path)
    assert done.stdout == "test_it.py::test_x[c] None\n", done.stderr


def tell(folder: Path) -> None:
    print(*(mutation.first_failure(folder, [name]) for name in ("test_it.py", "test_that.py")))


def test_every_fault_was_caught() -> None:
    """By the result that is committed; `python scripts/mutation.py` writes it."""
    written = json.loads(mutation.RESULT.read_text(encoding="utf-8"))
    assert list(written) == [fault.name for fault in FAULTS]
    assert [name for name, one in written.items() if one["caught_by"] is None] == []
