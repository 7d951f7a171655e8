"""Tokenizers: text comes back byte for byte, from the saved folder too, and each error is one clear line."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiktoken

from gpt_lab import registry
from gpt_lab.data.tokenizers.bpe import ScratchBPE
from gpt_lab.data.tokenizers.library import FILE, Tiktoken
from gpt_lab.data.tokenizers.tokenizer import EOT, Tokenizer, load_tokenizer
from gpt_lab.errors import ConfigError, DataError

ODD = ["", " ", "\n\n \t x", "naïve — 𝄞 日本語\u200d", "a\x00b", EOT, f"x{EOT}y", "1234.5 don't  STOP!!", "\r\n", "ﬁ½²"]


@pytest.fixture
def make(plays: list[str], ready_made: Path, ranks: Path) -> Callable[[str], Tokenizer]:
    options: dict[str, dict[str, Any]] = {
        "bpe": {"vocab_size": 400},
        "bpe_scratch": {"vocab_size": 400},
        "hf": {"path": str(ready_made)},
        "tiktoken": {"encoding": "small_vocab"},
    }

    def make(name: str) -> Tokenizer:
        made: Tokenizer = registry.build("tokenizer", {"name": name, **options.get(name, {})})
        made.fit([plays[0], *ODD] if made.fits == "all" else [plays[0]])
        return made

    return make


NAMES = sorted(registry.index()["tokenizer"])
LOSSY = ("wordpiece",)


@pytest.mark.parametrize("name", NAMES)
def test_round_trip_also_from_disk(
    name: str, make: Callable[[str], Tokenizer], tmp_path: Path, plays: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make(name)
    made.save(tmp_path / "run" / "tokenizer")
    monkeypatch.setattr("tiktoken.registry.ENCODING_CONSTRUCTORS", {})  # the folder is all there is
    loaded = load_tokenizer(tmp_path / "run" / "tokenizer")
    assert type(loaded) is type(made)
    assert (loaded.vocab_size, loaded.eot) == (made.vocab_size, made.eot)
    texts = [plays[0][:3000], plays[1][:3000], *ODD]
    for text in texts:
        ids = made.encode(text)
        assert loaded.encode(text) == ids
        assert all(type(i) is int and 0 <= i < made.vocab_size for i in ids)
        assert made.eot not in ids
        assert loaded.decode_bytes(ids) == made.decode_bytes(ids)
        if name not in LOSSY:
            assert loaded.decode_bytes(ids) == text.encode()
            assert loaded.decode(ids) == text
    assert (loaded.decode_bytes(loaded.encode(plays[0])) == plays[0].encode()) == (name not in LOSSY)
    assert [ids.tolist() for ids in loaded.encode_many(texts)] == [made.encode(text) for text in texts]


def test_numbers_that_are_no_tokens_are_no_text(make: Callable[[str], Tokenizer]) -> None:
    """A model may have more rows than its tokenizer has tokens, and a tokenizer gaps before its special tokens."""
    bpe, gaps = make("bpe"), Tiktoken.__new__(Tiktoken)
    ranks = {bytes([byte]): byte for byte in range(256)}
    gaps._take("gaps", tiktoken.Encoding("gaps", pat_str=".", mergeable_ranks=ranks, special_tokens={EOT: 300}))
    for made, number in ((bpe, bpe.vocab_size + 7), (gaps, 280)):
        (known,) = made.encode("x")
        assert made.decode_bytes([known, number, known]) == b"xx"
    assert gaps.decode_bytes([280, 300]) == EOT.encode()


@pytest.mark.parametrize("name", NAMES)
def test_every_token_can_be_shown(name: str, make: Callable[[str], Tokenizer]) -> None:
    made = make(name)
    for i in range(made.vocab_size):
        assert isinstance(made.decode_bytes([i]), bytes)
    if made.eot is not None:
        assert made.decode_bytes([made.eot]).decode() in (EOT, "</s>")


@pytest.mark.parametrize("name", ["bpe", "bpe_scratch", "byte", "tiktoken", "unigram"])
def test_pieces_of_a_character(name: str, make: Callable[[str], Tokenizer]) -> None:
    made = make(name)
    ids = made.encode("𝄞")
    assert len(ids) > 1
    assert made.decode(ids[:1]) == "�"
    assert b"".join(made.decode_bytes([i]) for i in ids) == "𝄞".encode()


@pytest.mark.parametrize("size", [257, 258, 300, 1500])
def test_both_bpe_learn_the_same(size: int, plays: list[str]) -> None:
    """On Shakespeare and on words that hold all ties and overlaps of three letters."""
    tied = " ".join("".join(word) for word in itertools.product("aab", repeat=5))
    library, scratch = (
        registry.build("tokenizer", {"name": name, "vocab_size": size}) for name in ("bpe", "bpe_scratch")
    )
    for texts in ([plays[0], plays[1]], [tied], ["日本語 naïve 日本語 \n\n\n  aaaa aaaa aaaaa"] * 3):
        assert library.fit(texts) == scratch.fit(texts)
        assert (library.vocab_size, library.eot) == (scratch.vocab_size, scratch.eot)
        for i in range(library.vocab_size):
            assert library.decode_bytes([i]) == scratch.decode_bytes([i])
        for text in [plays[2], tied, *ODD]:
            assert library.encode(text) == scratch.encode(text)


def test_merges_known_by_hand() -> None:
    """Sennrich et al. 2015, as worked out in Karpathy's minbpe: aaabdaaabac -> aa, then aaa or ab, ..."""
    made = ScratchBPE(vocab_size=260)
    assert made.fit(["aaabdaaabac"]) == []
    assert [made.decode([i]) for i in range(256, 260)] == ["aa", "ab", "aaab", EOT]
    assert [made.decode([i]) for i in made.encode("aaabdaaabac")] == ["aaab", "d", "aaab", "a", "c"]


