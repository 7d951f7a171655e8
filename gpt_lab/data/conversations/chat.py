"""Conversations to learn from: JSON lines of messages, or the lab's own; the loss is on what the assistant says alone.

Legend: B rows, T context.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from gpt_lab import registry
from gpt_lab.config.schema import RunConfig
from gpt_lab.data.base import Batch, Dataset, Places
from gpt_lab.data.batches import philox_key
from gpt_lab.data.chat_template import ChatTemplate, Message, Rendered, checked
from gpt_lab.data.conversations import dialogues
from gpt_lab.data.corpus import held_out
from gpt_lab.data.synthetic import IGNORED, Examples
from gpt_lab.data.tokenizers.tokenizer import Tokenizer
from gpt_lab.errors import ConfigError, DataError
from gpt_lab.options import NonEmpty, Probability
from gpt_lab.registry import register

Conversation = Sequence[Message]


class Sides(NamedTuple):
    """Items on the two sides of the split, each in a fixed order."""

    train: list[Any]
    val: list[Any]


@register("data", "chat")
class Chat:
    """Conversations, one a line: {"messages": [{"role": "user", "content": ...}, {"role": "assistant", ...}]}.

    Reference: https://huggingface.co/docs/trl/dataset_formats#conversational (the form of a line)

    Each turn ends with the tokenizer's end of text. Only what the assistant says is a target, the end of its turns
    included; bits per byte are of its words. Rows hold whole conversations; what is longer than the context is left
    out, and a line says how many.

    path: a file of JSON lines (null: some 1,050 short conversations that the lab makes: sums, spelling, the plays).
    val_path: the same for validation (null: val_fraction of `path` is held out).
    val_fraction: share of the conversations held out, by their content.
    topic: of those that the lab makes; all of them, or one, in single turns.
    packed: put as many conversations into a row as fit; false: one a row, which objective=grpo needs.
    """

    def __init__(
        self,
        *,
        path: NonEmpty | None = None,
        val_path: NonEmpty | None = None,
        val_fraction: Probability = 0.1,
        topic: Literal["all", "arithmetic", "spelling", "plays"] = "all",
        packed: bool = True,
    ) -> None:
        if path is None and val_path is not None:
            raise ConfigError("data.val_path needs data.path: the lab's own are split by data.val_fraction")
        if path is not None and topic != "all":
            raise ConfigError(f"data.topic={topic} is of the lab's own, not of data.path: leave one of them out")
        self.path, self.val_path, self.val_fraction = path, val_path, val_fraction
        self.topic, self.packed = topic, packed

    def split(self) -> Sides:
        """Training and validation conversations.

        Raises:
            DataError: a line is no conversation, or a side has none.
        """
        found = dialogues.conversations(self.topic) if self.path is None else read(self.path, "data.path", _messages)
        if self.val_path is not None:
            return Sides(found, read(self.val_path, "data.val_path", _messages))
        return hold_out(found, self.val_fraction)

    def dataset(self, cfg: RunConfig) -> Dataset:
        """The data of a run."""
        return ChatDataset(cfg, self.split(), self.packed, made=self.path is None)


def read(path: str, key: str, take: Any) -> list[Any]:
    """What each line of a file holds.

    Args:
        take: makes something of a line's value, or raises a DataError that says what is wrong.

    Raises:
        DataError: the line that cannot be used, by its number.
    """
    place = Path(path).expanduser()
    try:
        lines = place.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise DataError(f"{key}={path} cannot be read: {reason}") from error
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found.append(take(json.loads(line)))
        except ValueError as error:
            raise DataError(f"{place}, line {number}: no JSON ({error})") from None
        except DataError as error:
            raise DataError(f"{place}, line {number}: {error}") from None
    if not found:
        raise DataError(f"{key}={path} is empty")
    return found


def _messages(value: Any) -> Conversation:
    return checked(value.get("messages") if isinstance(value, Mapping) else None)


def hold_out(found: Sequence[Any], fraction: float) -> Sides:
    """Both sides of a split by content, so that equal items fall on the same one.

    Raises:
        ConfigError: a side would have none.
    """
    sides = Sides([], [])
    for one in found:
        sides[held_out(json.dumps(one, sort_keys=True).encode(), fraction)].append(one)
    if not sides.train or not sides.val:
        raise ConfigError(
            f"data.val_fraction={fraction} of {len(found)} leaves {len(sides.train)} to train on and {len(sides.val)} "
            "to validate on: change it, or name others with data.val_path"
        )
    return sides


def fitted_tokenizer(cfg: RunConfig, sides: Sides) -> tuple[Tokenizer, list[str]]:
    """The tokenizer of a run, fitted on what is said where it has to be, and its warnings."""
    warnings: list[str] = []
    made: Tokenizer = registry.build("tokenizer", cfg.tokenizer)
    if made.fits != "nothing":
        texts = [*sides.train, *(sides.val if made.fits == "all" else ())]
        marks = ["System: ", "User: ", "Assistant: "] if made.fits == "all" else []
        warnings = made.fit([*marks, *(text for one in texts for text in _said(one))])
    return made, warnings


def _said(value: Any) -> Iterator[str]:
    """Every text in a line's value but roles."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from (text for key, inner in value.items() if key != "role" for text in _said(inner))
    elif isinstance(value, list | tuple):
        yield from (text for inner in value for text in _said(inner))


