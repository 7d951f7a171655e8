"""Synthetic tasks: what a layer can do, without the noise of natural text."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np

from gpt_lab.data.batches import philox_key
from gpt_lab.errors import ConfigError
from gpt_lab.options import PositiveInt
from gpt_lab.registry import register

Ints = np.ndarray[Any, Any]

IGNORED = -100
"""Target of the positions that the task does not ask about."""
MQAR_POWER = 0.01
"""Exponent of the distances between a key and its query, as in Arora et al. 2023."""


class Examples(NamedTuple):
    """Inputs and targets, int64 (rows, context); targets are IGNORED but at the answers."""

    tokens: Ints
    targets: Ints


@register("data", "synthetic")
class Synthetic:
    """Sequences made from (seed, step) with known answers: copy, induction or MQAR; loss on the answers only.

    Paper: Arora et al. 2023, arXiv:2312.04927 (MQAR); Olsson et al. 2022, arXiv:2209.11895 (induction)

    There is no text, hence no tokenizer and no bits per byte. Validation sequences are the same for every seed.

    task: copy = random symbols, a separator, the same symbols again; induction = noise that holds each trigger and the
      symbol after it once, then all triggers again in another order; mqar (multi-query associative recall) =
      key-value pairs, then noise in which each key is asked for once, at distances drawn from a power law.
    symbols: how many different symbols there are; keys of mqar are one half of them, values the other.
    items: symbols to copy, triggers, or pairs (null: as many as fit, 1, or a sixteenth of the context).
    val_sequences: how many sequences validation has.
    """

    def __init__(
        self,
        *,
        task: Literal["copy", "induction", "mqar"] = "copy",
        symbols: PositiveInt = 64,
        items: PositiveInt | None = None,
        val_sequences: PositiveInt = 256,
    ) -> None:
        self.task, self.symbols, self.items, self.val_sequences = task, symbols, items, val_sequences

    def plan(self, context: int) -> TaskSizes:
        """The task in a given context.

        Raises:
            ConfigError: the context or the symbols do not suffice.
        """
        fitting = {"copy": context // 2, "induction": 1, "mqar": max(1, context // 16)}
        items = fitting[self.task] if self.items is None else self.items
        need = {"copy": max(2 * items, 2), "induction": 4 * items, "mqar": 4 * items}[self.task]
        if need > context:
            raise ConfigError(
                f"data=synthetic: {self.task} with data.items={items} needs a context of {need} tokens, and "
                f"scale.context={context}: lower data.items or raise scale.context"
            )
        least = 2 * items if self.task == "mqar" else 2
        if self.symbols < least:
            raise ConfigError(
                f"data.symbols must be at least {least} for {self.task} with data.items={items}, not {self.symbols}"
            )
        return TaskSizes(self.task, self.symbols, items, context)


class TaskSizes(NamedTuple):
    """A task whose sizes are settled."""

    task: str
    symbols: int
    items: int
    context: int

    @property
    def vocab_size(self) -> int:
        """The symbols, and the separator of copy or the triggers of induction."""
        return self.symbols + {"copy": 1, "induction": self.items, "mqar": 0}[self.task]

    @property
    def answers(self) -> int:
        """Targets that count, per sequence."""
        return self.items

    def longer(self, times: int) -> TaskSizes:
        """The task in `times` the context: copy has as many times the symbols to copy, the others more noise."""
        items = self.items * times if self.task == "copy" else self.items
        return self._replace(items=items, context=self.context * times)

    def examples(self, seed: int, step: int, rows: int) -> Examples:
        """`rows` sequences, a pure function of the arguments."""
        generator = np.random.Generator(np.random.Philox(key=philox_key(seed, step)))
        make = {"copy": _copy, "induction": _induction, "mqar": _mqar}[self.task]
        return make(self, generator, rows)


def _copy(plan: TaskSizes, generator: np.random.Generator, rows: int) -> Examples:
    symbols = generator.integers(0, plan.symbols, size=(rows, plan.items))
    whole = np.full((rows, plan.context + 1), plan.symbols)  # the separator fills what is left over
    targets = np.full((rows, plan.context), IGNORED)
    whole[:, : plan.items] = symbols
    whole[:, plan.items + 1 : 2 * plan.items + 1] = symbols
    targets[:, plan.items : 2 * plan.items] = symbols
    return Examples(whole[:, :-1].copy(), targets)


def _induction(plan: TaskSizes, generator: np.random.Generator, rows: int) -> Examples:
    noise = plan.context - 2 * plan.items
    tokens = generator.integers(0, plan.symbols, size=(rows, plan.context))
    targets = np.full((rows, plan.context), IGNORED)
    # A trigger takes the first place of one of the noise's pairs of places, so that none overwrites another's answer.
    pairs = _distinct(generator, rows, noise // 2, plan.items)
    row = np.arange(rows)[:, None]
    tokens[row, 2 * pairs] = plan.symbols + np.arange(plan.items)
    answers = tokens[row, 2 * pairs + 1]
    order = _distinct(generator, rows, plan.items, plan.items)
    asked = noise + 2 * np.arange(plan.items)
    tokens[:, asked] = plan.symbols + order
    tokens[:, asked + 1] = answers[row, order]
    targets[:, asked] = answers[row, order]
    return Examples(tokens, targets)


def _mqar(plan: TaskSizes, generator: np.random.Generator, rows: int) -> Examples:
    half = plan.symbols // 2
    keys = _distinct(generator, rows, half, plan.items)
    values = half + _distinct(generator, rows, plan.symbols - half, plan.items)
    tokens = generator.integers(half, plan.symbols, size=(rows, plan.context))  # noise is values, so no key recurs
    targets = np.full((rows, plan.context), IGNORED)
    tokens[:, 0 : 2 * plan.items : 2] = keys
    tokens[:, 1 : 2 * plan.items : 2] = values
    slots = (plan.context - 2 * plan.items) // 2
    weights = MQAR_POWER * np.arange(1, slots + 1) ** (MQAR_POWER - 1)
    chosen = _distinct(generator, rows, slots, plan.items, weights)
    places = 2 * plan.items + 2 * chosen
    row = np.arange(rows)[:, None]
    tokens[row, places] = keys
    targets[row, places] = values
    return Examples(tokens, targets)


def _distinct(generator: np.random.Generator, rows: int, size: int, number: int, weights: Ints | None = None) -> Ints:
    """`number` different values of range(size) per row, in random order; weighted draws without replacement."""
    waits = generator.exponential(size=(rows, size))  # the first to arrive: Efraimidis and Spirakis 2006
    if weights is not None:
        waits /= weights
    return np.argsort(waits, axis=1, kind="stable")[:, :number]
