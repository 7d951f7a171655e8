"""Bits per byte stand for the text: none where text is lost, and the same bytes and ends for every tokenizer."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from gpt_lab.config import composition
from gpt_lab.data.corpora.file_corpora import JSONLines
from gpt_lab.data.dataset import open_dataset
from gpt_lab.data.shards import Shards, open_shards
from gpt_lab.data.tokenizers.library import FILE
from gpt_lab.data.tokenizers.lossless import RoundTrip
from gpt_lab.data.tokenizers.simple import Byte
from gpt_lab.data.tokenizers.tokenizer import EOT
from gpt_lab.errors import DataError
from tests.helpers import tiny_config

ODD = [
    "\ufeffBOM",
    "a\r\nb\r\n\r\n",
    " x",
    "naïve — 𝄞 e\u0301",
    f"<s>{EOT}</s><unk>",
    "a\x00b  c\t\n\n ",
    "ﬁ½² 日本語\u200d",
]
"""Documents with what a tokenizer may drop, merge or take for its own."""


def corpus(folder: Path, train: list[str], val: list[str]) -> JSONLines:
    for name, rows in {"train": train, "val": val}.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    return JSONLines(path=str(folder / "train.jsonl"), val_path=str(folder / "val.jsonl"))


def byte_level(**parts: Any) -> tokenizers.Tokenizer:
    """A byte-level tokenizer without merges, and what is changed of it."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = tokenizers.Tokenizer(models.BPE({text: i for i, text in enumerate(alphabet)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    for name, part in parts.items():
        setattr(inner, name, part)
    return inner


