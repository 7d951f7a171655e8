"""Text out of a stream of tokens: a character is shown when all of its bytes are there, never before."""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Protocol


class DecodesBytes(Protocol):
    """What is needed of a tokenizer."""

    def decode_bytes(self, ids: list[int]) -> bytes: ...


CONTEXT = 8
"""Tokens decoded again before each new one: some tokenizers write a word's first space only in front of a neighbour."""


class TextStream:
    """Turns tokens into text as they come. The pieces joined are the whole's bytes decoded with errors="replace".

    An unfinished character waits for its other bytes, at most three; what is still unfinished at `close` becomes
    U+FFFD. Bytes that no continuation could mend are replaced at once.
    """

    def __init__(self, tokenizer: DecodesBytes, prompt_ids: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._recent: deque[int] = deque(prompt_ids[-CONTEXT:], maxlen=CONTEXT)
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        """The text that this token completes; "" while a character is unfinished."""
        before = list(self._recent)
        head = self._tokenizer.decode_bytes(before)
        whole = self._tokenizer.decode_bytes([*before, token])
        self._recent.append(token)
        new = whole[len(head) :] if whole.startswith(head) else self._tokenizer.decode_bytes([token])
        return self._utf8.decode(new)

    def close(self) -> str:
        """U+FFFD if the text ends inside a character, else ""."""
        return self._utf8.decode(b"", final=True)


def text(tokenizer: DecodesBytes, ids: Iterable[int], prompt_ids: Sequence[int] = ()) -> str:
    """The text of `ids` after `prompt_ids`, as the stream would show it."""
    stream = TextStream(tokenizer, prompt_ids)
    return "".join([stream.push(i) for i in ids]) + stream.close()
