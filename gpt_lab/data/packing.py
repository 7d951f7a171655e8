"""Packing: which pairs of a token and its next one make up a training row, for documents that do not fill rows.

A stream `EOT document EOT document ... EOT` holds one pair (input, target) at each of its tokens but the last; a
document's pairs are those from its EOT to its last token, whose target is the next EOT. A row of length T is runs of
pairs, T in all, so every target is the true next token. Rows are worked out in blocks of documents of an epoch, in an
order keyed by seed and epoch; row s of the run is a pure function of the seed and s.
"""

from __future__ import annotations

import bisect
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from gpt_lab.data.batches import ROUNDS, Order, gather, permute, philox_key
from gpt_lab.errors import DataError

Packing = Literal["stream", "bos_aligned", "best_fit", "bucketed"]
Ints = np.ndarray[Any, Any]
Run = tuple[int, int]
"""Neighbouring pairs of the stream: the first, and how many."""

DOCUMENTS = 4096
"""Documents that are packed together: enough for a good fit, and little to work out for the first row of a run."""
MEASURED = 1 << 16
"""Documents from whose packing the statistics are: some tenths of a second's work."""
ROW_KEYS = 1 << 62
"""Where the counters of keys for the order of rows begin; those of epochs count from 0."""


@dataclass(frozen=True)
class Stream:
    """A token stream.

    Fields:
        tokens: uint16 or uint32. eot: the token between documents; None: they are joined.
        check: called with the starts of windows and their length before their tokens are used (Shards.check).
    """

    tokens: Ints
    eot: int | None
    check: Callable[[Ints, int], None] = lambda starts, length: None

    def bounds(self) -> Ints:
        """Where the documents begin, and where the last one ends: int64, (documents + 1,)."""
        self.check(np.array([0]), len(self.tokens))
        return np.flatnonzero(self.tokens == self.eot)


class Statistics(NamedTuple):
    """What packing does to documents, in an epoch or its beginning.

    Fields:
        dropped: share of the tokens that stand in no row. cut: share of the documents that do not stand whole in one
            row. filled: share of the places in rows that hold a token to learn from.
    """

    dropped: float
    cut: float
    filled: float

    def __str__(self) -> str:
        dropped, cut, filled = (f"{100 * share:.3g}%" for share in self)
        return f"{dropped} of the tokens dropped, {cut} of the documents cut, {filled} of the places filled"


class NumberedRows(ABC):
    """Training sequences of one length, numbered without end; a pure function of the number."""

    length: int

    @abstractmethod
    def take(self, first: int, number: int) -> tuple[Ints, Ints]:
        """Inputs and targets of the sequences first, first + 1, ...: int64, (number, length) each."""

    @abstractmethod
    def statistics(self) -> Statistics:
        """Of the first epoch, of a stream that tells documents apart."""


