"""Round-trip check of tokenizers: without the same bytes back, a loss has no bits per byte."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpt_lab.data.tokenizers.tokenizer import Tokenizer

SHOWN = 12
"""Bytes of an example, from just before the first that differs."""


class RoundTrip:
    """What the text of one split loses under a tokenizer.

    Attributes:
        lost: bytes that do not come back, at least: those of each value are counted, not their places.
        example: the first of them, as `'ROMEO' as 'romeo'`.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.lost = 0
        self.example = ""

    def add(self, text: bytes, ids: np.ndarray[Any, Any]) -> None:
        """Compares some text with what its tokens stand for. Text that becomes an end of text is lost, too."""
        eot = self._tokenizer.eot
        ends = ids == eot if eot is not None else np.zeros(len(ids), bool)
        back = self._tokenizer.decode_bytes(ids.tolist())
        if back == text and not ends.any():
            return
        if back == text:
            back = self._tokenizer.decode_bytes(ids[~ends].tolist())
        self.lost += _lost(text, back)
        self.example = self.example or _example(text, back)


def _lost(text: bytes, back: bytes) -> int:
    kinds = _kinds(text) - _kinds(back)
    missing, added = kinds[kinds > 0].sum(), -kinds[kinds < 0].sum()
    return min(int(missing or added or 1), len(text))


def _kinds(text: bytes) -> np.ndarray[Any, Any]:
    return np.bincount(np.frombuffer(text, np.uint8), minlength=256)


def _example(text: bytes, back: bytes) -> str:
    length = min(len(text), len(back))
    differ = np.frombuffer(text, np.uint8, length) != np.frombuffer(back, np.uint8, length)
    first = int(differ.argmax()) if differ.any() else length
    start = max(0, first - SHOWN // 4)
    shown = (part[start : start + SHOWN].decode(errors="ignore") for part in (text, back))
    return " as ".join(map(repr, shown))
