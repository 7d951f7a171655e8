"""The code version: what counts as changed, the patch that brings it back, when two versions are the same."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from gpt_lab.claims import code
from gpt_lab.claims.code import Version
from gpt_lab.errors import LabError
from gpt_lab.store import record


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    return subprocess.run(
        ["git", "-C", str(folder), *who, *words], check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with one commit."""
    folder = tmp_path / "lab"
    for name in ("gpt_lab/store/run.py", "gpt_lab/parts/norm.py", "conf/config.yaml", "README.md", "uv.lock"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{name}\n")
    git(tmp_path, "init", "-q", str(folder))
    commit(folder)
    monkeypatch.setattr(record, "ROOT", folder)
    return folder


def commit(folder: Path) -> str:
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "x")
    return git(folder, "rev-parse", "HEAD")


def test_clean(root: Path) -> None:
    assert code.of_this_checkout() == Version(git(root, "rev-parse", "HEAD"), False)
    assert code.patch() == b""


@pytest.mark.parametrize(
    "name, dirty",
    [
        ("gpt_lab/parts/norm.py", True),
        ("gpt_lab/store/run.py", True),
        ("gpt_lab/parts/mine.py", True),  # untracked, and registered all the same
        ("conf/norm/mine.yaml", True),
        ("README.md", False),
        ("uv.lock", False),
        ("runs/x.json", False),
    ],
)
def test_what_can_change_a_run_is_a_change(root: Path, name: str, dirty: bool) -> None:
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_text("changed\n")
    assert code.of_this_checkout().dirty is dirty
    found = record.git()
    assert found is not None and (found["commit"], found["dirty"]) == (git(root, "rev-parse", "HEAD"), dirty)
    assert (found["changes"] is not None) is dirty
    assert (name.encode() in code.patch()) is dirty


def test_the_patch_brings_the_code_back(root: Path, tmp_path: Path) -> None:
    (root / "gpt_lab/parts/norm.py").write_text("changed\n")
    (root / "gpt_lab/parts/mine é.py").write_text("new\n")
    (root / "gpt_lab/parts/raw.bin").write_bytes(bytes(range(256)))
    (root / "conf/config.yaml").unlink()
    (root / "README.md").write_text("not code\n")
    (tmp_path / "code.diff").write_bytes(code.patch())
    git(tmp_path, "clone", "-q", str(root), "other")
    git(tmp_path / "other", "apply", str(tmp_path / "code.diff"))
    for folder in ("gpt_lab", "conf"):
        mine, other = (
            {p.relative_to(base): p.read_bytes() for p in (base / folder).rglob("*") if p.is_file()}
            for base in (root, tmp_path / "other")
        )
        assert mine == other
    assert (tmp_path / "other/README.md").read_text() == "README.md\n"


def test_the_same_code(root: Path) -> None:
    first = code.of_this_checkout()
    assert code.compare(first, first) == (True, "")
    (root / "README.md").write_text("more words\n")
    words = Version(commit(root), False)
    same, sentence = code.compare(first, words)
    assert same and f"{first.commit[:12]}" in sentence and "the same code in gpt_lab, conf" in sentence
    (root / "gpt_lab/parts/norm.py").write_text("another norm\n")
    other = Version(commit(root), False)
    same, sentence = code.compare(words, other)
    assert not same and sentence.endswith("they differ")
    assert code.compare(Version(first.commit, True), first)[0] is False
    assert code.compare(first, Version(first.commit, None))[0] is False
    same, sentence = code.compare(Version("a" * 40, False), first)
    assert not same and sentence.endswith("the former is not in this clone")
    same, sentence = code.compare(Version(None, None), first)
    assert not same and "no known commit" in sentence


def test_without_git(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(root / ".git")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(root.parent))
    assert code.of_this_checkout() == Version(None, None)
    assert str(code.of_this_checkout()) == "code of no known commit"
    with pytest.raises(LabError, match="git diff did not answer"):
        code.patch()
