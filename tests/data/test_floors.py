"""N-gram floors against a slow reference written from the formulas."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt_lab.config.schema import RunConfig
from gpt_lab.data import floors as module
from gpt_lab.data.corpora.file_corpora import JSONLines
from gpt_lab.data.corpora.shakespeare import Shakespeare
from gpt_lab.data.dataset import open_dataset
from gpt_lab.data.floors import cross_entropy, floors, kneser_ney
from gpt_lab.data.shards import Shards, open_shards

VOCABULARY = 7


def reference(train: list[int], gram: tuple[int, ...], counts: Counter[tuple[int, ...]] | None = None) -> float:
    """Interpolated Kneser-Ney, Chen and Goodman 1998 eq. (22-24), by dictionaries."""
    n = len(gram)
    if n == 0:
        return 1 / VOCABULARY
    if counts is None:
        counts = Counter(tuple(train[i : i + n]) for i in range(len(train) - n + 1))
    once, twice = (sum(count == k for count in counts.values()) for k in (1, 2))
    discount = once / (once + 2 * twice) if once and twice else 0.5
    followers = {key: count for key, count in counts.items() if key[:-1] == gram[:-1]}
    shorter = Counter(key[1:] for key in counts)
    lower = reference(train, gram[1:], shorter)
    if not followers:
        return lower
    total = sum(followers.values())
    return (max(counts[gram] - discount, 0) + discount * len(followers) * lower) / total


@pytest.fixture
def streams() -> tuple[list[int], list[int]]:
    draw = np.random.default_rng(0)
    skewed = [0.4, 0.25, 0.15, 0.1, 0.06, 0.04, 0.0]
    return draw.choice(VOCABULARY, 60, p=skewed).tolist(), draw.integers(0, VOCABULARY, 40).tolist()


@pytest.mark.parametrize("order", [1, 2, 3])
def test_equals_the_reference(order: int, streams: tuple[list[int], list[int]]) -> None:
    train, val = streams
    found = kneser_ney(np.array(train, np.uint16), np.array(val, np.uint16), VOCABULARY, order)
    expected = [reference(train, tuple(val[i : i + order])) for i in range(len(val) - order + 1)]
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_is_a_distribution(order: int, streams: tuple[list[int], list[int]]) -> None:
    train = np.array(streams[0])
    for history in ([], [0], [6], [0, 1], [6, 6], [1, 6]):
        if len(history) == order - 1:
            total = sum(kneser_ney(train, np.array([*history, w]), VOCABULARY, order)[0] for w in range(VOCABULARY))
            assert total == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_every_target_counts_once(order: int, streams: tuple[list[int], list[int]]) -> None:
    train, val = streams
    nats = [-math.log(reference(train, tuple(val[max(0, i - order + 1) : i + 1]))) for i in range(1, len(val))]
    found = cross_entropy(np.array(train), np.array(val), VOCABULARY, order)
    assert found == pytest.approx(sum(nats) / len(nats), rel=1e-12)


@pytest.mark.parametrize("train, val", [([1, 2], [3, 3]), ([1, 1, 1, 1], [1, 1]), ([0], [0, 1, 2])])
def test_tiny_streams_are_finite(train: list[int], val: list[int]) -> None:
    for order in (1, 2, 3):
        assert math.isfinite(cross_entropy(np.array(train), np.array(val), VOCABULARY, order))


def test_a_repeated_text_is_easy_for_longer_memory() -> None:
    train = np.tile([0, 1, 2, 3, 2, 1, 0, 4, 5, 6], 300)
    unigram, bigram, trigram = (cross_entropy(train, train[:500], VOCABULARY, n) for n in (1, 2, 3))
    counts = np.bincount(train) / len(train)
    assert unigram == pytest.approx(-(counts * np.log(counts)).sum(), rel=0.01)
    assert unigram > bigram > trigram
    assert trigram < 0.01


def test_in_bits_per_byte_and_kept(config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = open_dataset(config())
    first = dataset.floors()
    shards: Shards = dataset.shards  # type: ignore[attr-defined]
    nats = cross_entropy(shards.train, shards.val, 257, 2) * (dataset.val_tokens - 1)
    assert first["bigram"] == pytest.approx(nats / math.log(2) / dataset.val_bytes)
    assert 8 > first["unigram"] > first["bigram"] > first["trigram"] > 1
    monkeypatch.setattr(module, "cross_entropy", lambda *args: pytest.fail("was worked out again"))
    assert dataset.floors() == first
    monkeypatch.undo()
    (shards.folder / "floors.json").write_text("{torn", encoding="utf-8")
    assert floors(shards) == first


@pytest.mark.parametrize("tokenizer", [{"name": "byte", "eot": True}, {"name": "char", "eot": True}])
def test_ends_of_documents_count(tokenizer: dict[str, Any], tmp_path: Path) -> None:
    """The bits of every token and every end, over the bytes of the text: of unigrams, those of their counts."""
    train, val = ["ab", "b", "ü", "a", "b", "a"], ["a", "üb", "", "b"]
    for name, texts in {"train": train, "val": val}.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    corpus = JSONLines(path=str(tmp_path / "train.jsonl"), val_path=str(tmp_path / "val.jsonl"))
    shards = open_shards(corpus, tokenizer, cache=tmp_path)
    symbols = [list(text.encode() if tokenizer["name"] == "byte" else text) for text in train]
    counts = Counter(["end", *(symbol for own in symbols for symbol in (*own, "end"))])
    once, twice = (sum(count == k for count in counts.values()) for k in (1, 2))
    discount = once / (once + 2 * twice) if once and twice else 0.5
    back = discount * len(counts) / counts.total() / shards.vocab_size

    def bits(symbol: object) -> float:
        return -math.log2((counts[symbol] - discount) / counts.total() + back)

    wanted = [list(text.encode() if tokenizer["name"] == "byte" else text) for text in val if text]
    total = sum(bits(symbol) for own in wanted for symbol in (*own, "end"))
    assert floors(shards)["unigram"] == pytest.approx(total / sum(len(text.encode()) for text in val), rel=1e-12)


def test_on_shakespeare(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Golden numbers of a corpus that never changes: character n-grams of all plays, and the size of the corpus."""
    cache = tmp_path_factory.mktemp("cache")
    shards = open_shards(Shakespeare(), {"name": "char", "eot": False}, cache=cache)
    assert (shards.vocab_size, len(shards.train), len(shards.val)) == (79, 4_494_639, 492_154)
    found = kneser_ney(shards.train[:1_000_000], shards.val[:100_000], shards.vocab_size, 2)
    assert -np.log2(found).mean() == pytest.approx(3.6, abs=0.05)
