"""What a task is: items with one right answer each, scored by log-likelihood, or a measure of its own."""

from __future__ import annotations

import hashlib
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np

from gpt_lab.errors import DataError
from gpt_lab.evaluate.likelihood import Likelihood, Pair, check_pair, log_likelihoods, pair
from gpt_lab.evaluate.subject import Subject

T = TypeVar("T", bound=type)
TRIED = 20
"""Made questions that are written with a tokenizer before a run begins."""


class Asked(NamedTuple):
    """How a task is to be measured: at most `items` of it, `shots` examples before each, draws by `seed`."""

    items: int = 500
    shots: int = 0
    seed: int = 0

    def generator(self, *words: object) -> np.random.Generator:
        """Random numbers of one purpose, the same wherever they are drawn."""
        digest = hashlib.sha256("/".join(map(str, (self.seed, *words))).encode()).digest()
        return np.random.default_rng(int.from_bytes(digest[:8], "big"))


class Item(NamedTuple):
    """One question.

    Fields:
        contexts, continuations: what is read and what may follow; one of either stands for all.
        gold: the number of the right answer. With a single answer, it must be what the model finds likeliest.
        of: labels, such as the depth of a needle, by which results are also shown.
    """

    contexts: Sequence[str]
    continuations: Sequence[str]
    gold: int = 0
    of: Mapping[str, str] = {}

    @property
    def texts(self) -> list[tuple[str, str]]:
        """Each answer with its context."""
        answers = max(len(self.contexts), len(self.continuations))
        return [
            (self.contexts[i % len(self.contexts)], self.continuations[i % len(self.continuations)])
            for i in range(answers)
        ]


@dataclass(frozen=True)
class TaskResult:
    """What a model scored.

    Fields:
        score: what eval/NAME is. items: questions, or windows of text.
        stderr: standard error over them: what other questions would have changed, not what another seed would have.
        values: further numbers by name. each: of every item what was scored.
    """

    score: float
    items: int
    stderr: float | None = None
    values: Mapping[str, float] = field(default_factory=dict)
    each: Sequence[Mapping[str, Any]] = ()


class Task(ABC):
    """A task. Constructor: ()."""

    shown: ClassVar[str] = "accuracy"
    """What its score is."""
    text: ClassVar[bool] = True
    """Whether it asks in words, so that the model needs a tokenizer."""

    def check(self, subject: Subject, asked: Asked) -> None:
        """Refuses what cannot be asked of a model, before it is trained: its weights are not there yet.

        Raises:
            ConfigError, DataError: as measure.
        """
        assert not self.text or subject.needed_tokenizer

    @abstractmethod
    def measure(self, subject: Subject, asked: Asked) -> TaskResult:
        """Asks the model.

        Raises:
            ConfigError: it cannot be asked of this model. DataError: its tokenizer cannot write the questions.
        """


def task(name: str) -> Callable[[T], T]:
    """Class decorator: makes a Task selectable as tasks=NAME; on the line above `class`, with the name as text."""

    def mark(cls: T) -> T:
        cls.task = name  # type: ignore[attr-defined]
        return cls

    return mark


class Questions(Task):
    """A task of items: a subclass says which."""

    written: ClassVar[bool] = False
    """Whether somebody wrote them: then all are looked at beforehand, of made ones the first."""

    @abstractmethod
    def items(self, subject: Subject, asked: Asked) -> Iterable[Item]:
        """The questions; the first asked.items of them are asked."""

    def check(self, subject: Subject, asked: Asked) -> None:
        for item in itertools.islice(self.items(subject, asked), asked.items if self.written else TRIED):
            for texts in item.texts:
                check_pair(pair(subject.needed_tokenizer, *texts), subject.context)

    def measure(self, subject: Subject, asked: Asked) -> TaskResult:
        return score_items(subject, list(itertools.islice(self.items(subject, asked), asked.items)))


def score_items(subject: Subject, items: Sequence[Item]) -> TaskResult:
    """The share of items whose right answer is the likeliest, and what guessing does not explain of it.

    With several answers: the one with the highest mean log-likelihood of a token (Li et al. 2024, arXiv:2406.11794,
    CORE); `accuracy_sum` takes the highest sum instead. `centred` is (accuracy - chance) / (1 - chance).

    Raises:
        DataError: no items; a right answer that is not there; a text that the tokenizer cannot write.
    """
    if not items:
        raise DataError("the task has no items")
    tokenizer = subject.needed_tokenizer
    pairs: list[Pair] = []
    for item in items:
        if not 0 <= item.gold < len(item.texts):
            raise DataError(f"an item's right answer is number {item.gold}, and it has {len(item.texts)}")
        pairs += [pair(tokenizer, *texts) for texts in item.texts]
    rest = iter(log_likelihoods(subject.model, pairs, subject.context))
    each = [_scored(item, [next(rest) for _ in item.texts]) for item in items]
    right = [float(one["right"]) for one in each]
    accuracy = float(np.mean(right))
    values = {}
    if any(len(item.texts) > 1 for item in items):
        chance = float(np.mean([1 / len(item.texts) if len(item.texts) > 1 else 0.0 for item in items]))
        values = {
            "centred": (accuracy - chance) / (1 - chance),
            "chance": chance,
            "accuracy_sum": float(np.mean([one["right_sum"] for one in each])),
        }
    else:
        nats = [-one["log_likelihoods"][0] for one in each]
        values = {"nats_per_answer": float(np.mean(nats))}
    for kind in dict.fromkeys(kind for item in items for kind in item.of):
        for label in dict.fromkeys(item.of[kind] for item in items if kind in item.of):
            own = [r for r, item in zip(right, items, strict=True) if item.of.get(kind) == label]
            values[f"{kind}={label}"] = float(np.mean(own))
    return TaskResult(accuracy, len(items), standard_error(right), values, each)


def _scored(item: Item, found: Sequence[Likelihood]) -> dict[str, Any]:
    totals = [one.total for one in found]
    means = [one.total / len(one.log_probs) for one in found]
    if len(found) == 1:
        right = right_sum = found[0].greedy
    else:
        right, right_sum = int(np.argmax(means)) == item.gold, int(np.argmax(totals)) == item.gold
    return {
        "right": right,
        "right_sum": right_sum,
        "gold": item.gold,
        "log_likelihoods": totals,
        "tokens": [len(one.log_probs) for one in found],
        **({"of": dict(item.of)} if item.of else {}),
    }


def standard_error(values: Sequence[float]) -> float | None:
    """Of a mean over items; None: one item says nothing of it."""
    return float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else None
