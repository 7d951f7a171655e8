"""Unigram and WordPiece: the same vocabulary at every fit, the best cut, what is lost; and vocabularies cut short."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest

from gpt_lab import registry
from gpt_lab.data.shards import open_shards
from gpt_lab.data.tokenizers.library import BPE, HuggingFaceTokenizer, Tiktoken
from gpt_lab.data.tokenizers.subwords import Unigram, WordPiece
from gpt_lab.data.tokenizers.truncated import first_ranks
from gpt_lab.errors import ConfigError, DataError
from tests.data.tokenizers.test_lossless import byte_level, corpus

TIED = " ".join("".join(word) for word in itertools.product("aab", repeat=5))
ODD = "naïve — 𝄞 <unk> ▁ ##x <0x41> 日本語\u200d a\x00b\r\n\n"


def described(tokenizer: Any) -> str:
    """All of a tokenizer, whatever the order in which the library keeps it."""
    return json.dumps(json.loads(tokenizer._inner.to_str()), sort_keys=True)


@pytest.mark.parametrize("cls, size", [(Unigram, 290), (WordPiece, 40)])
def test_every_fit_gives_the_same(cls: type[Any], size: int, plays: list[str]) -> None:
    """On words that are full of ties, and on text; the library numbers what is alike by chance."""
    for texts, vocab_size in (([TIED], size), ([plays[0][:8000]], 400)):
        made = [cls(vocab_size=vocab_size) for _ in range(3)]
        for one in made:
            one.fit(texts)
        assert len({described(one) for one in made}) == 1
        assert made[0].eot == made[0].vocab_size - 1 <= vocab_size - 1


def test_unigram_takes_the_likeliest_of_all_cuts(plays: list[str]) -> None:
    """Against all ways to cut a word into pieces (Kudo 2018, equation 3)."""
    made = Unigram(vocab_size=330)
    made.fit([plays[0][:20_000]])
    scores = dict(json.loads(described(made))["model"]["vocab"])
    for word in ("stones", "lover", "therefore", "Thisbe"):
        text = "Ġ" + word
        cuts = (
            [text[a:b] for a, b in itertools.pairwise((0, *places, len(text)))]
            for count in range(len(text))
            for places in itertools.combinations(range(1, len(text)), count)
        )
        best = max(sum(scores.get(piece, -math.inf) for piece in cut) for cut in cuts)
        pieces = [made._inner.id_to_token(i) for i in made.encode(f" {word}")]
        assert sum(scores[piece] for piece in pieces) == pytest.approx(best)


def test_unigram_is_lossless_with_bytes_and_says_what_it_loses_without(plays: list[str], tmp_path: Path) -> None:
    source = corpus(tmp_path, [plays[0][:6000]] * 2, [ODD])
    settings = {"name": "unigram", "vocab_size": 330, "fit_chars": 10**6, "byte_fallback": True}
    shards = open_shards(source, settings, cache=tmp_path)
    assert shards.lossy == "" and shards.splits["val"]["lost_bytes"] == 0
    lost = open_shards(source, settings | {"byte_fallback": False}, cache=tmp_path)
    assert lost.lossy.startswith("tokenizer=unigram loses text: at least ")


def test_wordpiece_cuts_from_the_left_and_is_lossy(plays: list[str], tmp_path: Path) -> None:
    made = WordPiece(vocab_size=400)
    made.fit([plays[0][:20_000]])
    vocabulary = made._inner.get_vocab(with_added_tokens=False)
    for word in ("therefore", "stones"):
        rest, pieces, mark = word, [], ""
        while rest:
            longest = max(n for n in range(1, len(rest) + 1) if mark + rest[:n] in vocabulary)
            pieces.append(mark + rest[:longest])
            rest, mark = rest[longest:], "##"
        assert [made._inner.id_to_token(i) for i in made.encode(word)] == pieces
    assert made.encode("THEREFORE") == made.encode("therefore")
    cased = WordPiece(vocab_size=400, lowercase=False)
    cased.fit([plays[0][:20_000]])
    assert cased.encode("The") != cased.encode("the")
    settings = {"name": "wordpiece", "vocab_size": 400, "fit_chars": 10**6, "lowercase": True}
    shards = open_shards(corpus(tmp_path, [plays[0][:9000]], [plays[0][:500]]), settings, cache=tmp_path)
    assert shards.lossy.startswith("tokenizer=wordpiece loses text: at least ")


@pytest.mark.parametrize(
    "name, size, texts, said",
    [
        ("unigram", 300, [""], "tokenizer=unigram cannot be fitted: there is no training text"),
        ("wordpiece", 300, [""], "tokenizer=wordpiece cannot be fitted: there is no training text"),
        ("wordpiece", 5, ["abcdef"], "the characters of the text alone are 12 tokens; raise tokenizer.vocab_size"),
    ],
)
def test_what_cannot_be_fitted(name: str, size: int, texts: list[str], said: str) -> None:
    with pytest.raises(DataError, match=said):
        registry.build("tokenizer", {"name": name, "vocab_size": size}).fit(texts)


def test_a_vocabulary_cut_short_is_that_of_a_smaller_fit(plays: list[str], tmp_path: Path) -> None:
    """BPE learns merge after merge: the first ones of many are those of few; and nothing is lost."""
    whole, small = BPE(vocab_size=500), BPE(vocab_size=300)
    for one in (whole, small):
        one.fit([plays[0][:20_000]])
    whole.save(tmp_path / "whole")
    for size in (257, 300, 499, 500):
        cut = HuggingFaceTokenizer(path=str(tmp_path / "whole"), vocab=size)
        assert (cut.vocab_size, cut.eot) == (size, size - 1)
        assert cut.decode(cut.encode(ODD)) == ODD
        if size == 300:
            assert cut.encode(plays[0]) == small.encode(plays[0])
    assert len(cut.encode(plays[0])) == len(whole.encode(plays[0]))


def test_byte_fallback_writes_what_is_cut_off(ready_made: Path, plays: list[str]) -> None:
    text = plays[0][:2000] + "naïve — 𝄞"
    whole = HuggingFaceTokenizer(path=str(ready_made))
    cut = HuggingFaceTokenizer(path=str(ready_made), vocab=300)
    assert (cut.vocab_size, cut.eot, cut.decode([299])) == (300, 299, "</s>")
    assert cut.decode(cut.encode(text)) == text
    assert len(cut.encode(text)) > len(whole.encode(text))


def test_tiktoken_cut_short(ranks: Path, tmp_path: Path) -> None:
    cut = Tiktoken(encoding="small_vocab", vocab=257)
    assert (cut.vocab_size, cut.eot) == (257, 256)
    assert len(cut.encode("the")) == 3 > len(Tiktoken(encoding="small_vocab").encode("the"))
    assert cut.decode(cut.encode(ODD)) == ODD
    cut.save(tmp_path)
    assert Tiktoken.from_state(cut.state(), tmp_path).encode(ODD) == cut.encode(ODD)
    scattered = {b"ab": 0, b"a": 1, b"c": 3, b"b": 2, b"abc": 4}
    assert first_ranks(scattered, 5) == {b"ab": 0, b"a": 1, b"b": 2, b"c": 3}


def test_what_cannot_be_cut(ready_made: Path, tmp_path: Path) -> None:
    for size, said in (
        (257, "has no room for every byte and .*: at least 258"),
        (9999, "is more than the 6?[0-9]+ tok"),
    ):
        with pytest.raises(ConfigError, match=f"tokenizer.vocab={size} {said}"):
            HuggingFaceTokenizer(path=str(ready_made), vocab=size)
    inner = byte_level(decoder=None)
    inner.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(DataError, match="cuts a BPE vocabulary that can write every byte, and this one cannot"):
        HuggingFaceTokenizer(path=str(tmp_path), vocab=100)


def test_a_vocabulary_that_is_whole_keeps_its_name() -> None:
    """What was built before `vocab` came is found again."""
    for name, settings in (
        ("hf", {"path": "a/b", "revision": "main", "eot": None}),
        ("tiktoken", {"encoding": "gpt2"}),
    ):
        cls = registry.load("tokenizer", name)
        assert cls.identity({**settings, "vocab": None}) == cls.identity(settings) == settings
        assert cls.identity({**settings, "vocab": 300}) == {**settings, "vocab": 300}
