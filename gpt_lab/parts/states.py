"""Decoding states: what a part keeps of the tokens already read, so that a new token costs one and not the whole text.

Shapes: B samples, G key/value heads, T new tokens, S tokens held, K head size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gpt_lab.parts.joined_states import JoinedKeyValues, JoinedRecurrence

FIRST_CAPACITY = 64
"""Slots of the first allocation; each later one at least doubles, so that n tokens cost O(n) copying in all."""


class KeyValues:
    """One layer's keys and values, from position 0 on. With a window it is a ring buffer of at most `window` slots.

    Only the key/value heads are kept (G of them, not one per query head), so grouped attention stores H / G times less.
    The order of the slots of a ring is arbitrary: the returned positions say which key stands where.
    """

    def __init__(self, window: int | None = None) -> None:
        self.window = window
        self.truncates = window is None  # a ring has written over what was before
        self.seen = 0
        self._keys: Tensor | None = None
        self._values: Tensor | None = None
        self._positions: Tensor | None = None

    @property
    def held(self) -> int:
        """Tokens whose keys are in the buffer now."""
        return self.seen if self.window is None else min(self.seen, self.window)

    @property
    def nbytes(self) -> int:
        """Bytes allocated, spare slots included."""
        return sum(t.numel() * t.element_size() for t in (self._keys, self._values, self._positions) if t is not None)

    def update(self, k_BGTK: Tensor, v_BGTK: Tensor, positions_T: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Adds T tokens; returns keys (B,G,S,K), values (B,G,S,K) and positions (S,) that these T may look back on.

        With a window and T > 1 the older ring comes first and all T new keys follow, as the first of the T still needs
        keys that the last of them pushes out. What is returned may share memory with the cache: use it before the
        next update.
        """
        new = k_BGTK.shape[2]
        before = self.held
        keys, values, positions = self._room(k_BGTK, v_BGTK, positions_T, new)
        if self.window is not None and new > 1 and before > 0:
            found = (
                torch.cat([keys[:, :, :before], k_BGTK], dim=2),
                torch.cat([values[:, :, :before], v_BGTK], dim=2),
                torch.cat([positions[:before], positions_T]),
            )
            self._write(keys, values, positions, k_BGTK, v_BGTK, positions_T)
            return found
        self._write(keys, values, positions, k_BGTK, v_BGTK, positions_T)
        if self.window is not None and new > self.window:
            return k_BGTK, v_BGTK, positions_T
        held = self.held
        return keys.narrow(2, 0, held), values.narrow(2, 0, held), positions.narrow(0, 0, held)

    def expand(self, rows: int) -> None:
        """Repeats the one row held for `rows` samples that go on from the same prompt."""
        if self._keys is not None and self._values is not None:
            self._keys = self._keys.expand(rows, -1, -1, -1).contiguous()
            self._values = self._values.expand(rows, -1, -1, -1).contiguous()

    def truncate(self, seen: int) -> None:
        """Forgets all but the first `seen` tokens, where `truncates`."""
        self.seen = seen

    def join(self, joined: JoinedKeyValues | None) -> JoinedKeyValues:
        """Puts a copy of the one row held beside other rows; None: it is the first."""
        joined = JoinedKeyValues(self.window) if joined is None else joined
        assert self._keys is not None and self._values is not None and self._positions is not None, "nothing was read"
        held = self.held
        joined.add(self._keys[0, :, :held], self._values[0, :, :held], self._positions[:held], self.seen)
        return joined

    def clear(self) -> None:
        """Forgets the tokens; the buffers stay allocated."""
        self.seen = 0

    def _write(
        self, keys: Tensor, values: Tensor, positions: Tensor, k: Tensor, v: Tensor, positions_T: Tensor
    ) -> None:
        new = k.shape[2]
        kept = new if self.window is None else min(new, self.window)
        first = self.seen + new - kept
        self.seen += new
        slot = first if self.window is None else first % self.window
        if self.window is None or slot + kept <= self.window:
            for held, more in ((keys, k), (values, v)):
                # narrow: slices in brackets take twice as long, which one token's step shows
                held.narrow(2, slot, kept).copy_(more if kept == new else more.narrow(2, new - kept, kept))
            if self.window is not None:
                positions.narrow(0, slot, kept).copy_(positions_T[new - kept :])
            return
        slots = torch.arange(first, first + kept, device=k.device) % self.window
        keys.index_copy_(2, slots, k[:, :, new - kept :])
        values.index_copy_(2, slots, v[:, :, new - kept :])
        positions.index_copy_(0, slots, positions_T[new - kept :])

    def _room(self, k: Tensor, v: Tensor, positions_T: Tensor, new: int) -> tuple[Tensor, Tensor, Tensor]:
        """The buffers, grown where `new` more tokens do not fit."""
        if self.seen == 0 and self._keys is not None and self._keys.shape[0] != k.shape[0]:
            self._keys = self._values = self._positions = None
        needed = self.seen + new if self.window is None else min(self.seen + new, self.window)
        have = 0 if self._keys is None else self._keys.shape[2]
        if self._keys is None or self._values is None or self._positions is None or needed > have:
            capacity = max(needed, 2 * have, FIRST_CAPACITY)
            if self.window is not None:
                capacity = min(capacity, self.window)
            old = self._keys, self._values, self._positions
            self._keys = k.new_empty(*k.shape[:2], capacity, k.shape[3])
            self._values = v.new_empty(*v.shape[:2], capacity, v.shape[3])
            self._positions = torch.arange(capacity, device=positions_T.device)  # without a window they stay so
            if old[0] is not None and old[1] is not None and old[2] is not None:
                self._keys[:, :, :have] = old[0]
                self._values[:, :, :have] = old[1]
                self._positions[:have] = old[2]
        return self._keys, self._values, self._positions


class Recurrence:
    """Tensors of constant size, by name: the state of a recurrent mixer, or the last inputs of a short convolution."""

    def __init__(self) -> None:
        self.seen = 0
        self._tensors: dict[str, Tensor] = {}

    def get(self, name: str) -> Tensor | None:
        """What was kept after the last token; None before the first."""
        return self._tensors.get(name)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All that is kept, by name."""
        return dict(self._tensors)

    def keep(self, new: int, **tensors: Tensor) -> None:
        """Replaces what is kept, after `new` more tokens. Each tensor: (B, ...)."""
        self._tensors.update({name: tensor.detach() for name, tensor in tensors.items()})
        self.seen += new

    @property
    def nbytes(self) -> int:
        """Bytes held: the same after every token."""
        return sum(t.numel() * t.element_size() for t in self._tensors.values())

    def expand(self, rows: int) -> None:
        """Repeats the one row held for `rows` samples that go on from the same prompt."""
        self._tensors = {k: t.expand(rows, *t.shape[1:]).contiguous() for k, t in self._tensors.items()}

    def join(self, joined: JoinedRecurrence | None) -> JoinedRecurrence:
        """Puts a copy of the one row held beside other rows; None: it is the first."""
        joined = JoinedRecurrence() if joined is None else joined
        joined.add({name: tensor.clone() for name, tensor in self._tensors.items()})
        return joined

    def clear(self) -> None:
        """Forgets the tokens."""
        self.seen = 0
        self._tensors = {}
