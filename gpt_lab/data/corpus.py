"""Corpora: documents, an identity, and a fixed split into training and validation text."""

from __future__ import annotations

import hashlib
import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

from gpt_lab.errors import ConfigError

Split = Literal["train", "val"]

MANY = 100
"""From this number of documents on, whole documents are held out; below it, the end of each."""
PIECE = 1 << 18
"""Bytes or characters, about, that are handed on at a time, so that memory stays bounded for any document."""


class Document(NamedTuple):
    """One text, in pieces that joined are the whole; `size` in UTF-8 bytes."""

    pieces: Iterable[str]
    size: int


class Passage(NamedTuple):
    """A stretch of one document on one side of the split; `starts` marks the first one there."""

    split: Split
    text: str
    starts: bool


class Corpus(ABC):
    """Text to learn from. A data part that is text is a subclass; see `Document` for what it hands out.

    The split is fixed by the content alone. If `held_out` gives documents, they are the validation text. Otherwise, of
    at least MANY documents those whose content hashes below `val_fraction` are held out whole (so equal documents
    fall on the same side); of fewer, the last `val_fraction` of each, cut at a paragraph or line near that point.
    """

    val_fraction: float = 0.1

    @abstractmethod
    def documents(self) -> Iterator[Document]:
        """All documents but the held-out ones, in a fixed order.

        Raises:
            DataError: a source is missing, unreadable or not of the expected form; one line.
        """

    def held_out(self) -> Iterator[Document] | None:
        """The documents of a validation source of their own; None: the split is made here."""
        return None

    @abstractmethod
    def identity(self) -> Mapping[str, Any]:
        """Plain values that change whenever the text or the split does: a content hash, the options."""

    def size(self) -> int | None:
        """About how many bytes will be read; None: unknown. For progress bars only."""
        return None

    def passages(self) -> Iterator[Passage]:
        """The whole corpus in order, each passage with its side of the split.

        Raises:
            ConfigError: nothing would be held out. DataError: as `documents`.
        """
        held_out = self.held_out()
        if held_out is not None:
            for document in self.documents():
                yield from _mark("train", document.pieces)
            for document in held_out:
                yield from _mark("val", document.pieces)
            return
        if self.val_fraction == 0:
            raise ConfigError("data.val_fraction=0 leaves no validation text: set it above 0 or name validation data")
        documents = self.documents()
        first = list(itertools.islice(documents, MANY))
        divide = _by_content if len(first) == MANY else _by_position
        for document in itertools.chain(first, documents):
            yield from divide(document, self.val_fraction)


def in_memory(text: str) -> Document:
    """A document that is in memory already."""
    return Document(pieces(text), _size(text))


def pieces(text: str) -> Iterator[str]:
    """The text in pieces of about PIECE characters, cut after a line break."""
    start = 0
    while len(text) - start > PIECE:
        end = line_end(text, start, start + PIECE)
        yield text[start:end]
        start = end
    if text[start:]:
        yield text[start:]


def line_end(text: str, start: int, end: int) -> int:
    """The last place in (start, end] that follows a single line break; any break or `end` itself if there is none.

    Byte-level pre-tokenisation gives the same words on both sides of a single line break as without the cut.
    """
    at = text.rfind("\n", start, end)
    while at > start:
        if not text[at - 1].isspace() and at + 1 < len(text) and not text[at + 1].isspace():
            return at + 1
        at = text.rfind("\n", start, at)
    at = text.rfind("\n", start, end)
    return at + 1 if at >= start else end


def _mark(split: Split, texts: Iterable[str]) -> Iterator[Passage]:
    starts = True
    for text in texts:
        if text:
            yield Passage(split, text, starts)
            starts = False


def held_out(content: bytes, fraction: float) -> bool:
    """Whether content belongs to the validation side: by its hash, so that equal ones fall on the same side."""
    digest = hashlib.blake2b(content, digest_size=8).digest()
    return int.from_bytes(digest, "big") < fraction * 2.0**64


def _by_content(document: Document, fraction: float) -> Iterator[Passage]:
    texts = iter(document.pieces)
    head = next(texts, "")
    held = held_out(head.encode(errors="surrogatepass"), fraction)
    yield from _mark("val" if held else "train", itertools.chain((head,), texts))


def _by_position(document: Document, fraction: float) -> Iterator[Passage]:
    held = document.size * fraction
    left = document.size - held
    texts = iter(document.pieces)
    starts = True
    for text in texts:
        size = _size(text)
        if size > left:
            near = int(len(text) * left / size)
            cut = _boundary(text, near, near + max(1, int(held / 10)))
            if cut:
                yield Passage("train", text[:cut], starts)
            yield from _mark("val", itertools.chain((text[cut:],), texts))
            return
        yield Passage("train", text, starts)
        starts = False
        left -= size


def _boundary(text: str, low: int, high: int) -> int:
    """Where to cut between low and high: after the first blank line, else line, else word there; else at low."""
    for mark in ("\n\n", "\n", " "):
        at = text.find(mark, low, high)
        if at >= 0:
            return at + len(mark)
    return low


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))
