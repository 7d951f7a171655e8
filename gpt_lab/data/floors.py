"""N-gram baselines: bits per byte of interpolated Kneser-Ney models, which a trained model has to beat.

The models are interpolated Kneser-Ney with one discount per order (Kneser and Ney 1995; Chen and Goodman 1998,
TR-10-98), over the same tokens, training text, validation targets and bytes as the model.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from typing import Any, NamedTuple

import numpy as np

from gpt_lab.data.shards import Shards
from gpt_lab.metrics import FLOORS

VERSION = 1
"""Raised when the numbers change, so that kept ones are worked out again."""
FITTED = 20_000_000
"""Counts come from the first so many training tokens, to bound time and memory."""
EVALUATED = 2_000_000
"""Bits per byte come from the first so many validation tokens."""

Array = np.ndarray[Any, Any]


def floors(shards: Shards) -> dict[str, float]:
    """Bits per byte on the validation split of an n-gram model for n = 1, 2, 3; kept beside the shards."""
    path = shards.folder / "floors.json"
    try:
        kept = json.loads(path.read_bytes())
        if kept["version"] == VERSION and kept["sha256"] == _digest(kept["bits_per_byte"]):
            return {name: float(kept["bits_per_byte"][name]) for name in FLOORS}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    shards.check("train", np.array([0]), FITTED)
    shards.check("val", np.array([0]), EVALUATED)
    val = shards.val[:EVALUATED]
    bytes_per_target = shards.splits["val"]["target_bytes"] / (shards.splits["val"]["tokens"] - 1)
    found = {}
    for order, name in enumerate(FLOORS, 1):
        nats = cross_entropy(shards.train[:FITTED], val, shards.vocab_size, order)
        found[name] = nats / math.log(2) / bytes_per_target
    try:
        temporary = path.with_name(f".floors.{os.getpid()}")
        kept = {"version": VERSION, "bits_per_byte": found, "sha256": _digest(found)}
        temporary.write_text(json.dumps(kept), encoding="utf-8")
        os.replace(temporary, path)
    except OSError:  # a cache that is read-only or full: they are worked out again next time
        pass
    return found


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def cross_entropy(train: Array, val: Array, vocab_size: int, order: int) -> float:
    """Nats per target of `val`, its tokens but the first, under the n-gram model fitted on `train`.

    A target with fewer than order - 1 tokens before it is predicted by the lower order that fits.
    """
    order = min(order, len(val), len(train))
    probabilities = [kneser_ney(train, val[:n], vocab_size, n) for n in range(2, order)]  # those at the start
    full = kneser_ney(train, val, vocab_size, order)
    probabilities.append(full if order > 1 else full[1:])
    return float(-np.log(np.concatenate(probabilities)).sum() / (len(val) - 1))


class _Table(NamedTuple):
    """One order's n-grams, packed into integers and sorted, and what their histories add up to."""

    grams: Array
    discounted: Array
    histories: Array
    totals: Array
    backoff: Array


def kneser_ney(train: Array, val: Array, vocab_size: int, order: int) -> Array:
    """P(last token | the others) of each n-gram of `val`, interpolated Kneser-Ney fitted on the n-grams of `train`.

    The highest order uses counts, each lower one the number of different tokens seen before the shorter n-gram, the
    last a uniform distribution. Shapes: (len(val) - order + 1,).
    """
    tables = []
    grams, counts = _unique(_pack(train, vocab_size, order))
    for n in range(order, 0, -1):
        tables.append(_table(grams, counts, vocab_size))
        if n > 1:
            grams, counts = _unique(grams % vocab_size ** (n - 1))
    wanted = _pack(val, vocab_size, order)
    probability = np.full(len(wanted), 1.0 / vocab_size)
    for n, table in enumerate(reversed(tables), 1):
        gram = wanted % vocab_size**n
        history = _find(table.histories, gram // vocab_size)
        seen = _find(table.grams, gram)
        mass = np.where(seen >= 0, table.discounted[seen], 0.0)
        total = np.where(history >= 0, table.totals[history], 1.0)
        backoff = np.where(history >= 0, table.backoff[history], 1.0)
        probability = mass / total + backoff * probability
    return probability


def _table(grams: Array, counts: Array, vocab_size: int) -> _Table:
    once, twice = int((counts == 1).sum()), int((counts == 2).sum())
    discount = once / (once + 2 * twice) if once and twice else 0.5
    histories, first = np.unique(grams // vocab_size, return_index=True)  # grams are sorted, so theirs are together
    totals = np.add.reduceat(counts, first).astype(np.float64)
    kinds = np.diff(np.append(first, len(grams)))
    return _Table(grams, counts - discount, histories, totals, discount * kinds / totals)


def _pack(tokens: Array, vocab_size: int, order: int) -> Array:
    """Each n-gram as one integer in base vocab_size, its first token the most significant."""
    count = len(tokens) - order + 1
    packed = np.zeros(count, dtype=np.int64)
    for i in range(order):
        packed = packed * vocab_size + tokens[i : i + count]
    return packed


def _unique(values: Array) -> tuple[Array, Array]:
    ordered = np.sort(values)
    first = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    return ordered[first], np.diff(np.append(first, len(ordered)))


def _find(ordered: Array, values: Array) -> Array:
    """The place of each value in a sorted array; -1: it is not there."""
    places = np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)
    return np.where(ordered[places] == values, places, -1)
