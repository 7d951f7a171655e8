"""Batch order: which windows of the token stream a step sees, a pure function of (seed, step).

An epoch visits every window once, in a keyed random order; windows lie side by side from an offset that is drawn anew
for each epoch, so that over epochs a window may start at any token. Sequence number s of the run (those of earlier
steps, then the row) is window s mod W of epoch s // W: batch sizes, micro-batches, workers and restarts change nothing.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

ROUNDS = 6
"""Four rounds are enough with ideal round functions (Luby and Rackoff 1988); two more make up for simple ones."""
BLOCK = 1024
"""Sequences whose places are worked out at a time: a few microseconds of numpy each would add up otherwise."""

Ints = np.ndarray[Any, Any]


class Order:
    """The places of the windows of `context` + 1 tokens that training visits in a stream of `tokens` tokens."""

    def __init__(self, tokens: int, context: int, seed: int) -> None:
        if tokens <= context:
            raise ValueError(f"{tokens} tokens hold no window of {context} + 1")
        self.context = context
        self.seed = seed
        self.windows = max(1, (tokens - context) // context)
        """Windows in an epoch."""
        self.offsets = min(context, tokens - self.windows * context)
        """An epoch's offset is drawn from 0 ... offsets - 1."""
        self._cached: tuple[int, Ints] = (-1, np.empty(0, np.int64))

    def starts(self, first: int, number: int) -> Ints:
        """Where the windows of the sequences first, first + 1, ... begin: int64, (number,)."""
        block, at = divmod(first, BLOCK)
        if at + number > BLOCK:
            return self._places(first, number)
        cached, places = self._cached
        if cached != block:
            places = self._places(block * BLOCK, BLOCK)
            self._cached = (block, places)
        return places[at : at + number]

    def _places(self, first: int, number: int) -> Ints:
        parts = []
        while number:
            epoch, position = divmod(first, self.windows)
            count = min(number, self.windows - position)
            keys = np.random.Generator(np.random.Philox(key=philox_key(self.seed, epoch))).integers(
                0, 1 << 64, size=ROUNDS + 1, dtype=np.uint64
            )
            offset = int(keys[-1]) % self.offsets
            windows = permute(np.arange(position, position + count), self.windows, keys[:-1])
            parts.append(windows * self.context + offset)
            first += count
            number -= count
        return np.concatenate(parts)


def philox_key(seed: int, counter: int) -> Ints:
    """The 128-bit key of numpy's counter-based generator (Salmon et al. 2011) for one seed and step, epoch, ..."""
    return np.array([seed % (1 << 64), counter], dtype=np.uint64)


def permute(positions: Ints, size: int, keys: Ints) -> Ints:
    """The images of some positions under a keyed permutation of range(size), without making the whole of it.

    A Feistel network on pairs (left, right) in Z_a x Z_b, where a * b is just above `size`; images that fall outside
    are permuted again until they do not (Black and Rogaway 2002, "Ciphers with Arbitrary Finite Domains").
    """
    a = max(1, math.isqrt(size))
    b = -(-size // a)
    images = np.asarray(positions, dtype=np.int64)
    images = _feistel(images, a, b, keys)
    while (outside := images >= size).any():
        images[outside] = _feistel(images[outside], a, b, keys)
    return images


def _feistel(values: Ints, a: int, b: int, keys: Ints) -> Ints:
    left, right = values // b, values % b
    for number, key in enumerate(keys):
        if number % 2:
            right = (right + _mix(left, key) % np.uint64(b)).astype(np.int64) % b
        else:
            left = (left + _mix(right, key) % np.uint64(a)).astype(np.int64) % a
    return left * b + right


def _mix(values: Ints, key: np.uint64) -> Ints:
    """SplitMix64's finalizer (Steele et al. 2014) of value + key: 64 well-mixed bits each."""
    x = values.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + key
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def gather(tokens: Ints, starts: Ints, context: int) -> tuple[Ints, Ints]:
    """Inputs and targets of windows, int64 (B, T): the targets are the inputs' next tokens."""
    # One row is one contiguous copy, however many rows and wherever they are.
    windows = np.lib.stride_tricks.as_strided(
        tokens, (len(tokens) - context, context + 1), (tokens.itemsize, tokens.itemsize), writeable=False
    )[starts]
    return windows[:, :-1].astype(np.int64), windows[:, 1:].astype(np.int64)


def documents(tokens: Ints, eot: int) -> Ints:
    """The document number, from 0, of each token of windows (B, T); an end of text belongs to what it begins."""
    return np.cumsum(tokens == eot, axis=1, dtype=np.int64)