def refuse_rows(cfg: RunConfig) -> None:
    """Refuses settings of rows that conversations do not have.

    Raises:
        ConfigError: the line names one.
    """
    name = f"data={cfg.data['name']}"
    if cfg.batch.packing != "stream" or cfg.batch.curriculum:
        key = "packing" if cfg.batch.packing != "stream" else "curriculum"
        raise ConfigError(f"batch.{key}: {name} makes rows of whole conversations: leave it out")
    if cfg.batch.document_mask:
        raise ConfigError(f"batch.document_mask=true: {name} tells conversations apart by rows: use data.packed=false")
    if list(cfg.eval.contexts) != [1]:
        raise ConfigError(f"eval.contexts: {name} has rows of one length: leave it at [1]")


def rows_of_conversations(rendered: Sequence[Rendered], context: int, fill: int, packed: bool) -> Examples:
    """Conversations in order, next to each other while they fit into a row; the rest of a row is `fill`.

    A target is the next token where the assistant says it; IGNORED elsewhere.
    """
    places: list[list[Rendered]] = []
    used = context
    for one in rendered:
        if not packed or used + len(one.ids) > context:
            places.append([])
            used = 0
        places[-1].append(one)
        used += len(one.ids)
    shape = (len(places), context)
    table = Examples(np.full(shape, fill), np.full(shape, IGNORED))
    for row, inside in enumerate(places):
        at = 0
        for ids, learnt in inside:
            table.tokens[row, at : at + len(ids)] = ids
            table.targets[row, at : at + len(ids) - 1] = np.where(learnt[1:], ids[1:], IGNORED)
            at += len(ids)
    return table


class ChatDataset(Dataset):
    """Rows of conversations: those of an epoch are a permutation, drawn from (data seed, epoch)."""

    is_text = True
    ends = True

    def __init__(self, cfg: RunConfig, sides: Sides, packed: bool, made: bool) -> None:
        super().__init__(cfg)
        self.made = made
        refuse_rows(cfg)
        self._tokenizer, self.warnings = fitted_tokenizer(cfg, sides)
        self.template = self._template = ChatTemplate(self._tokenizer)
        self.vocab_size = self._tokenizer.vocab_size
        self.rows_are = "" if packed else "conversations"
        self._train_rows = self._table("train", sides.train, packed)
        self._val_rows = self._table("val", sides.val, packed)
        if not packed:
            self.longest = max(_longest_run(one.targets != IGNORED) for one in (self._train_rows, self._val_rows))
        self.train_tokens = int((self._train_rows.targets != IGNORED).sum())
        self.val_tokens = 1 + int((self._val_rows.targets != IGNORED).sum())
        self._first = next((m["content"].strip() for m in sides.val[0] if m["role"] == "user"), "")
        digest = hashlib.sha256()
        for array in (*self._train_rows, *self._val_rows):
            digest.update(np.ascontiguousarray(array).tobytes())
        self.fingerprint = digest.hexdigest()[:16]

    def _table(self, side: str, found: Sequence[Conversation], packed: bool) -> Examples:
        rendered = [self._template.with_answers(one) for one in found]
        kept = [
            (one, own)
            for one, own in zip(found, rendered, strict=True)
            if len(own.ids) <= self.context and any(own.learnt)
        ]
        if not kept:
            raise DataError(
                f"no {side} conversation has an answer and fits into scale.context={self.context} (the shortest has "
                f"{min(len(own.ids) for own in rendered)} tokens): raise it"
            )
        if len(kept) < len(found):
            self.warnings.append(
                f"{len(found) - len(kept):,} of {len(found):,} {side} conversations have no answer or are longer than "
                f"scale.context={self.context}: they are left out"
            )
        if side == "val":
            answers = [f" {m['content'].strip()}" for one, _ in kept for m in one if m["role"] == "assistant"]
            self.val_bytes = sum(len(text.encode()) for text in answers)
            lost = sum(self._tokenizer.decode(self._tokenizer.encode(text)) != text for text in answers)
            if lost:
                self.lossy = f"{lost:,} of {len(answers):,} answers do not come back from their tokens"
        return rows_of_conversations([own for _, own in kept], self.context, self._template.stop, packed)

    @property
    def tokenizer(self) -> Tokenizer:
        return self._tokenizer

    @property
    def bytes_per_token(self) -> float | None:
        return None if self.lossy else self.val_bytes / (self.val_tokens - 1)

    @property
    def opening(self) -> str:
        return self._first

    def validation(self, rows: int, limit: int | None = None, times: int = 1) -> Iterator[Batch]:
        tokens, targets = self._val_rows
        take = lambda chosen: Examples(tokens[chosen], targets[chosen])  # noqa: E731
        return self._in_batches(len(tokens), take, rows, limit, times)

    def _train(self, step: int, start: int, stop: int) -> Examples:
        places = self._cfg.batch_sizes.first(step) + np.arange(start, stop)
        chosen = numbers_of(len(self._train_rows.tokens), self._cfg.data_seed, places)
        return Examples(self._train_rows.tokens[chosen], self._train_rows.targets[chosen])


def _longest_run(counted: Any) -> int:
    """The most neighbours in a row that are true."""
    edges = np.diff(np.pad(counted.astype(np.int8), ((0, 0), (1, 1))))
    return int((np.argwhere(edges == -1)[:, 1] - np.argwhere(edges == 1)[:, 1]).max())


def numbers_of(number: int, seed: int, places: Places) -> Places:
    """Which of `number` items stand at places of an endless order, each epoch of which has all of them."""
    return np.array([_order(seed, place // number, number)[place % number] for place in places.tolist()])


@functools.lru_cache(maxsize=4)
def _order(seed: int, epoch: int, number: int) -> Places:
    return np.random.Generator(np.random.Philox(key=philox_key(seed, epoch))).permutation(number)
