"""data=hf: local folders through `datasets`, and one clear line where a name or the network is missing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from gpt_lab.data.corpora.hub import HuggingFace
from gpt_lab.data.shards import open_shards
from gpt_lab.errors import DataError


def texts(corpus: HuggingFace, held_out: bool = False) -> list[str]:
    documents = corpus.held_out() if held_out else corpus.documents()
    assert documents is not None
    return ["".join(document.pieces) for document in documents]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    made = tmp_path / "stories"
    made.mkdir()
    for split, rows in {"train": ["one", "two", "three"], "validation": ["four"]}.items():
        lines = "".join(json.dumps({"story": row, "id": 1}) + "\n" for row in rows)
        (made / f"{split}.jsonl").write_text(lines, encoding="utf-8")
    return made


@pytest.mark.parametrize("streaming", [False, True])
def test_a_folder_of_files(folder: Path, streaming: bool, tmp_path: Path) -> None:
    corpus = HuggingFace(path=str(folder), field="story", val_split="validation", streaming=streaming)
    assert texts(corpus) == ["one", "two", "three"]
    assert texts(corpus, held_out=True) == ["four"]
    few = HuggingFace(path=str(folder), field="story", max_documents=2, streaming=streaming)
    assert texts(few) == ["one", "two"]
    assert few.held_out() is None
    shards = open_shards(corpus, {"name": "byte", "eot": False}, cache=tmp_path / "shards")
    assert bytes(shards.train.tolist()) == b"onetwothree"


def test_what_save_to_disk_wrote(tmp_path: Path) -> None:
    rows = datasets.Dataset.from_dict({"text": ["a", "b"]})
    rows.save_to_disk(tmp_path / "one")
    datasets.DatasetDict(train=rows, test=rows.select([1])).save_to_disk(tmp_path / "dict")
    assert texts(HuggingFace(path=str(tmp_path / "one"))) == ["a", "b"]
    assert texts(HuggingFace(path=str(tmp_path / "dict"), split="test")) == ["b"]
    with pytest.raises(DataError, match=r"unknown data.split 'tests'; did you mean 'test'\? \(allowed: test, train\)"):
        texts(HuggingFace(path=str(tmp_path / "dict"), split="tests"))


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    "options, says",
    [
        ({"field": "text"}, r"unknown data.field 'text' \(allowed: id, story\)"),
        ({"field": "id"}, "row 1 of train: id must be text, not int"),
        ({"split": "training"}, "cannot load .*data.split=training: .*training"),
        ({"val_split": "dev"}, "cannot load .*data.val_split=dev: .*dev"),
    ],
)
def test_what_is_not_in_the_folder(folder: Path, streaming: bool, options: dict[str, Any], says: str) -> None:
    corpus = HuggingFace(**{"path": str(folder), "field": "story", "streaming": streaming} | options)
    with pytest.raises(DataError, match=says) as caught:
        list(corpus.passages())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("streaming", [False, True])
def test_a_name_without_network(streaming: bool, tmp_path: Path) -> None:
    corpus = HuggingFace(path="nobody/nothing", streaming=streaming)
    with pytest.raises(DataError, match=r"cannot load 'nobody/nothing'.* a Hub name needs the network once") as caught:
        texts(corpus)
    assert "hf download --repo-type dataset nobody/nothing --local-dir FOLDER" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_hub_name_that_was_read_once_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"text": f"document {i}"} for i in range(5)]
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **options: rows)
    corpus = HuggingFace(path="some/stories", revision="abc")
    first = open_shards(corpus, {"name": "byte", "eot": True}, cache=tmp_path)
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **options: pytest.fail("was asked again"))
    assert open_shards(corpus, {"name": "byte", "eot": True}, cache=tmp_path).fingerprint == first.fingerprint


def test_identity(folder: Path) -> None:
    def identity(make: Callable[..., HuggingFace] = HuggingFace, **options: Any) -> str:
        return json.dumps(make(**{"path": str(folder), "field": "story"} | options).identity())

    first = identity()
    assert identity(streaming=True) == first
    different = [
        {"field": "id"},
        {"split": "validation"},
        {"val_split": "validation"},
        {"max_documents": 2},
        {"val_fraction": 0.2},
        {"config": "x"},
        {"path": "some/name"},
        {"path": "some/name", "revision": "abc"},
    ]
    found = {identity(**options) for options in different}
    (folder / "train.jsonl").write_text('{"story": "x"}\n', encoding="utf-8")
    assert len(found | {first, identity()}) == len(different) + 2
