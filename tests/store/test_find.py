"""Runs are found by what a user remembers of them, and say where they came from."""

from __future__ import annotations

import json
import math
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gpt_lab import store
from gpt_lab.errors import DataError
from gpt_lab.store import Run, find_run, find_signature, record


def make(root: Path, name: str = "run", study: str = "study", **fields: Any) -> Run:
    return Run.create(root, study, name, {"seed": 0}, {"signature": f"sig-{name}", **fields})


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two studies; "c" is the last that changed; one folder is torn."""
    for study, name, bpb in (("one", "a", 2.5), ("one", "b", 2.0), ("one", "bad", math.nan), ("two", "b", 1.0)):
        make(tmp_path, name, study).finish("finished", {"val/bpb": bpb, "val/loss": 9.0})
    make(tmp_path, "c", "one").log(1, {"val/bpb": 0.1})
    (tmp_path / "one" / "torn").mkdir()
    (tmp_path / "one" / "torn" / "run.json").write_text("{")
    (tmp_path / "notes.txt").write_text("not a study")
    return tmp_path


@pytest.mark.parametrize(
    "spec, expected",
    [
        ("latest", "one/c"),
        ("one", "one/b"),
        ("one/best", "one/b"),
        ("one/latest", "one/c"),
        ("two/latest", "two/b"),
        ("one/a", "one/a"),
        ("two/b/", "two/b"),
        ("a", "one/a"),
    ],
)
def test_find(runs: Path, spec: str, expected: str) -> None:
    assert find_run(runs, spec).path == runs / expected


def test_what_was_left_out_is_named(runs: Path) -> None:
    """Of the runs that the answer was chosen from, no others."""
    run = Run.open(runs / "two" / "b")
    run.update(summary={"val/bpb": "low", "val/loss": 1.0})
    torn = f"cannot read {runs}/one/torn/run.json: not valid JSON: the run is left out"
    low = f'{runs}/two/b/run.json: val/bpb is "low": left out of its summary'
    for spec, expected in {"latest": {torn, low}, "one": {torn}, "two": {low}, "one/a": {torn}, "a": set()}.items():
        left_out: dict[Path, str] = {}
        find_run(runs, spec, left_out)
        assert set(left_out.values()) == expected, spec
    assert Run.open(run.path).summary == {"val/loss": 1.0}
    (runs / "one" / "c" / "run.json").write_text("[" * 200_000)
    with pytest.raises(DataError, match=r"cannot read .*/one/c/run.json: not valid JSON"):
        find_run(runs, "one/c")
    assert find_run(runs, "one/latest").name == "bad"


def test_find_by_folder(runs: Path, tmp_path: Path) -> None:
    assert find_run("elsewhere", str(runs / "one" / "a")).name == "a"


@pytest.mark.parametrize(
    "spec, message",
    [
        ("onne", "no run 'onne' in .* did you mean one"),
        ("one/aa", "did you mean .*one/a"),
        ("zzzzzz", "write latest, <study>, <study>/<run> or a run's folder"),
        ("b", "in several studies: write one of one/b, two/b"),
        ("one/torn", "cannot read .*/one/torn/run.json: not valid JSON"),
        ("torn", "cannot read .*/one/torn/run.json: not valid JSON"),
    ],
)
def test_find_nothing(runs: Path, spec: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        find_run(runs, spec)
    assert "\n" not in str(caught.value)


def test_find_among_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="`uv run train` makes one"):
        find_run(tmp_path / "missing", "latest")
    make(tmp_path)
    with pytest.raises(DataError, match="ask for study/latest"):
        find_run(tmp_path, "study/best")


def test_best_without_text(tmp_path: Path) -> None:
    for name, loss in (("a", 2.0), ("b", 1.0)):
        make(tmp_path, name).finish("finished", {"val/loss": loss})
    assert find_run(tmp_path, "study").name == "b"


def test_find_signature(runs: Path) -> None:
    found = find_signature(runs, "one", "sig-b")
    assert found is not None
    assert found.path == runs / "one" / "b"
    assert find_signature(runs, "one", "sig-z") is None
    assert find_signature(runs, "nosuch", "sig-b") is None
    assert [run.name for run in store.all_runs(runs, "one")] == ["a", "b", "bad", "c"]


# where a run came from


def test_gather(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/train", "optim=muon", "sample.prompt=a b"])
    found = store.gather({"gpus": ["NVIDIA H200"]})
    assert found["command"] == "train optim=muon 'sample.prompt=a b'"
    assert found["hardware"]["gpus"] == ["NVIDIA H200"]
    assert found["hardware"]["cores"] >= 1
    assert found["hardware"]["memory_gb"] > 0.1
    assert found["hardware"]["cpu"]
    assert found["packages"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert {"torch", "wandb", "numpy"} <= set(found["packages"])
    json.dumps(found)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("cpu family : 25\nmodel : 17\nmodel name : AMD EPYC\n", "AMD EPYC (family 25, model 17)"),
        ("cpu family : 6\nmodel : 85\nmodel name : Intel(R) Xeon(R) Gold 6130\n", "Intel(R) Xeon(R) Gold 6130"),
        ("model name : a virtual one\n", "a virtual one"),
        ("", platform.processor() or platform.machine()),
    ],
)
def test_cpu_without_number(text: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "CPUINFO", tmp_path / "cpuinfo")
    machine = record.machine.__wrapped__  # read once otherwise
    assert machine()["cpu"] == (platform.processor() or platform.machine())  # there is no such file
    (tmp_path / "cpuinfo").write_text("processor : 0\n" + text + "\nprocessor : 1\nmodel name : another\n")
    assert machine()["cpu"] == name


def test_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*command: str) -> None:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.com"]
        subprocess.run(["git", "-C", tmp_path, *identity, *command], check=True, capture_output=True)

    monkeypatch.setattr(record, "ROOT", tmp_path)
    monkeypatch.setattr(record, "CODE", ("file",))
    assert record.git() is None
    git("init")
    (tmp_path / "file").write_text("a")
    git("add", "file")
    git("commit", "-m", "first")
    found = record.git()
    assert found is not None
    assert re.fullmatch("[0-9a-f]{40}", found["commit"])
    assert found["dirty"] is False
    (tmp_path / "file").write_text("b")
    changed = record.git()
    assert changed is not None and re.fullmatch("[0-9a-f]{12}", changed["changes"])
    assert changed == {**found, "dirty": True, "changes": changed["changes"]}
    monkeypatch.setenv("PATH", "")
    assert record.git() is None


def test_same_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commits that differ in CODE, changes that differ in content; what is beside CODE makes no other code."""

    def git(*command: str) -> None:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.com"]
        subprocess.run(["git", "-C", tmp_path, *identity, *command], check=True, capture_output=True)

    def version(code: str, beside: str = "", commit: bool = True) -> tuple[Any, ...]:
        (tmp_path / "gpt_lab" / "part.py").write_text(code)
        (tmp_path / "README.md").write_text(beside)
        if commit:
            git("add", "-A")
            git("commit", "-m", "next", "--allow-empty")
        found = record.git()
        assert found is not None
        return found["commit"], found["dirty"], found["changes"]

    monkeypatch.setattr(record, "ROOT", tmp_path)
    monkeypatch.setattr(record, "CODE", ("gpt_lab",))
    (tmp_path / "gpt_lab").mkdir()
    git("init")
    first, other = version("a"), version("b")
    again = version("b", "words")
    assert other[0] != again[0] and record.same_code(*other, *again) and not record.same_code(*first, *other)
    (tmp_path / "gpt_lab" / "mine.py").write_text("new")
    mine = version("b", "words", commit=False)
    (tmp_path / "gpt_lab" / "mine.py").write_text("newer")
    theirs = version("b", "words", commit=False)
    assert mine[:2] == theirs[:2] == (again[0], True)
    assert record.same_code(*mine, *mine) and not record.same_code(*mine, *theirs)
    assert not record.same_code(*again, *mine)
    assert record.same_code(*mine[:2], None, *theirs), "nothing is known of what was changed"
    assert record.same_code(None, None, None, *first), "nothing is known at all"
    assert not record.same_code("f" * 40, False, None, *first), "a commit that is not here"