@pytest.mark.parametrize("name", ["bpe", "bpe_scratch"])
def test_a_vocabulary_that_the_corpus_cannot_fill(name: str) -> None:
    made = registry.build("tokenizer", {"name": name, "vocab_size": 5000})
    (warning,) = made.fit(["abab abab"])
    size = made.vocab_size
    assert warning == f"tokenizer.vocab_size=5000: the corpus fills only {size}; the vocabulary has {size} tokens"
    assert 257 < made.vocab_size < 265
    assert made.eot == made.vocab_size - 1


@pytest.mark.parametrize("name", ["bpe", "bpe_scratch", "unigram", "wordpiece"])
def test_fit_chars_is_honoured(name: str, plays: list[str]) -> None:
    pieces = [plays[0][:5000], plays[1][:5000]]
    first, both, limited = (
        registry.build("tokenizer", {"name": name, "vocab_size": 400, "fit_chars": n}) for n in (10**6, 10**6, 4000)
    )
    first.fit([pieces[0][:4000]])
    both.fit(pieces)
    limited.fit(pieces)
    assert limited.encode(plays[2]) == first.encode(plays[2]) != both.encode(plays[2])


@pytest.mark.parametrize("name", ["bpe", "bpe_scratch", "unigram"])
def test_vocabulary_smaller_than_the_bytes(name: str) -> None:
    with pytest.raises(ConfigError, match="tokenizer.vocab_size must be at least 257 .* not 256"):
        registry.build("tokenizer", {"name": name, "vocab_size": 256})


def test_char() -> None:
    made = registry.build("tokenizer", {"name": "char"})
    made.fit(["hello", " wörld"])
    assert (made.vocab_size, made.eot) == (10, 9)
    assert made.decode(made.encode("lord")) == "lord"
    for encode in (made.encode, lambda text: made.encode_many([text])):
        with pytest.raises(DataError, match=r"character 'z' \(U\+007A\) is not among the 9 .* tokenizer=byte"):
            encode("hezl")
    joining = registry.build("tokenizer", {"name": "char", "eot": False})
    joining.fit(["hello"])
    assert (joining.vocab_size, joining.eot) == (4, None)


def test_byte_sizes() -> None:
    sizes = [registry.build("tokenizer", {"name": "byte", "eot": eot}) for eot in (True, False)]
    assert [(made.vocab_size, made.eot) for made in sizes] == [(257, 256), (256, None)]


def test_ready_made(ready_made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = registry.build("tokenizer", {"name": "hf", "path": str(ready_made / FILE)})
    assert made.eot == 2
    assert 259 < made.vocab_size <= 600
    named = registry.build("tokenizer", {"name": "hf", "path": str(ready_made), "eot": "<s>"})
    assert named.eot == 1
    with pytest.raises(DataError, match=r"tokenizer.eot='<end>' is no token of"):
        registry.build("tokenizer", {"name": "hf", "path": str(ready_made), "eot": "<end>"})


def test_ready_made_is_known_by_its_content(ready_made: Path, tmp_path: Path) -> None:
    cls = registry.load("tokenizer", "hf")
    before = cls.identity({"name": "hf", "path": str(ready_made), "revision": "main", "eot": None})
    moved = ready_made.rename(tmp_path / "moved")
    assert cls.identity({"name": "hf", "path": str(moved / FILE), "revision": "main", "eot": None}) == before
    (moved / FILE).write_text((moved / FILE).read_text(encoding="utf-8") + " ", encoding="utf-8")
    assert cls.identity({"name": "hf", "path": str(moved / FILE), "revision": "main", "eot": None}) != before


def test_ready_made_errors(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("{}", encoding="utf-8")
    for path, says in {
        str(tmp_path / "missing.json"): "there is no file .*missing.json; set tokenizer.path",
        str(tmp_path): "there is no file .*tokenizer.json; set tokenizer.path",
        str(tmp_path / "bad.json"): "bad.json is no tokenizer.json of the tokenizers library",
        "some/name": r"tokenizer.path='some/name' is no file or folder here .*`hf download some/name tokenizer.json",
    }.items():
        with pytest.raises(DataError, match=says) as caught:
            registry.build("tokenizer", {"name": "hf", "path": path})
        assert "\n" not in str(caught.value)


def test_tiktoken_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="unknown tokenizer.encoding 'gpt9'; did you mean 'gpt2'"):
        registry.build("tokenizer", {"name": "tiktoken", "encoding": "gpt9"})
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    with pytest.raises(
        DataError, match="ranks of o200k_base from the web once .*set TIKTOKEN_CACHE_DIR to it"
    ) as caught:
        registry.build("tokenizer", {"name": "tiktoken", "encoding": "o200k_base"})
    assert "\n" not in str(caught.value)


def test_broken_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no tokenizer in"):
        load_tokenizer(tmp_path)
    for text in ("{", "{}", '{"tokenizer": "byte", "state": {}}', "[]"):
        (tmp_path / "state.json").write_text(text, encoding="utf-8")
        with pytest.raises(DataError, match="the tokenizer in .* is broken"):
            load_tokenizer(tmp_path)