def unknown() -> tokenizers.Tokenizer:
    """Knows h, e and l."""
    inner = tokenizers.Tokenizer(models.WordLevel({"h": 0, "e": 1, "l": 2, "<unk>": 3}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    inner.decoder = decoders.Fuse()
    return inner


def added(token: tokenizers.AddedToken) -> tokenizers.Tokenizer:
    inner = byte_level()
    inner.add_tokens([token])
    return inner


Made = Callable[[], tokenizers.Tokenizer]
PREFIXED = pre_tokenizers.ByteLevel(add_prefix_space=True)
LOSSY: dict[str, tuple[Made, str, int, str]] = {
    "lower case": (lambda: byte_level(normalizer=normalizers.Lowercase()), "THE Ü", 4, "'THE Ü' as 'the ü'"),
    "composed": (lambda: byte_level(normalizer=normalizers.NFC()), "cafe\u0301s", 3, "'cafe\u0301s' as 'cafés'"),
    "unknown": (unknown, "hello", 1, "'ello' as 'ell<unk>'"),
    "all unknown": (unknown, "日本", 6, "'日本' as '<unk><unk>'"),
    "a space more": (lambda: byte_level(pre_tokenizer=PREFIXED), "x", 1, "'x' as ' x'"),
    "spaces less": (lambda: added(tokenizers.AddedToken("AB", lstrip=True)), "a  AB", 2, "'a  AB' as 'aAB'"),
    "the end of text": (lambda: added(tokenizers.AddedToken("</s>")), "a</s>b", 4, "'a</s>b' as 'ab'"),
}
"""A tokenizer, a text, bytes of it that do not come back, and what is said of them."""


def hf(folder: Path, inner: tokenizers.Tokenizer) -> dict[str, Any]:
    inner.save(str(folder / FILE))
    return {"name": "hf", "path": str(folder / FILE), "revision": "main", "eot": None}


@pytest.mark.parametrize("case", LOSSY)
def test_lost_text_has_no_bits_per_byte(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, text, lost, example = LOSSY[case]
    settings, fine = hf(tmp_path, made()), "hhhh"
    source = corpus(tmp_path, [fine] * 9, [text, text])
    total = 2 * len(text.encode())
    said = f"tokenizer=hf loses text: at least {2 * lost} of {total} bytes of the validation text do not come back "
    said += f"({example})"
    if case == "a space more":
        fine = ""  # nothing comes back whole
    for built in (True, False):
        shards = open_shards(source, settings, cache=tmp_path)
        assert (shards.built, shards.lossy) == (built, said)
        assert shards.warnings == [f"{said}: there will be no bits per byte; use tokenizer=byte, bpe or tiktoken"]
        assert shards.splits["val"]["lost_bytes"] == 2 * lost
    monkeypatch.setenv("GPT_LAB_CACHE", str(tmp_path))
    data = {"name": "jsonl", "path": source.path, "val_path": source.val_path}
    dataset = open_dataset(tiny_config(data=data, tokenizer=settings, **{"scale.context": 4}))
    assert (dataset.lossy, dataset.bytes_per_token, dataset.floors()) == (said, None, {})
    if fine:  # lost in the training text alone, it is said, and the bits per byte are those of the validation text
        other = open_shards(corpus(tmp_path, [text] * 9, [fine]), settings, cache=tmp_path)
        assert other.lossy == ""
        (warning,) = other.warnings
        assert warning.startswith(
            f"tokenizer=hf loses text: at least {9 * lost} of {9 * total // 2} bytes of the training"
        )


@pytest.mark.parametrize("name", ["byte", "char", "bpe", "bpe_scratch", "unigram", "tiktoken", "words", "byte-level"])
def test_odd_text_is_not_lost(name: str, tmp_path: Path, ready_made: Path, ranks: Path) -> None:
    """Byte order marks, line ends, combining marks, control characters, special tokens as text, unseen characters."""
    # what a tokenizer adds around documents of its own accord would be text that is not there
    ends = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 256), ("[SEP]", 257)])
    around = byte_level(post_processor=ends)
    around.add_special_tokens(["[CLS]", "[SEP]"])
    around.enable_truncation(3)
    options = {
        "bpe": {"vocab_size": 300, "fit_chars": 10**6},
        "bpe_scratch": {"vocab_size": 300, "fit_chars": 10**6},
        "unigram": {"vocab_size": 300, "fit_chars": 10**6},
        "tiktoken": {"encoding": "small_vocab"},
        "words": {"name": "hf", "path": str(ready_made), "revision": "main", "eot": None},
        "byte-level": hf(tmp_path, around),
    }
    shards = open_shards(
        corpus(tmp_path, ["plain words"] * 3, ODD), {"name": name} | options.get(name, {}), cache=tmp_path
    )
    assert (shards.lossy, shards.splits["val"]["lost_bytes"], shards.splits["train"]["lost_bytes"]) == ("", 0, 0)
    assert [document.decode() for document in documents(shards)] == ODD
    assert shards.splits["val"]["target_bytes"] == sum(len(text.encode()) for text in ODD)


def documents(shards: Shards) -> list[bytes]:
    """The validation documents that the stream holds, each from one end of text to the next."""
    found: list[list[int]] = []
    for token in shards.val.tolist():
        if token == shards.eot:
            found.append([])
        else:
            found[-1].append(token)
    assert found.pop() == []
    return [shards.tokenizer.decode_bytes(ids) for ids in found]


def test_a_lost_text_is_counted_by_its_bytes() -> None:
    """Bytes in another order count as one at least, and no more are lost than there are."""
    trip = RoundTrip(Byte())
    trip.add(b"abc", np.array([*b"abc"]))
    assert (trip.lost, trip.example) == (0, "")
    trip.add(b"abcdefgh", np.array([*b"abcdefhg"]))
    assert (trip.lost, trip.example) == (1, "'defgh' as 'defhg'")
    trip.add(b"a", np.array([*b"a and much more"]))
    assert trip.lost == 2
    trip.add(b"abc", np.array([], dtype=int))
    assert trip.lost == 5


