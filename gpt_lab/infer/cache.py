"""The decoding states of a whole model: what its parts keep of the tokens already read (gpt_lab/parts/states.py)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch import Tensor

from gpt_lab.model.gpt import GPT
from gpt_lab.parts.base import State
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

    def expand(self, rows: int) -> None:
        """Repeats the one row held for `rows` samples that go on from the same prompt."""
        for state in self._states.values():
            state.expand(rows)

    def clear(self) -> None:
        """Forgets the tokens; buffers of keys and values stay allocated."""
        self.seen = 0
        for state in self._states.values():
            state.clear()
