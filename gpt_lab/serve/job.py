"""One continuation that the engine makes: what it was asked for, its own random numbers, what it has to say so far.

Shapes: V vocabulary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from gpt_lab.data.tokenizers.tokenizer import Tokenizer
from gpt_lab.infer.sampling import LogProbability, Sampling, Streams, log_probabilities
from gpt_lab.infer.stream import StopStrings, TextStream

UNREAD = 64
"""Pieces that wait for a slow reader before its continuation pauses."""


@dataclass(frozen=True)
class Asked:
    """What to continue and how.

    Fields:
        prompt_ids: tokens, at least one. max_tokens: new ones at most. seed, sample: of its random numbers.
        stop: texts at which it ends, none of them shown. stop_ids: tokens likewise.
        tops: likeliest tokens to report beside each token; None: no probabilities at all.
        echo: the prompt comes first. message: spaces and line breaks before its first word are not shown.
    """

    prompt_ids: Sequence[int]
    max_tokens: int
    sampling: Sampling = field(default_factory=Sampling)
    seed: int = 0
    sample: int = 0
    stop: Sequence[str] = ()
    stop_ids: frozenset[int] = frozenset()
    tops: int | None = None
    echo: bool = False
    message: bool = False


class Chosen(NamedTuple):
    """A token: where its text begins, its log-probability (nats, at temperature 1; None: unknown), the likeliest."""

    token: int
    offset: int
    logprob: float | None
    tops: tuple[tuple[int, float], ...]


class Piece(NamedTuple):
    """Text that is certain to stay, and the tokens behind it."""

    text: str
    tokens: list[Chosen]


class End(NamedTuple):
    """The last event. reason: stop or length; error: why it could not be finished, else None."""

    reason: str
    error: str | None = None


class Job:
    """A continuation under way. The engine's thread writes, a reader takes from `events`.

    Args:
        model: its name. wake: called from the engine's thread when there is something new.
    """

    def __init__(self, model: str, asked: Asked, tokenizer: Tokenizer, wake: Callable[[], None]) -> None:
        self.model = model
        self.asked = asked
        self.wake = wake
        self.events: deque[Piece | End] = deque()
        self.cancelled = False
        self.ended = False
        self.last = 0
        """The token that the model has not read yet."""
        self.made = 0
        self.present: Tensor | None = None
        """Tokens that the text has, for a repetition penalty."""
        self._uniforms = Streams(asked.seed, [asked.sample])
        self._tokenizer = tokenizer
        self._stream = TextStream(tokenizer, asked.prompt_ids)
        self._stops = StopStrings(asked.stop)
        self._begun = not asked.message
        self._written = 0
        """Characters of the text so far, of which `_shown` are out; what `_text` and `_stops` hold is to come."""
        self._shown = 0
        self._text = ""
        self._held: list[Chosen] = []

    @property
    def paused(self) -> bool:
        """Whether its reader is too slow."""
        return len(self.events) >= UNREAD

    def uniform(self) -> Tensor:
        """The next random number (1,) in [0, 1): the n-th depends on nothing but seed, sample and n."""
        return self._uniforms.next()

    def penalized(self, logits_V: Tensor) -> Tensor:
        """Logits after the repetition penalty, if there is one."""
        if not self.asked.sampling.penalizes:
            return logits_V
        if self.present is None:
            self.present = torch.zeros(logits_V.shape, dtype=torch.bool, device=logits_V.device)
            self.present[list(self.asked.prompt_ids)] = True
        self.present[self.last] |= self.made > 0
        return self.asked.sampling.penalized(logits_V, self.present)

    def echo(self, known: Sequence[LogProbability] | None) -> None:
        """Says the prompt. known: of its second token and on; None: nothing."""
        stream, text, tokens = TextStream(self._tokenizer), "", []
        for place, token in enumerate(self.asked.prompt_ids):
            one = None if place == 0 or known is None else known[place - 1]
            tokens.append(Chosen(token, len(text), *((None, ()) if one is None else one[1:])))
            text += stream.push(token)
        text += stream.close()
        self._shown = self._written = len(text)
        self.events.append(Piece(text, tokens))

    def take(self, token: int, logits_V: Tensor | None) -> bool:
        """Adds the next token; whether the continuation goes on. logits_V: as it was drawn from, if asked for."""
        if token in self.asked.stop_ids:
            return self._finish("stop")
        self.last = token
        self.made += 1
        known = (
            (None, ()) if logits_V is None else log_probabilities(logits_V[None], [token], self.asked.tops or 0)[0][1:]
        )
        self._held.append(Chosen(token, self._written, *known))
        self._say(self._stream.push(token))
        if self._stops.met:
            return self._stopped()
        if self._text and not self._stops.holds:
            self._release()
        return self._finish("length") if self.made >= self.asked.max_tokens else True

    def fail(self, message: str) -> None:
        """Ends it with an error."""
        if not self.ended:
            self._end(End("error", message))

    def finish_empty(self) -> None:
        """Ends a continuation of no tokens."""
        self._finish("length")

    def _finish(self, reason: str) -> bool:
        self._say(self._stream.close())
        if self._stops.met:
            return self._stopped()
        self._text += self._stops.close()
        self._release()
        self._end(End(reason))
        return False

    def _say(self, text: str) -> None:
        if not self._begun:
            text = text.lstrip()
            self._begun = bool(text)
        self._written += len(text)
        self._text += self._stops.push(text)

    def _stopped(self) -> bool:
        """Ends in front of the stop text that was met."""
        self._held = [one for one in self._held if one.offset < self._shown + len(self._text)]
        self._release()
        self._end(End("stop"))
        return False

    def _release(self) -> None:
        if self._held or self._text:
            self.events.append(Piece(self._text, self._held))
            self._shown += len(self._text)
            self._text, self._held = "", []

    def _end(self, event: End) -> None:
        self.ended = True
        self.events.append(event)
