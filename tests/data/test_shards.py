"""Shards on disk: what the stream holds, and that they are whole, built once, and rebuilt when damaged."""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt_lab.data import shards as module
from gpt_lab.data.corpora.file_corpora import JSONLines, Text
from gpt_lab.data.dataset import open_dataset
from gpt_lab.data.shard_cache import cache_folder
from gpt_lab.data.shards import Shards, open_shards
from gpt_lab.errors import DataError
from tests.helpers import flip, tiny_config

BYTE = {"name": "byte", "eot": True}
ROOT = Path(__file__).parents[2]


def contents(shards: Shards) -> tuple[list[int], list[int]]:
    return shards.train.tolist(), shards.val.tolist()


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def two(tmp_path: Path) -> JSONLines:
    """Two documents to train on and one to validate with."""
    for name, rows in {"train": ["ab", "ü"], "val": ["xyz"]}.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    return JSONLines(path=str(tmp_path / "train.jsonl"), val_path=str(tmp_path / "val.jsonl"))


def test_each_document_stands_between_two_ends(two: JSONLines, cache: Path) -> None:
    shards = open_shards(two, BYTE, cache=cache)
    assert contents(shards) == ([256, *b"ab", 256, *"ü".encode(), 256], [256, *b"xyz", 256])
    train, val = shards.splits["train"], shards.splits["val"]
    assert (train["documents"], train["text_bytes"], train["target_bytes"], train["tokens"]) == (2, 4, 4, 7)
    assert (val["documents"], val["text_bytes"], val["target_bytes"], val["tokens"]) == (1, 3, 3, 5)
    assert (shards.vocab_size, shards.eot) == (257, 256)
    assert shards.built
    assert not open_shards(two, BYTE, cache=cache).built


def test_without_an_end_of_text_documents_are_joined(two: JSONLines, cache: Path) -> None:
    shards = open_shards(two, {"name": "byte", "eot": False}, cache=cache)
    assert contents(shards) == ([*b"ab", *"ü".encode()], [*b"xyz"])
    # Its first token has nothing before it, hence is no target, and its bytes are not counted.
    assert shards.splits["val"]["target_bytes"] == 2
    assert shards.splits["train"]["target_bytes"] == 3


