"""Incremental UTF-8 decoding of a stream of tokens: a character appears once all of its bytes are there."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence
from typing import Protocol

BROKEN = "\ufffd".encode()
LONGEST = 4
"""Tokens that one character may take: one for each byte of its UTF-8."""


class DecodesBytes(Protocol):
    """What is needed of a tokenizer."""

    def decode_bytes(self, ids: list[int]) -> bytes: ...


class TextStream:
    """Turns tokens into text as they come. The pieces joined are the text of all tokens, decoded at once.

    An unfinished character waits for its other bytes; what is still unfinished at `close` becomes U+FFFD. Bytes that
    no continuation could mend are replaced as soon as that is certain.

    Some tokenizers (SentencePiece's kind) write a first space only in front of a neighbour, and mark unfinished
    characters themselves, as U+FFFD that a later token takes back. So each token is decoded behind those shown last,
    and a trailing U+FFFD is held back for as many tokens as a character may take.
    """

    def __init__(self, tokenizer: DecodesBytes, prompt_ids: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._shown = list(prompt_ids)
        self._held: list[int] = []
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        """The text that this token completes; "" while a character is unfinished."""
        self._held.append(token)
        whole = self._tokenizer.decode_bytes(self._shown + self._held)
        if whole.endswith(BROKEN) and len(self._held) < LONGEST:
            return ""
        return self._utf8.decode(self._take(whole))

    def close(self) -> str:
        """What is left at the end: U+FFFD if it is inside a character, else mostly ""."""
        new = self._take(self._tokenizer.decode_bytes(self._shown + self._held)) if self._held else b""
        return self._utf8.decode(new, final=True)

    def _take(self, whole: bytes) -> bytes:
        """The bytes of the tokens held, which thereby count as shown."""
        head = self._tokenizer.decode_bytes(self._shown)
        new = whole[len(head) :] if whole.startswith(head) else self._tokenizer.decode_bytes(self._held)
        self._shown, self._held = self._held, []
        return new


def text(tokenizer: DecodesBytes, ids: Iterable[int], prompt_ids: Sequence[int] = ()) -> str:
    """The text of `ids` after `prompt_ids`, as the stream would show it."""
    stream = TextStream(tokenizer, prompt_ids)
    return "".join([stream.push(i) for i in ids]) + stream.close()


class StopStrings:
    """Cuts a text, which comes in pieces, in front of the first stop string in it: the one that is complete first.

    Of several that are complete at the same character the longest counts. A piece that may be the beginning of a stop
    string is held back, so that nothing is given out that is later taken back, however the text is divided.

    Fields:
        met: whether a stop string was found; nothing is given out after it.
    """

    def __init__(self, strings: Sequence[str]) -> None:
        self._strings = [one for one in strings if one]
        self._held = ""
        self.met = False

    @property
    def holds(self) -> bool:
        """Whether something is held back."""
        return bool(self._held)

    def push(self, piece: str) -> str:
        """What may be shown now."""
        if self.met:
            return ""
        text = self._held + piece
        found = [(text.find(one) + len(one), -len(one)) for one in self._strings if one in text]
        if found:
            self.met, self._held = True, ""
            end, length = min(found)
            return text[: end + length]
        longest = min(len(text), max((len(one) - 1 for one in self._strings), default=0))
        begins = (n for n in range(longest, 0, -1) if any(one.startswith(text[-n:]) for one in self._strings))
        kept = next(begins, 0)
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept]

    def close(self) -> str:
        """What is still held back, as no more comes."""
        held, self._held = self._held, ""
        return held
