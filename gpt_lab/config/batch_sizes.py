"""Batch sizes: the sequences of each optimizer step, a pure function of the step. Imports no torch.

With `batch.start` the batch grows linearly in the tokens that are trained on, from that many tokens to `batch.tokens`,
over the first `batch.ramp` tokens: Brown et al. 2020, arXiv:2005.14165. Every step has whole micro-batches.
"""

from __future__ import annotations

import bisect
import functools
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class BatchSizes:
    """The sequences of each step.

    Fields:
        full: of a step after the warm-up. before: sequences of all steps before each step of the warm-up, and before
            the first one after it.
    """

    full: int
    before: Sequence[int] = (0,)

    def rows(self, step: int) -> int:
        """Sequences of a 0-based step."""
        return self.first(step + 1) - self.first(step)

    def first(self, step: int) -> int:
        """Sequences of all steps before a 0-based step: the number of its own first one."""
        last = len(self.before) - 1
        return self.before[step] if step <= last else self.before[last] + (step - last) * self.full

    def steps(self, sequences: int) -> int:
        """The most steps that together have no more than so many sequences."""
        last = len(self.before) - 1
        if sequences >= self.before[last]:
            return last + (sequences - self.before[last]) // self.full
        return bisect.bisect_right(self.before, sequences) - 1


@functools.lru_cache(maxsize=64)
def growing(start: int, full: int, unit: int, over: int) -> BatchSizes:
    """A batch that grows from `start` to `full` sequences over the first `over` sequences, by multiples of `unit`."""
    before = [0]
    while before[-1] < over:
        wanted = start + (full - start) * before[-1] // over
        before.append(before[-1] + wanted // unit * unit)
    return BatchSizes(full, tuple(before))
