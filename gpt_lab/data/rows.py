"""Training rows by step: filled ones of one length, bucketed ones that are padded, and lengths that grow.

Everything is a pure function of the seed and the step, so that a run goes on exactly where it was left.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from gpt_lab.config.batch_sizes import BatchSizes
from gpt_lab.config.schema import RunConfig
from gpt_lab.data.batches import gather, permute
from gpt_lab.data.packing import ROW_KEYS, NumberedRows, Statistics, Stream, pieces, round_keys
from gpt_lab.data.synthetic import IGNORED, Examples
from gpt_lab.errors import DataError

Ints = np.ndarray[Any, Any]


class Rows(ABC):
    """The rows of each step."""

    @abstractmethod
    def number(self, step: int) -> int:
        """Rows of a 0-based step."""

    @abstractmethod
    def take(self, step: int, start: int, stop: int) -> Examples:
        """Rows start to stop of a step; all rows of a step have one length."""

    @abstractmethod
    def tokens(self, steps: int) -> int:
        """Tokens of the first so many steps, padding not counted."""

    @abstractmethod
    def read(self, steps: int) -> Mapping[int, int]:
        """What the model reads in the first so many steps, by the length of rows: tokens, padding counted."""

    @abstractmethod
    def first_steps(self) -> list[int]:
        """A step of each length that rows have, while they are filled up alike."""

    @abstractmethod
    def statistics(self) -> Statistics:
        """Of the first epoch."""


class Filled(Rows):
    """Rows that are full.

    Args:
        sizes: sequences of `context` tokens in each step of the run. first: the run's step that is step 0 here.
    """

    def __init__(self, sequences: NumberedRows, sizes: BatchSizes, context: int, first: int = 0) -> None:
        self._sequences, self._sizes, self._first = sequences, sizes, first
        self._each = context // sequences.length

    def number(self, step: int) -> int:
        return self._sizes.rows(self._first + step) * self._each

    def take(self, step: int, start: int, stop: int) -> Examples:
        return Examples(*self._sequences.take(self._before(step) + start, stop - start))

    def tokens(self, steps: int) -> int:
        return self._before(steps) * self._sequences.length

    def read(self, steps: int) -> Mapping[int, int]:
        return {self._sequences.length: self.tokens(steps)}

    def first_steps(self) -> list[int]:
        return [0]

    def statistics(self) -> Statistics:
        return self._sequences.statistics()

    def _before(self, step: int) -> int:
        return (self._sizes.first(self._first + step) - self._sizes.first(self._first)) * self._each


class Epoch(NamedTuple):
    """The batches of an epoch in their order: bucket of each, its number there, and its tokens."""

    buckets: Ints
    numbers: Ints
    tokens: Ints
    orders: Sequence[Ints]
    """The order of the pieces of each bucket."""


class Bucketed(Rows):
    """A document is a row, filled up with padding to the shortest length that holds it; a batch has rows of one length.

    Documents that are longer than the longest row are cut as by `packing.pieces`. Each batch has as many places as any
    other; what the last one of a length lacks is padding too, whose targets count for nothing.

    Args:
        lengths: of rows, rising. places: of a batch, a multiple of each length.
    """

    def __init__(self, stream: Stream, lengths: Sequence[int], places: int, seed: int) -> None:
        if stream.eot is None:
            raise ValueError("documents are told by the token between them")
        self._stream, self._lengths, self._seed, self._pad = stream, lengths, seed, stream.eot
        bounds = stream.bounds()
        short, sizes, whole = pieces(bounds[:-1], bounds[1:], lengths[-1])
        starts = np.concatenate([short, whole])
        counts = np.concatenate([sizes, np.full(len(whole), lengths[-1])])
        bucket = np.searchsorted(lengths, counts)
        self._starts = [starts[bucket == i] for i in range(len(lengths))]
        self._counts = [counts[bucket == i] for i in range(len(lengths))]
        self._rows = [places // length for length in lengths]
        self._batches = np.array([-(-len(own) // n) for own, n in zip(self._starts, self._rows, strict=True)])
        self._total, self._cut = int(counts.sum()), 1 - (bounds[1:] - bounds[:-1] <= lengths[-1]).mean().item()
        if not self._total:
            raise DataError("the training text has no document to make a row of: give more text")
        self._epoch = functools.lru_cache(maxsize=2)(self._make)

    def number(self, step: int) -> int:
        epoch, at = self._at(step)
        return self._rows[epoch.buckets[at]]

    def take(self, step: int, start: int, stop: int) -> Examples:
        epoch, at = self._at(step)
        bucket = int(epoch.buckets[at])
        length, first = self._lengths[bucket], int(epoch.numbers[at]) * self._rows[bucket]
        chosen = epoch.orders[bucket][first + start : first + stop]
        tokens = np.full((stop - start, length), self._pad, np.int64)
        targets = np.full((stop - start, length), IGNORED, np.int64)
        for row, piece in enumerate(chosen.tolist()):
            where, count = self._starts[bucket][piece : piece + 1], int(self._counts[bucket][piece])
            self._stream.check(where, count + 1)
            tokens[row : row + 1, :count], targets[row : row + 1, :count] = gather(self._stream.tokens, where, count)
        return Examples(tokens, targets)

    def tokens(self, steps: int) -> int:
        epochs, left = divmod(steps, int(self._batches.sum()))
        return epochs * self._total + (int(self._epoch(epochs).tokens[:left].sum()) if left else 0)

    def read(self, steps: int) -> Mapping[int, int]:
        epochs, left = divmod(steps, int(self._batches.sum()))
        batches = epochs * self._batches
        if left:
            batches = batches + np.bincount(self._epoch(epochs).buckets[:left], minlength=len(self._lengths))
        each = zip(self._lengths, self._rows, batches.tolist(), strict=True)
        return {length: length * rows * number for length, rows, number in each if number}

    def first_steps(self) -> list[int]:
        _, steps = np.unique(self._epoch(0).buckets, return_index=True)
        return [int(step) for step in steps]

    def statistics(self) -> Statistics:
        return Statistics(0.0, self._cut, self._total / sum(self.read(int(self._batches.sum())).values()))

    def _at(self, step: int) -> tuple[Epoch, int]:
        number, at = divmod(step, int(self._batches.sum()))
        return self._epoch(number), at

    def _make(self, number: int) -> Epoch:
        orders = []
        for bucket, own in enumerate(self._starts):
            keys = round_keys(self._seed, ROW_KEYS + number * len(self._lengths) + bucket)
            orders.append(permute(np.arange(len(own)), len(own), keys) if len(own) else own)
        buckets = np.repeat(np.arange(len(self._lengths)), self._batches)
        numbers = np.concatenate([np.arange(count) for count in self._batches])
        tokens = np.concatenate(
            [
                np.add.reduceat(counts[order], np.arange(0, len(order), rows)) if len(order) else order
                for counts, order, rows in zip(self._counts, orders, self._rows, strict=True)
            ]
        )
        order = permute(np.arange(len(buckets)), len(buckets), round_keys(self._seed, number))
        return Epoch(buckets[order], numbers[order], tokens[order], orders)


class Growing(Rows):
    """Rows whose length grows: stages of so many steps each, the last without end."""

    def __init__(self, stages: Sequence[tuple[int, Rows]]) -> None:
        self._stages = stages
        """The step at which each begins, and its rows."""

    def number(self, step: int) -> int:
        begin, rows = self._stage(step)
        return rows.number(step - begin)

    def take(self, step: int, start: int, stop: int) -> Examples:
        begin, rows = self._stage(step)
        return rows.take(step - begin, start, stop)

    def tokens(self, steps: int) -> int:
        return sum(rows.tokens(count) for rows, count in self._until(steps))

    def read(self, steps: int) -> Mapping[int, int]:
        return sum((Counter(rows.read(count)) for rows, count in self._until(steps)), Counter[int]())

    def first_steps(self) -> list[int]:
        ends = [begin for begin, _ in self._stages[1:]] + [None]
        found = [
            (begin, end, begin + step)
            for (begin, rows), end in zip(self._stages, ends, strict=True)
            for step in rows.first_steps()
        ]
        return [step for begin, end, step in found if end is None or step < end]

    def statistics(self) -> Statistics:
        return self._stages[-1][1].statistics()

    def _stage(self, step: int) -> tuple[int, Rows]:
        return next(stage for stage in reversed(self._stages) if stage[0] <= step)

    def _until(self, steps: int) -> Iterator[tuple[Rows, int]]:
        """Each stage that begins before so many steps, and how many of them are its own."""
        ends = [begin for begin, _ in self._stages[1:]] + [steps]
        for (begin, rows), end in zip(self._stages, ends, strict=True):
            if begin < steps:
                yield rows, min(end, steps) - begin


def rows_of(
    cfg: RunConfig, make: Callable[[int], NumberedRows], bucketed: Callable[[Sequence[int]], Rows] | None = None
) -> Rows:
    """The rows of a run's steps.

    Args:
        make: sequences of a length. bucketed: rows of up to the last of some lengths, for batch.packing=bucketed.
    """
    allowed, sizes, context = cfg.row_lengths, cfg.batch_sizes, cfg.scale.context

    def stage(longest: int, first: int) -> Rows:
        if cfg.batch.packing == "bucketed":
            assert bucketed is not None, "combinations.py refuses what cannot be bucketed"
            return bucketed([length for length in allowed if length <= longest])
        return Filled(make(longest), sizes, context, first)

    if not cfg.batch.curriculum:
        return stage(context, 0)
    steps = cfg.budget.steps
    if steps is None:
        assert cfg.budget.tokens is not None, "combinations.py refuses other budgets"
        steps = sizes.steps(int(cfg.budget.tokens // context))
    short = len(allowed) - 1
    begins = [round(cfg.batch.curriculum * steps * i / short) for i in range(short + 1)]
    return Growing([(begin, stage(length, begin)) for begin, length in zip(begins, allowed, strict=True)])
