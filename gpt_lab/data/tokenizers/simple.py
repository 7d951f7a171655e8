"""Tokenizers without merges: bytes and characters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from gpt_lab.data.tokenizers.as_library import of_bytes, of_characters
from gpt_lab.data.tokenizers.tokenizer import EOT, Tokenizer
from gpt_lab.errors import DataError
from gpt_lab.registry import register

Ids = np.ndarray[Any, Any]


@register("tokenizer", "byte")
class Byte(Tokenizer):
    """One token a byte of UTF-8: 256 tokens and, if asked for, an end of text; needs no fitting.

    Paper: Xue et al. 2021, arXiv:2105.13626

    eot: token 256 stands between documents; without it their ends cost no bits, which compares with no other tokenizer.
    """

    def __init__(self, *, eot: bool = True) -> None:
        self.eot = 256 if eot else None
        self.vocab_size = 257 if eot else 256

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def encode_many(self, texts: Sequence[str]) -> list[Ids]:
        return [np.frombuffer(text.encode(), np.uint8) for text in texts]

    def decode_bytes(self, ids: list[int]) -> bytes:
        try:
            return bytes(ids)
        except ValueError:  # the end of text is among them
            return b"".join(EOT.encode() if i == self.eot else bytes((i,)) for i in ids)

    def as_library(self) -> Any:
        return of_bytes({bytes((byte,)): byte for byte in range(256)}, [], None, self.eot)

    def state(self) -> Mapping[str, Any]:
        return {"eot": self.eot is not None}

    @classmethod
    def from_state(cls, state: Mapping[str, Any], folder: Path) -> Self:
        return cls(eot=state["eot"])


@register("tokenizer", "char")
class Char(Tokenizer):
    """One token a character; the vocabulary is every character of the corpus, validation text included.

    Reference: https://github.com/karpathy/nanoGPT (shakespeare_char, which has tokenizer.eot=false)

    A character that the corpus lacks cannot be encoded: that is an error, never a replacement.

    eot: one more token, the last, stands between documents; without it as in tokenizer=byte.
    """

    fits = "all"

    def __init__(self, *, eot: bool = True) -> None:
        self._wants_eot = eot
        self._learn("")

    def _learn(self, characters: str) -> None:
        self._codes = np.array(sorted(map(ord, characters)), dtype=np.uint32)
        self._texts = [chr(code) for code in self._codes]
        self._of = {text: i for i, text in enumerate(self._texts)}
        self.eot = len(self._codes) if self._wants_eot else None
        self.vocab_size = len(self._codes) + self._wants_eot

    def fit(self, texts: Iterable[str]) -> list[str]:
        characters: set[str] = set()
        for text in texts:
            characters.update(text)
        self._learn("".join(characters))
        return []

    def encode(self, text: str) -> list[int]:
        try:
            return [self._of[character] for character in text]
        except KeyError as error:
            raise self._missing(str(error.args[0])) from None

    def encode_many(self, texts: Sequence[str]) -> list[Ids]:
        return [self._look_up(np.frombuffer(text.encode("utf-32-le"), "<u4")) for text in texts]

    def _look_up(self, codes: Ids) -> Ids:
        ids = np.searchsorted(self._codes, codes)
        known = self._codes[np.minimum(ids, len(self._codes) - 1)] == codes
        if not known.all():
            raise self._missing(chr(codes[int(np.argmin(known))]))
        return ids

    def _missing(self, character: str) -> DataError:
        return DataError(
            f"character {character!r} (U+{ord(character):04X}) is not among the {len(self._codes)} of the corpus that "
            "tokenizer=char was made from: leave it out, or train with tokenizer=byte or tokenizer=bpe"
        )

    def decode_bytes(self, ids: list[int]) -> bytes:
        return "".join(EOT if i == self.eot else self._texts[i] for i in ids).encode()

    def as_library(self) -> Any:
        return of_characters(self._texts, self.eot)

    def state(self) -> Mapping[str, Any]:
        return {"eot": self._wants_eot, "characters": "".join(self._texts)}

    @classmethod
    def from_state(cls, state: Mapping[str, Any], folder: Path) -> Self:
        made = cls(eot=state["eot"])
        made._learn(state["characters"])
        return made