class Windows(NumberedRows):
    """`stream`: windows that lie side by side, wherever documents end (`batches.Order`)."""

    def __init__(self, stream: Stream, length: int, seed: int) -> None:
        self._stream, self.length = stream, length
        self._order = Order(len(stream.tokens), length, seed)

    def take(self, first: int, number: int) -> tuple[Ints, Ints]:
        places = self._order.starts(first, number)
        self._stream.check(places, self.length + 1)
        return gather(self._stream.tokens, places, self.length)

    def statistics(self) -> Statistics:
        offset = int(self._order.starts(0, 1)[0]) % self.length
        covered = self._order.windows * self.length
        dropped = 1 - covered / (len(self._stream.tokens) - 1)
        bounds = self._stream.bounds()
        first, last = bounds[:-1] - offset, bounds[1:] - 1 - offset
        whole = (first >= 0) & (last < covered) & (first // self.length == last // self.length)
        return Statistics(dropped, 1 - whole.mean().item(), 1.0)


class Packed(NumberedRows):
    """Rows of whole documents as far as they fit; the subclass says how a block of documents becomes rows."""

    def __init__(self, stream: Stream, length: int, seed: int) -> None:
        self._stream, self.length, self._seed = stream, length, seed
        self._bounds = stream.bounds()
        self._documents = len(self._bounds) - 1
        self._blocks = max(1, -(-self._documents // DOCUMENTS))
        self._ends = [0]  # rows up to the end of each block since the beginning of the run
        self._made: tuple[int, list[list[Run]]] = (-1, [])

    @abstractmethod
    def pack(self, documents: Ints, ends: Ints) -> list[list[Run]]:
        """Rows of exactly `length` pairs from documents whose pairs are those from `documents` to before `ends`."""

    def take(self, first: int, number: int) -> tuple[Ints, Ints]:
        inputs, targets = (np.empty((number, self.length), np.int64) for _ in range(2))
        for row in range(number):
            at = 0
            for start, count in self._row(first + row):
                self._stream.check(np.array([start]), count + 1)
                tokens = self._stream.tokens[start : start + count + 1]
                inputs[row, at : at + count], targets[row, at : at + count] = tokens[:-1], tokens[1:]
                at += count
        return inputs, targets

    def statistics(self) -> Statistics:
        held = kept = documents = whole = 0
        for block in range(min(self._blocks, -(-MEASURED // DOCUMENTS))):
            chosen = self._chosen(block)
            rows = self._block(block)
            sizes = self._bounds[chosen + 1] - self._bounds[chosen]
            size_of = dict(zip(self._bounds[chosen].tolist(), sizes.tolist(), strict=True))
            documents += len(chosen)
            held += int(sizes.sum())
            kept += len(rows) * self.length
            whole += sum(size_of.get(start) == count for row in rows for start, count in row)
        return Statistics(1 - kept / held, 1 - whole / documents, 1.0)

    def _row(self, number: int) -> list[Run]:
        while self._ends[-1] <= number:
            if len(self._ends) > self._blocks and not self._ends[-1]:
                raise DataError(f"no row of {self.length} tokens can be filled: give more text, or shorter rows")
            rows = len(self._block(len(self._ends) - 1))
            self._ends.append(self._ends[-1] + rows)
        block = bisect.bisect_right(self._ends, number) - 1
        return self._block(block)[number - self._ends[block]]

    def _chosen(self, block: int) -> Ints:
        """The documents of a block, counted since the beginning of the run."""
        epoch, at = divmod(block, self._blocks)
        keys = round_keys(self._seed, epoch)
        return permute(np.arange(at * DOCUMENTS, min((at + 1) * DOCUMENTS, self._documents)), self._documents, keys)

    def _block(self, block: int) -> list[list[Run]]:
        if self._made[0] != block:
            chosen = self._chosen(block)
            rows = self.pack(self._bounds[chosen], self._bounds[chosen + 1])
            # the best fits come first, and the largest documents: no step shall have them all
            order = permute(np.arange(len(rows)), len(rows), round_keys(self._seed, ROW_KEYS + block)) if rows else ()
            self._made = block, [rows[i] for i in order]
        return self._made[1]


class BosAligned(Packed):
    """`bos_aligned`: each row begins with a document; others follow, and what is beyond its end is dropped."""

    def pack(self, documents: Ints, ends: Ints) -> list[list[Run]]:
        sizes = (ends - documents).tolist()
        rows, row, left = list[list[Run]](), list[Run](), self.length
        for start, size in zip(documents.tolist(), sizes, strict=True):
            taken = min(size, left)
            row.append((start, taken))
            left -= taken
            if not left:
                rows.append(row)
                row, left = [], self.length
        return rows


class BestFit(Packed):
    """`best_fit`: a row takes the longest document that fits, again and again; then the shortest one, cropped.

    A document of more than a row gives whole rows from its end; its beginning is packed with the others.
    """

    def pack(self, documents: Ints, ends: Ints) -> list[list[Run]]:
        starts, counts, whole = pieces(documents, ends, self.length)
        rows: list[list[Run]] = [[(start, self.length)] for start in whole.tolist()]
        order = np.lexsort((starts, counts))
        sizes, places = counts[order].tolist(), starts[order].tolist()
        while sizes:
            row, left = list[Run](), self.length
            while left and sizes:
                at = bisect.bisect_right(sizes, left) - 1  # the longest that fits, of equals the last
                at, size = (at, sizes[at]) if at >= 0 else (0, left)
                row.append((places[at], size))
                del sizes[at], places[at]
                left -= size
            if not left:
                rows.append(row)
        return rows


def pieces(documents: Ints, ends: Ints, longest: int) -> tuple[Ints, Ints, Ints]:
    """Documents cut so that no piece is longer: beginnings shorter than `longest`, where and how long, and whole ones.

    The beginning of a document takes what whole pieces leave, so that every shorter piece begins with a document.
    """
    sizes = ends - documents
    rest = sizes % longest
    short = rest > 0
    number = sizes // longest
    first = np.repeat(documents + rest, number)
    inside = np.arange(len(first)) - np.repeat(np.cumsum(number) - number, number)
    return documents[short], rest[short], first + longest * inside


def round_keys(seed: int, counter: int) -> Ints:
    """Keys of `permute` for one seed and epoch, block, ..."""
    generator = np.random.Generator(np.random.Philox(key=philox_key(seed, counter)))
    return generator.integers(0, 1 << 64, size=ROUNDS, dtype=np.uint64)


KINDS: dict[Packing, type[Windows] | type[Packed]] = {
    "stream": Windows,
    "bos_aligned": BosAligned,
    "best_fit": BestFit,
}
"""How rows that are filled are made."""