@pytest.mark.parametrize("token", [-1, 257, 70_000])
def test_tokens_beyond_the_vocabulary(token: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They would be written as others: shards have 16 bits a token."""
    monkeypatch.setattr(Byte, "encode_many", lambda self, texts: [np.array([65, token]) for _ in texts])
    with pytest.raises(DataError, match=f"the tokenizer gave token {token}, and it has those from 0 to"):
        open_shards(corpus(tmp_path, ["ab"], ["ab"]), {"name": "byte", "eot": True}, cache=tmp_path)


def test_half_a_surrogate_pair_is_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = corpus(tmp_path, ["ab"], ["ab"])
    monkeypatch.setattr("gpt_lab.data.corpora.file_corpora.require_text", lambda *_: "\ud83d")
    with pytest.raises(DataError, match="half a surrogate pair"):
        open_shards(source, {"name": "byte", "eot": True}, cache=tmp_path)


TRAIN, VAL = ["ab", "ba ü", "€\r\n", "zz", "bx"], ["ab", "ü€", "x\r\n", "b"]


@pytest.mark.parametrize(
    "settings, tokens",
    [
        ({"name": "byte", "eot": True}, [2, 5, 3, 1]),
        ({"name": "char", "eot": True}, [2, 2, 3, 1]),
        ({"name": "bpe", "vocab_size": 257, "fit_chars": 100}, [2, 5, 3, 1]),
        ({"name": "bpe_scratch", "vocab_size": 258, "fit_chars": 100}, [2, 5, 2, 1]),
        ({"name": "hf"}, [2, 5, 3, 1]),
    ],
    ids=lambda value: value["name"] if isinstance(value, dict) else "",
)
def test_every_tokenizer_has_the_same_bytes_and_ends(
    settings: dict[str, Any], tokens: list[int], tmp_path: Path
) -> None:
    """The 11 bytes of 4 documents, and 4 ends that cost nats, whatever the tokens; this hf has no end of its own."""
    if settings["name"] == "hf":
        settings = hf(tmp_path, byte_level())
    train = [*TRAIN, "\r\n", "\r\n"]
    shards = open_shards(corpus(tmp_path, train, VAL), settings, cache=tmp_path)
    val = shards.splits["val"]
    assert (val["documents"], val["text_bytes"], val["target_bytes"]) == (4, 11, 11)
    assert shards.val[1:].tolist().count(shards.eot) == 4
    assert [len(ids) for ids in split(shards)] == tokens
    assert shards.warnings == [] or "fills only" in shards.warnings[0]


def split(shards: Shards) -> list[list[int]]:
    ids = [list(map(int, shards.tokenizer.encode(text))) for text in VAL]
    joined = [shards.eot, *(token for own in ids for token in (*own, shards.eot))]
    assert shards.val.tolist() == joined
    return ids


def test_without_ends_it_is_said(tmp_path: Path) -> None:
    several = open_shards(corpus(tmp_path, TRAIN, VAL), {"name": "char", "eot": False}, cache=tmp_path)
    (warning,) = several.warnings
    assert warning == (
        "tokenizer=char without an end of text: where 5 documents end costs no bits, so that bits per byte compare "
        "with those of no tokenizer that has one"
    )
    assert (
        open_shards(corpus(tmp_path, TRAIN[:1], VAL[:1]), {"name": "char", "eot": False}, cache=tmp_path).warnings == []
    )


def test_shakespeare_char_has_the_tokens_of_nanogpt(
    story: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """data/shakespeare_char/prepare.py: the sorted characters of one text, and nothing between or around it."""
    monkeypatch.setenv("GPT_LAB_CACHE", str(tmp_path))
    dataset = open_dataset(composition.compose(["+experiment=shakespeare_char", "data=text", f"data.path={story}"]))
    text = story.read_text(encoding="utf-8")
    numbers = {character: i for i, character in enumerate(sorted(set(text)))}
    shards = dataset.shards  # type: ignore[attr-defined]
    assert dataset.vocab_size == len(numbers)
    assert [*shards.train.tolist(), *shards.val.tolist()] == [numbers[character] for character in text]
    targets = [t for batch in dataset.validation(8) for t in batch.targets_BT.flatten().tolist() if t != -100]
    assert targets == shards.val[1:].tolist()
    assert math.isclose(dataset.bytes_per_token or 0, 1.0)
