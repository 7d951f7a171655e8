"""What every kind of data gives a run: the batch of a step, the validation set, the n-gram floors of the corpus.

Legend: B rows, T context. A batch is a pure function of (data seed, step).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from gpt_lab.config.schema import RunConfig
from gpt_lab.data import packing
from gpt_lab.data.chat_template import ChatTemplate
from gpt_lab.data.synthetic import IGNORED, Examples
from gpt_lab.data.tokenizers.tokenizer import Tokenizer

Table = np.ndarray[tuple[int, int], np.dtype[np.int64]]
Places = np.ndarray[tuple[int], np.dtype[np.int64]]


class Batch(NamedTuple):
    """Sequences to train on or to validate with: int64 (B, T), on the CPU."""

    tokens_BT: Tensor
    targets_BT: Tensor
    """The next tokens; -100 where there is nothing to predict."""
    documents_BT: Tensor | None
    """The document number of each token within its row; None unless batch.document_mask is on."""


class Dataset(ABC):
    """A source of batches of one run's shape."""

    is_text: ClassVar[bool]
    vocab_size: int
    fingerprint: str
    """Names the content: same fingerprint, same tokens."""
    train_tokens: int
    """Tokens of the training stream; 0 if it is made without end."""
    val_tokens: int
    """Tokens of the validation stream; one more than it has targets."""
    val_bytes: int
    """UTF-8 bytes that the validation targets stand for; 0 if they are no text."""
    lossy: str = ""
    """What validation text does not come back from its tokens: there are no bits per byte then."""
    ends: bool = False
    """Whether the ends of documents are targets."""
    warnings: list[str]
    parts: Mapping[str, Dataset] = {}
    """The data sets of a mixture by name, each to be validated on; {}: it is none."""
    weights: Mapping[str, float] = {}
    """The share of each of them; the sum is 1."""
    template: ChatTemplate | None = None
    """How conversations become tokens; None: it is none of conversations."""
    rows_are: str = ""
    """What each row, or two of them, is whole: "conversations", "pairs" of answers; "": nothing in particular."""
    made: bool = False
    """Whether the lab made the conversations, which no other data hold."""
    longest: int = 0
    """Tokens of the longest answer, where rows are conversations."""

    def __init__(self, cfg: RunConfig) -> None:
        self._cfg = cfg
        self.context = cfg.scale.context

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer, loaded at the first use; None for data that is no text."""
        return None

    @property
    def bytes_per_token(self) -> float | None:
        """UTF-8 bytes per validation target; None for data that is no text, or that is `lossy`."""
        return None

    @property
    def packed(self) -> packing.Statistics | None:
        """What packing does to the documents; None: they are joined, or there are none."""
        return None

    @property
    def opening(self) -> str:
        """The first words of the validation text, on one line: what a model may be asked to continue; "" if no text."""
        return ""

    def floors(self) -> dict[str, float]:
        """Bits per byte on the validation split of n-gram models fitted on the training tokens; {} without them."""
        return {}

    def batch(self, step: int, rows: slice | None = None) -> Batch:
        """The sequences of a step, or those of its `rows` only; every partition into rows gives the same ones."""
        start, stop, stride = (rows or slice(None)).indices(self._number(step))
        if stride != 1:
            raise ValueError(f"rows must be contiguous, not {rows}")
        return self._pack(self._train(step, start, stop))

    def tokens_after(self, steps: int) -> int:
        """Tokens of the first so many steps, padding not counted."""
        return self._cfg.tokens_after(steps)

    def read_after(self, steps: int) -> Mapping[int, int]:
        """What the model reads in the first so many steps, by the length of rows: tokens, padding counted."""
        return {self.context: self._cfg.tokens_after(steps)}

    def first_steps(self) -> list[int]:
        """A step of each length of rows that the first steps have."""
        return [0]

    @abstractmethod
    def validation(self, rows: int, limit: int | None = None, times: int = 1) -> Iterator[Batch]:
        """The validation set in batches of at most `rows` sequences of one shape, each target exactly once.

        What is left over at the end is filled up with targets of -100. With a `limit`, about so many tokens: whole
        sequences, spread evenly over the set and always the same.

        Args:
            times: length of a sequence in contexts. Of text the targets are the same at every length: each sequence is
                `times` neighbouring ones of a context. Synthetic tasks are made up anew for the longer context.
        """

    def _in_batches(
        self, sequences: int, take: Callable[[Places], Examples], rows: int, limit: int | None, times: int
    ) -> Iterator[Batch]:
        """As `validation`, of so many sequences that `take` gives by number."""
        number = sequences if limit is None else min(sequences, max(1, round(limit / (self.context * times))))
        chosen = np.arange(number) * sequences // number
        rows = min(rows, number)
        for start in range(0, number, rows):
            examples = take(chosen[start : start + rows])
            missing = rows - len(examples.tokens)
            if missing:
                more = ((0, missing), (0, 0))
                tokens = np.pad(examples.tokens, more)
                examples = Examples(tokens, np.pad(examples.targets, more, constant_values=IGNORED))
            yield self._pack(examples)

    def _number(self, step: int) -> int:
        """Rows of a step."""
        return self._cfg.batch_sizes.rows(step)

    @abstractmethod
    def _train(self, step: int, start: int, stop: int) -> Examples:
        """Rows start to stop of a step."""

    def _documents(self, tokens: Table) -> Tensor | None:
        return None

    def _pack(self, examples: Examples) -> Batch:
        tokens, targets = examples
        return Batch(torch.from_numpy(tokens), torch.from_numpy(targets), self._documents(tokens))


@runtime_checkable
class RowsSource(Protocol):
    """A data part that makes rows of its own, such as conversations."""

    def dataset(self, cfg: RunConfig) -> Dataset:
        """The data of a run."""
        ...
