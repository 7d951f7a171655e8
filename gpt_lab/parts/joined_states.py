"""Decoding states of rows that are at different positions, read together a token each; rows join and leave.

Shapes: R rows held, B of them in a step, G key/value heads, S tokens held, K head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from gpt_lab.kernels.base import Memo

FIRST_SLOTS = 64
"""Tokens that a row has room for at first; each later allocation at least doubles, so that n cost O(n) copying."""
NOWHERE = 2**31
"""Position of an empty slot: after every query, so that causality hides it."""


class JoinedState(Protocol):
    """One part's state of many rows, by their numbers in the batch: the last takes the place of one that goes."""

    chosen: Sequence[int] | None
    """The rows that the step in hand reads, in this order; None: all."""

    @property
    def nbytes(self) -> int:
        """Bytes allocated."""
        ...

    def remove(self, row: int) -> None:
        """Forgets a row, whose number the last one gets."""


class JoinedKeyValues:
    """Keys and values by row; token n is in slot n of its row, or in slot n modulo the window.

    Slots that a row has not filled hold finite numbers, which no query sees.
    """

    def __init__(self, window: int | None = None) -> None:
        self.window = window
        self.chosen: Sequence[int] | None = None
        self._seen: list[int] = []
        self._keys: Tensor | None = None
        self._values: Tensor | None = None
        self._slots = torch.empty(0)  # their numbers, which are the positions where there is no window

    @property
    def nbytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in (self._keys, self._values) if t is not None)

    def add(self, k_GSK: Tensor, v_GSV: Tensor, positions_S: Tensor, seen: int) -> None:
        """One more row, the last: what is held of its `seen` tokens."""
        row = len(self._seen)
        self._seen.append(seen)
        keys, values = self._room(k_GSK, v_GSV)
        length = k_GSK.shape[1]
        for held, new in ((keys[row], k_GSK), (values[row], v_GSV)):
            if self.window is None:
                held.narrow(1, 0, length).copy_(new)
            else:
                held.index_copy_(1, positions_S % self.window, new)
            held.narrow(1, length, held.shape[1] - length).zero_()  # what a row that left may have been

    def remove(self, row: int) -> None:
        last = len(self._seen) - 1
        for held in (self._keys, self._values):
            if held is not None and row != last:
                held[row] = held[last]
        self._seen[row] = self._seen[last]
        self._seen.pop()
        if not self._seen:
            self._keys = self._values = None

    def update(self, k_BG1K: Tensor, v_BG1V: Tensor, positions_B1: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Adds a token to each row of the step; returns keys (B,G,S,K), values (B,G,S,V) and positions (S,) or (B,S).

        Positions are (1,) where the rows of the step are all at the same one: then all that is returned is seen. What
        is returned may share memory with the state: use it before the next update.
        """
        rows = range(len(self._seen)) if self.chosen is None else self.chosen
        for row in rows:
            self._seen[row] += 1
        keys, values = self._room(k_BG1K[0], v_BG1V[0])
        longest = max(self._seen[row] for row in rows)
        if self.chosen is None and positions_B1.dim() == 1 and self.window is None:
            keys, values = keys.narrow(0, 0, len(rows)), values.narrow(0, 0, len(rows))
            keys.narrow(2, longest - 1, 1).copy_(k_BG1K)
            values.narrow(2, longest - 1, 1).copy_(v_BG1V)
            return keys.narrow(2, 0, longest), values.narrow(2, 0, longest), self._slots.narrow(0, 0, longest)
        reach = longest if self.window is None else min(longest, self.window)
        places = _places(positions_B1, tuple(rows), self.window, reach)
        flat_N = places.flat(keys.shape[1], keys.shape[2])
        for held, new in ((keys, k_BG1K), (values, v_BG1V)):  # a third of the time of held[row, :, slot] = new
            held.flatten(0, 2).index_copy_(0, flat_N, new.flatten(0, 2))
        if self.chosen is None:
            found = (held.narrow(0, 0, len(rows)).narrow(2, 0, reach) for held in (keys, values))
        else:
            found = (held.narrow(2, 0, reach).index_select(0, places.row_B) for held in (keys, values))
        return next(found), next(found), places.positions

    def _room(self, k_GSK: Tensor, v_GSV: Tensor) -> tuple[Tensor, Tensor]:
        """The buffers, grown where the rows do not fit, or the tokens of the longest."""
        needed = max(self._seen) if self.window is None else min(max(self._seen), self.window)
        have = (0, 0) if self._keys is None else (self._keys.shape[0], self._keys.shape[2])
        if self._keys is None or self._values is None or len(self._seen) > have[0] or needed > have[1]:
            rows = have[0] if len(self._seen) <= have[0] else max(len(self._seen), 2 * have[0])
            slots = have[1] if needed <= have[1] else max(needed, 2 * have[1], FIRST_SLOTS)
            slots = slots if self.window is None else min(slots, self.window)
            old = self._keys, self._values
            self._keys = k_GSK.new_zeros(rows, k_GSK.shape[0], slots, k_GSK.shape[2])
            self._values = v_GSV.new_zeros(rows, v_GSV.shape[0], slots, v_GSV.shape[2])
            self._slots = torch.arange(slots, device=k_GSK.device)
            if old[0] is not None and old[1] is not None:
                self._keys[: have[0], :, : have[1]] = old[0]
                self._values[: have[0], :, : have[1]] = old[1]
        return self._keys, self._values


class _Places:
    """Where the tokens of one step go, and where the keys stand that they may look back on."""

    def __init__(self, positions_B1: Tensor, rows: tuple[int, ...], window: int | None, reach: int) -> None:
        shared = positions_B1.dim() == 1
        positions_B1 = positions_B1.expand(len(rows), 1) if shared else positions_B1
        self.row_B = torch.tensor(rows, device=positions_B1.device)
        self._flat: dict[tuple[int, int], Tensor] = {}
        slot_S = torch.arange(reach, device=positions_B1.device)
        if window is None:  # a slot's number is its position, and one not filled is after the query
            self.slot_B, self.positions = positions_B1[:, 0], slot_S
            return
        self.slot_B = positions_B1[:, 0] % window
        position_BS = positions_B1 - (positions_B1 - slot_S) % window
        self.positions = torch.where(position_BS < 0, NOWHERE, position_BS)
        if shared:
            self.positions = self.positions[0]

    def flat(self, heads: int, slots: int) -> Tensor:
        """Where in a buffer of so many heads and slots a row the new tokens go, row by row and head by head."""
        if (heads, slots) not in self._flat:
            head_G = torch.arange(heads, device=self.row_B.device)
            self._flat[heads, slots] = ((self.row_B[:, None] * heads + head_G) * slots + self.slot_B[:, None]).flatten()
        return self._flat[heads, slots]


_memo = Memo()


def _places(positions_B1: Tensor, rows: tuple[int, ...], window: int | None, reach: int) -> _Places:
    found: _Places = _memo((rows, window, reach), (positions_B1,), lambda: _Places(positions_B1, rows, window, reach))
    return found


class JoinedRecurrence:
    """Tensors of constant size by name, (R, ...) each."""

    def __init__(self) -> None:
        self.chosen: Sequence[int] | None = None
        self._tensors: dict[str, Tensor] = {}

    @property
    def nbytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in self._tensors.values())

    def add(self, tensors: dict[str, Tensor]) -> None:
        """One more row, the last: (1, ...) each."""
        if self._tensors:
            tensors = {name: torch.cat((held, tensors[name])) for name, held in self._tensors.items()}
        self._tensors = dict(tensors)

    def remove(self, row: int) -> None:
        for name, held in self._tensors.items():
            held[row] = held[-1]
            self._tensors[name] = held[:-1].clone()
        if not any(len(held) for held in self._tensors.values()):
            self._tensors = {}

    def get(self, name: str) -> Tensor | None:
        """What was kept after the last token of each row of the step: (B, ...)."""
        held = self._tensors.get(name)
        return held if held is None or self.chosen is None else held[list(self.chosen)]

    def keep(self, new: int, **tensors: Tensor) -> None:
        """Replaces what is kept of the rows of the step, after one more token of each."""
        for name, tensor in tensors.items():
            if self.chosen is None:
                self._tensors[name] = tensor.detach()
            else:
                self._tensors[name][list(self.chosen)] = tensor.detach()
