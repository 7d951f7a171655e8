"""The decoding states of a whole model: what its parts keep of the tokens already read (gpt_lab/parts/states.py)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from gpt_lab.infer.light_step import light_step
from gpt_lab.model.gpt import GPT
from gpt_lab.parts.base import State
from gpt_lab.parts.joined_states import JoinedState
from gpt_lab.parts.states import Recurrence

S = TypeVar("S", bound=State)


class Cache:
    """Every part's state, by depth and site. A part makes its own when it reads its first token.

    Fields:
        seen: tokens read, which is the position of the next one.
        usable: whether every attention that needs earlier tokens has kept them.
    """

    def __init__(self) -> None:
        self.seen = 0
        self.usable = True
        self._states: dict[tuple[int, str], State] = {}
        self._marked = 0
        self._copies: dict[tuple[int, str], State] = {}

    def slot(self, layer: int, site: str, make: Callable[[], S]) -> S:
        """The state of one part at one depth, made when it is first asked for."""
        state = self._states.get((layer, site))
        if state is None:
            state = self._states[layer, site] = make()
        return state  # type: ignore[return-value]  # a site belongs to one part, which always makes the same

    @property
    def nbytes(self) -> int:
        """Bytes allocated in all layers."""
        return sum(state.nbytes for state in self._states.values())

    def tensors(self) -> dict[int, dict[str, Tensor]]:
        """What recurrent parts keep now, by depth and name; keys and values are not among it."""
        found: dict[int, dict[str, Tensor]] = {}
        for (layer, _), state in self._states.items():
            if isinstance(state, Recurrence):
                found.setdefault(layer, {}).update(state.tensors)
        return found

    def read(self, model: GPT, tokens: int) -> bool:
        """Notes that the model has read `tokens` more; whether all its attentions have kept them.

        If not, all is forgotten and the cache no longer usable: an attention of another package that leaves the states
        alone would see nothing but the new tokens in its later passes.
        """
        self.seen += tokens
        for layer, block in enumerate(model.layers()):
            attention = getattr(block, "attention", None)
            if attention is None or getattr(attention, "stateless", False):
                continue
            state = self._states.get((layer, "attention"))
            if state is None or state.seen != self.seen:
                self._states, self.usable = {}, False
                break
        return self.usable

    def mark(self) -> None:
        """Remembers this place in the text, to which `back` can return: once, and no further back."""
        self._marked = self.seen
        # what cannot forget single tokens is small: recurrences and rings
        self._copies = {at: copy.deepcopy(one) for at, one in self._states.items() if not _truncates(one)}

    def back(self, seen: int) -> None:
        """Forgets all but the first `seen` tokens; where a state cannot, all that came after the mark."""
        if seen >= self.seen:
            return
        self.seen = seen if all(_truncates(state) for state in self._states.values()) else self._marked
        for place, state in list(self._states.items()):
            if _truncates(state):
                state.truncate(self.seen)  # type: ignore[attr-defined]
            elif place in self._copies:
                self._states[place] = self._copies.pop(place)
            else:  # made after the mark
                del self._states[place]

    def join(self, joined: dict[tuple[int, str], JoinedState]) -> dict[tuple[int, str], JoinedState] | None:
        """Puts a copy of the one row held beside those of `joined`; None, and nothing done, where a state cannot."""
        states: dict[tuple[int, str], Any] = dict(self._states)
        if not all(hasattr(state, "join") for state in states.values()) or joined.keys() not in (set(), states.keys()):
            return None
        return {place: state.join(joined.get(place)) for place, state in states.items()}

    def expand(self, rows: int) -> None:
        """Repeats the one row held for `rows` samples that go on from the same prompt."""
        for state in self._states.values():
            state.expand(rows)

    def clear(self) -> None:
        """Forgets the tokens; buffers of keys and values stay allocated."""
        self.seen = 0
        for state in self._states.values():
            state.clear()


def _truncates(state: State) -> bool:
    return getattr(state, "truncates", False)


class JoinedCache:
    """The states of rows that are at different positions, which the model reads a token each.

    Fields:
        seen: tokens read of each row. The last row takes the number of one that is removed.
    """

    def __init__(self) -> None:
        self.seen: list[int] = []
        self._states: dict[tuple[int, str], JoinedState] = {}

    @property
    def nbytes(self) -> int:
        """Bytes allocated in all layers."""
        return sum(state.nbytes for state in self._states.values())

    def slot(self, layer: int, site: str, make: Callable[[], S]) -> S:
        """The state of one part at one depth."""
        return self._states[layer, site]  # type: ignore[return-value]  # it does for a part what its own state does

    def add(self, cache: Cache) -> bool:
        """One more row, the last: a copy of what was kept of it alone; whether its states can be joined."""
        joined = cache.join(self._states if self.seen else {})
        if joined is None:
            return False
        self._states = joined
        self.seen.append(cache.seen)
        return True

    def remove(self, row: int) -> None:
        """Forgets a row."""
        for state in self._states.values():
            state.remove(row)
        self.seen[row] = self.seen[-1]
        self.seen.pop()

    @torch.no_grad()
    def step(self, model: GPT, rows: Sequence[int], tokens_B1: Tensor) -> Tensor:
        """Logits (B, V) in fp32 after one more token of each of these rows."""
        whole = list(rows) == list(range(len(self.seen)))
        for state in self._states.values():
            state.chosen = None if whole else rows
        places = [self.seen[row] for row in rows]
        # those that all rows share are (T,), and then no mask is needed
        positions = torch.tensor(places[:1] if len({*places}) == 1 else [[place] for place in places])
        light = light_step(model)
        if light is None:
            logits_BV: Tensor = model(tokens_B1, positions_T=positions.to(tokens_B1.device), states=self)[:, -1]
        else:
            logits_BV = light(tokens_B1, positions, max(places), self)
        for row in rows:
            self.seen[row] += 1
        return logits_BV.float()
