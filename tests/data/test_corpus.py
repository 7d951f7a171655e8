"""Pieces and the split of a corpus."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from gpt_lab.data import corpus
from gpt_lab.data.corpus import Corpus, Document, Passage, in_memory, pieces
from gpt_lab.data.tokenizers.bpe import WORD
from gpt_lab.errors import ConfigError


class Listed(Corpus):
    def __init__(self, texts: list[str], val_fraction: float = 0.1, val: list[str] | None = None) -> None:
        self.texts, self.val_fraction, self.val = texts, val_fraction, val

    def documents(self) -> Iterator[Document]:
        return map(in_memory, self.texts)

    def held_out(self) -> Iterator[Document] | None:
        return None if self.val is None else map(in_memory, self.val)

    def identity(self) -> Mapping[str, Any]:
        return {}


def texts(passages: list[Passage], split: str) -> list[str]:
    """The documents of one side, put together again."""
    found: list[str] = []
    for passage in passages:
        if passage.split == split:
            if passage.starts:
                found.append("")
            found[-1] += passage.text
    return found


def test_pieces_are_the_whole_and_keep_words(monkeypatch: pytest.MonkeyPatch, plays: list[str]) -> None:
    monkeypatch.setattr(corpus, "PIECE", 5000)
    text = plays[0]
    parts = list(pieces(text))
    assert "".join(parts) == text
    assert len(parts) > 10
    assert max(map(len, parts)) <= 5000
    assert list(itertools.chain.from_iterable(map(WORD.findall, parts))) == WORD.findall(text)


@pytest.mark.parametrize("text", ["", "x", "x" * 700, "\n" * 700, "ab\n" * 300, "é" * 500 + "\n"])
def test_pieces_of_odd_texts(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "PIECE", 100)
    parts = list(pieces(text))
    assert "".join(parts) == text
    assert all(parts)
    assert max(map(len, parts), default=0) <= 100


def test_few_documents_lose_their_ends(plays: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "PIECE", 10_000)
    passages = list(Listed(plays, 0.2).passages())
    train, val = texts(passages, "train"), texts(passages, "val")
    assert [t + v for t, v in zip(train, val, strict=True)] == plays
    assert all(text.endswith("\n\n") for text in train)
    for text, tail in zip(plays, val, strict=True):
        assert len(tail) == pytest.approx(0.2 * len(text), rel=0.05)


def test_many_documents_are_held_out_whole() -> None:
    documents = [f"document {i}" for i in range(2000)]
    passages = list(Listed(documents, 0.25).passages())
    train, val = texts(passages, "train"), texts(passages, "val")
    assert sorted(train + val) == sorted(documents)
    assert len(val) == pytest.approx(500, abs=80)
    # The side of a document depends on nothing but its text.
    again = list(Listed(documents[::-1], 0.25).passages())
    assert set(texts(again, "val")) == set(val)


def test_equal_documents_stay_together() -> None:
    passages = list(Listed([f"document {i % 50}" for i in range(1000)], 0.5).passages())
    assert not set(texts(passages, "train")) & set(texts(passages, "val"))


def test_held_out_documents_are_the_validation_text() -> None:
    passages = list(Listed(["a", "b"], 0.0, val=["c"]).passages())
    assert (texts(passages, "train"), texts(passages, "val")) == (["a", "b"], ["c"])


def test_no_validation_text_is_refused() -> None:
    with pytest.raises(ConfigError, match="val_fraction=0 leaves no validation text"):
        list(Listed(["a"], 0.0).passages())
