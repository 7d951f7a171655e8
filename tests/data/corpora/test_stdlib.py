"""The standard library's source: a fixed order, files held out whole, a name that is of the content."""

from __future__ import annotations

import ast
import sysconfig
from pathlib import Path

import pytest

from gpt_lab.data.corpora import stdlib
from gpt_lab.data.corpora.stdlib import StandardLibrary
from gpt_lab.errors import DataError


def test_it_is_source_of_many_modules() -> None:
    source = StandardLibrary()
    documents = ["".join(document.pieces) for document in source.documents()]
    held_out = ["".join(document.pieces) for document in source.held_out()]
    assert len(documents) > 200 and len(held_out) > 20
    assert 0.02 < sum(map(len, held_out)) / sum(map(len, documents + held_out)) < 0.25
    assert 4e6 < source.size() < 2e7
    ast.parse(documents[0]), ast.parse(held_out[0])
    assert not {*documents} & {text for text in held_out if len(text) > 300}, "no file is on both sides"


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A standard library of a few files."""
    root = tmp_path / "lib"
    for name in (
        "json/__init__.py",
        "json/tests/t.py",
        "abc.py",
        "site-packages/numpy.py",
        "encodings/u.py",
        "os.txt",
        "re/_a.py",
    ):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# {name}\n", encoding="utf-8")
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(root))
    return root


def test_which_files_and_in_which_order(library: Path) -> None:
    assert [path.relative_to(library).as_posix() for path in stdlib._modules()] == [
        "abc.py",
        "json/__init__.py",
        "re/_a.py",
    ]
    texts = ["".join(document.pieces) for document in StandardLibrary(val_fraction=0.0).documents()]
    assert texts == ["# abc.py\n", "# json/__init__.py\n", "# re/_a.py\n"]


def test_a_file_is_held_out_by_its_path(library: Path) -> None:
    def held(fraction: float) -> list[str]:
        return ["".join(document.pieces) for document in StandardLibrary(val_fraction=fraction).held_out()]

    before = held(0.5)
    assert 0 < len(before) < 3 and set(held(0.2)) <= set(before) and len(held(0.999999)) == 3
    names = StandardLibrary().identity()
    (library / "abc.py").write_text("# changed\n", encoding="utf-8")
    assert len(held(0.5)) == len(before), "other text does not change the split"
    assert StandardLibrary().identity() != names
    assert StandardLibrary(val_fraction=0.2).identity() != StandardLibrary().identity()


def test_a_python_without_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path / "zip"))
    with pytest.raises(DataError, match="data=stdlib: this Python has no source files in"):
        StandardLibrary().size()