@pytest.mark.parametrize("name", ["bpe", "bpe_scratch", "char", "byte"])
def test_the_stream_is_the_text(name: str, story: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH", 3000)
    monkeypatch.setattr("gpt_lab.data.corpora.file_corpora.PIECE", 1000)
    options = {"bpe": {"vocab_size": 400}, "bpe_scratch": {"vocab_size": 400}}.get(name, {})
    shards = open_shards(Text(path=str(story)), {"name": name, **options}, cache=cache)
    inner = [ids[1:-1] if shards.eot is not None else ids for ids in contents(shards)]
    text = "".join(map(shards.tokenizer.decode, inner))
    assert text == story.read_text(encoding="utf-8")
    assert sum(split["text_bytes"] for split in shards.splits.values()) == len(text.encode())
    assert inner[1] == shards.tokenizer.encode(shards.tokenizer.decode(inner[1]))
    assert shards.train.dtype == np.uint16


def test_wide_tokens(story: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_dtype", lambda vocab_size: np.dtype("<u4"))
    wide = open_shards(Text(path=str(story)), BYTE, cache=cache / "wide")
    monkeypatch.undo()
    assert module._dtype(65536) == np.uint16
    assert module._dtype(65537) == np.uint32
    assert (wide.folder / "train.bin").stat().st_size == 4 * wide.splits["train"]["tokens"]


def test_the_fingerprint_names_all_that_matters(story: Path, cache: Path, tmp_path: Path) -> None:
    def fingerprint(path: Path, tokenizer: dict[str, Any] = BYTE, **options: Any) -> str:
        return open_shards(Text(path=str(path), **options), tokenizer, cache=cache).fingerprint

    first = fingerprint(story)
    moved = story.rename(tmp_path / "moved.txt")
    assert fingerprint(moved) == first
    others = {
        fingerprint(moved, {"name": "byte", "eot": False}),
        fingerprint(moved, {"name": "char", "eot": False}),
        fingerprint(moved, val_fraction=0.2),
    }
    moved.write_text(moved.read_text(encoding="utf-8") + "!", encoding="utf-8")
    assert len(others | {first, fingerprint(moved)}) == 5


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "short": (lambda folder: os.truncate(folder / "train.bin", 100), "train.bin is not what was written"),
    "no val": (lambda folder: (folder / "val.bin").unlink(), "val.bin is missing"),
    "torn meta": (lambda folder: (folder / "meta.json").write_text('{"splits":'), "meta.json is not what was written"),
    "no meta": (lambda folder: (folder / "meta.json").unlink(), "meta.json is missing"),
    "no sums": (lambda folder: (folder / "SHA256SUMS").unlink(), "SHA256SUMS is missing"),
    **{
        f"{name} at {where:.0%}": (functools.partial(flip, name=name, where=where, count=1), f"{name} is not what was")
        for name in ("train.bin", "val.bin", "train.crc", "meta.json", "tokenizer/state.json", "SHA256SUMS")
        for where in (0.0, 0.37, 1.0)
    },
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_shards_are_built_again_and_that_is_said(damage: str, story: Path, cache: Path) -> None:
    first = open_shards(Text(path=str(story)), BYTE, cache=cache)
    before = contents(first)
    change, says = DAMAGE[damage]
    change(first.folder)
    again = open_shards(Text(path=str(story)), BYTE, cache=cache)
    assert again.built
    assert contents(again) == before
    (line,) = again.warnings
    assert line.startswith(
        f"the token shards in {first.folder} were damaged ({says if 'SUMS at' not in damage else ''}"
    )
    assert line.endswith("have been built again")
    whole = open_shards(Text(path=str(story)), BYTE, cache=cache)
    assert (whole.built, whole.warnings) == (False, [])
    assert sorted(path.name for path in cache.iterdir()) == [first.fingerprint, f"{first.fingerprint}.lock"]


def test_large_shards_are_checked_where_they_are_read(
    story: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A damaged block is never handed out; the next process builds the shards again."""
    monkeypatch.setattr(module, "CHECKED", 100)
    monkeypatch.setattr("gpt_lab.data.blocks.BLOCK", 1000)
    first = open_shards(Text(path=str(story)), BYTE, cache=cache)
    (before, tokens), file = contents(first), first.folder / "train.bin"
    flip(first.folder, "train.bin", count=1)
    at = next(i for i in range(len(before)) if before[i] != int(first.train[i])) * 2 // 1000 * 1000
    shards = open_shards(Text(path=str(story)), BYTE, cache=cache)
    assert not shards.built
    good, bad = at // 2 - 10, at // 2 - 9
    shards.check("train", np.array([0, good]), 10)
    shards.check("val", np.array([0]), 10**9)
    with pytest.raises(DataError, match=rf"{re.escape(str(file))} is damaged at byte {at}: the same command builds it"):
        shards.check("train", np.array([0, bad]), 10)
    with pytest.raises(DataError, match=f"is damaged at byte {at}: "):
        shards.check("train", np.array([0]), len(before))
    again = open_shards(Text(path=str(story)), BYTE, cache=cache)
    assert again.built and "were damaged (SHA256SUMS is missing)" in again.warnings[0]
    assert contents(again) == (before, tokens)
    again.check("train", np.array([0]), len(before))


def test_every_read_of_a_data_set_is_checked(story: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training windows, validation windows and n-gram counts: damage ends each of them in one line."""
    monkeypatch.setattr(module, "CHECKED", 100)
    cfg = tiny_config(data={"name": "text", "path": str(story)})
    for split, read in (
        ("train", lambda dataset: [dataset.batch(step) for step in range(dataset.train_tokens // 64)]),
        ("val", lambda dataset: list(dataset.validation(4))),
        ("train", lambda dataset: dataset.floors()),
        ("val", lambda dataset: dataset.floors()),
    ):
        dataset = open_dataset(cfg, cache_dir=tmp_path / "cache")
        read(dataset)
        (folder,) = (path for path in (tmp_path / "cache").iterdir() if path.is_dir())
        flip(folder, f"{split}.bin", 0.9)
        (folder / "floors.json").unlink(missing_ok=True)
        with pytest.raises(DataError, match=f"{split}.bin is damaged at byte"):
            read(open_dataset(cfg, cache_dir=tmp_path / "cache"))


def test_a_killed_build_leaves_nothing_behind(story: Path, cache: Path) -> None:
    first = open_shards(Text(path=str(story)), BYTE, cache=cache)
    left = cache / f".{first.fingerprint}.123"
    first.folder.rename(left)
    assert open_shards(Text(path=str(story)), BYTE, cache=cache).built
    assert not left.exists()


def test_a_failed_build_leaves_nothing_behind(story: Path, cache: Path) -> None:
    story.write_bytes(b"fine\n" * 1000 + b"\xff")
    with pytest.raises(DataError, match="story.txt: not UTF-8 at byte 5000"):
        open_shards(Text(path=str(story)), BYTE, cache=cache)
    assert [path.suffix for path in cache.iterdir()] == [".lock"]


PROGRAM = """
import sys, time
from pathlib import Path
from gpt_lab.data.corpora.file_corpora import Text
from gpt_lab.data.shards import open_shards
story, cache, go = map(Path, sys.argv[1:])
print("ready", flush=True)
while not go.exists():
    time.sleep(0.005)
shards = open_shards(Text(path=str(story)), {"name": "bpe_scratch", "vocab_size": 600}, cache=cache)
print(int(shards.built), int(shards.train.astype(int).sum()), len(shards.tokenizer.encode("the")))
"""


def test_processes_that_start_at_once_build_once(story: Path, cache: Path, tmp_path: Path) -> None:
    story.write_text(story.read_text(encoding="utf-8") * 5, encoding="utf-8")
    go = tmp_path / "go"
    command = [sys.executable, "-c", PROGRAM, str(story), str(cache), str(go)]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(3)]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    go.touch()
    found = [child.communicate(timeout=60)[0].split() for child in children]
    assert sorted(built for built, *_ in found) == ["0", "0", "1"]
    assert len({tuple(rest) for _, *rest in found}) == 1


def test_a_build_is_killed_at_any_moment(story: Path, cache: Path, tmp_path: Path) -> None:
    """kill -9 during a build: the next process builds whole shards and removes what was left."""
    go = tmp_path / "go"
    go.touch()
    command = [sys.executable, "-c", PROGRAM, str(story), str(cache), str(go)]
    for moment in (0.0, 0.03, 0.1):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as child:
            assert child.stdout is not None
            child.stdout.readline()
            time.sleep(moment)
            child.kill()
    shards = open_shards(Text(path=str(story)), {"name": "bpe_scratch", "vocab_size": 600}, cache=cache)
    text = "".join(shards.tokenizer.decode(ids[1:-1]) for ids in contents(shards))
    assert text == story.read_text(encoding="utf-8")
    assert not list(cache.glob(".*"))


def test_a_full_disk(story: Path, cache: Path) -> None:
    """A limit on the size of files stands in for the disk: the error is the same kind, and nothing is left."""
    program = """
import resource, sys
from pathlib import Path
from gpt_lab.data.corpora.file_corpora import Text
from gpt_lab.data.shards import open_shards
from gpt_lab.errors import DataError
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    open_shards(Text(path=sys.argv[1]), {"name": "byte", "eot": True}, cache=Path(sys.argv[2]))
except DataError as error:
    print(error)
"""
    command = [sys.executable, "-W", "error", "-c", program, str(story), str(cache)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert (
        done.stdout
        == f"cannot write the cache {cache}: file too large; set GPT_LAB_CACHE=FOLDER to keep it elsewhere\n"
    )
    assert done.stderr == ""
    assert [path.suffix for path in cache.iterdir()] == [".lock"]


def test_a_cache_that_cannot_be_written(story: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPT_LAB_CACHE", str(story / "cache"))
    with pytest.raises(
        DataError, match=r"cannot write the cache .*/story.txt/cache: not a directory; set GPT_LAB_CACHE="
    ):
        open_shards(Text(path=str(story)), BYTE)

    def refused(self: Path, *args: Any, **kwargs: Any) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    shards = open_shards(Text(path=str(story)), BYTE, cache=tmp_path / "cache")
    monkeypatch.setattr(Path, "mkdir", refused)
    with pytest.raises(DataError, match="permission denied; set GPT_LAB_CACHE="):
        open_shards(Text(path=str(story)), {"name": "char", "eot": False}, cache=tmp_path / "cache")
    # What is there already can be read without writing.
    assert open_shards(Text(path=str(story)), BYTE, cache=tmp_path / "cache").fingerprint == shards.fingerprint


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GPT_LAB_CACHE", "~/mine")
    assert cache_folder() == tmp_path / "mine"
    monkeypatch.delenv("GPT_LAB_CACHE")
    assert cache_folder() == tmp_path / ".cache" / "gpt_lab"


@pytest.mark.parametrize(
    "train, val, says",
    [
        ("", None, "the corpus is empty: there is no text in it; check data.path"),
        ("", "text", "no text is left to train on"),
        ("text", "", "no text is held out for validation"),
        ("x", None, "no text is left to train on"),
    ],
)
@pytest.mark.parametrize("eot", [True, False])
def test_empty_text(train: str, val: str | None, says: str, eot: bool, tmp_path: Path, cache: Path) -> None:
    paths = {}
    for name, text in {"path": train, "val_path": val}.items():
        if text is not None:
            (tmp_path / name).write_text(text, encoding="utf-8")
            paths[name] = str(tmp_path / name)
    with pytest.raises(DataError, match=says):
        open_shards(Text(**paths), {"name": "byte", "eot": eot}, cache=cache)


@pytest.mark.parametrize("name", ["bpe", "bpe_scratch", "char"])
def test_fitting_on_nothing(name: str, tmp_path: Path, cache: Path) -> None:
    (tmp_path / "empty.txt").touch()
    options = {} if name == "char" else {"vocab_size": 300}
    with pytest.raises(DataError, match="the corpus is empty|there is no training text"):
        open_shards(Text(path=str(tmp_path / "empty.txt")), {"name": name, **options}, cache=cache)


def test_warnings_come_back_from_the_cache(story: Path, cache: Path) -> None:
    for _ in range(2):
        (warning,) = open_shards(Text(path=str(story)), {"name": "bpe", "vocab_size": 60_000}, cache=cache).warnings
        assert warning.startswith("tokenizer.vocab_size=60000: the corpus fills only ")


def test_progress(story: Path, cache: Path) -> None:
    seen: list[tuple[str, int, int | None]] = []
    open_shards(
        Text(path=str(story)), {"name": "bpe", "vocab_size": 300}, lambda *event: seen.append(event), cache=cache
    )
    assert {phase for phase, _, _ in seen} == {"fitting the tokenizer", "encoding"}
    assert seen[-1][1] == seen[-1][2] == len(story.read_text(encoding="utf-8"))
