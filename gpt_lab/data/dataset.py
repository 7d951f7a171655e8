"""Datasets: the batch of a step, the validation set, and the n-gram floors of the corpus.

Legend: B rows, T context. A batch is a pure function of (data seed, step).
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from gpt_lab import registry
from gpt_lab.config.schema import RunConfig
from gpt_lab.data import batches, mixture, packing
from gpt_lab.data.chat_template import ChatTemplate
from gpt_lab.data.corpus import Corpus
from gpt_lab.data.floors import floors
from gpt_lab.data.rows import Bucketed, Rows, rows_of
from gpt_lab.data.shard_cache import Progress
from gpt_lab.data.shards import Shards, open_shards
from gpt_lab.data.synthetic import IGNORED, Examples, Synthetic, TaskSizes
from gpt_lab.data.tokenizers.tokenizer import Tokenizer
from gpt_lab.errors import ConfigError, DataError

MUCH = 0.5
"""Share of the training tokens whose loss is warned of."""
OPENING = 40
"""Characters of a text's first line that are taken for a prompt."""
UNPACKED = ("text", "jsonl", "shakespeare", "stdlib")
"""Data whose files are at least as long as the text in them."""
Table = np.ndarray[tuple[int, int], np.dtype[np.int64]]
Places = np.ndarray[tuple[int], np.dtype[np.int64]]
VALIDATION = 2**64 - 1
"""Key of synthetic validation sequences: a seed that no run can have, so that every run is validated alike."""


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


class RowsDataset(Dataset):
    """Rows of text, as batch.packing and batch.curriculum make them (`rows`)."""

    is_text = True
    rows: Rows

    @property
    @abstractmethod
    def texts(self) -> Mapping[str, TextDataset]:
        """Each corpus by name: those of a mixture, or itself under ""."""

    @functools.cached_property
    def packed(self) -> packing.Statistics | None:
        return None if self._cfg.batch.packing == "stream" else self.rows.statistics()

    def tokens_after(self, steps: int) -> int:
        return self.rows.tokens(steps)

    def read_after(self, steps: int) -> Mapping[int, int]:
        return self.rows.read(steps)

    def first_steps(self) -> list[int]:
        return self.rows.first_steps()

    def _number(self, step: int) -> int:
        return self.rows.number(step)

    def _train(self, step: int, start: int, stop: int) -> Examples:
        return self.rows.take(step, start, stop)


class TextDataset(RowsDataset):
    """A tokenized corpus."""

    def __init__(self, cfg: RunConfig, shards: Shards) -> None:
        super().__init__(cfg)
        self.shards = shards
        self.vocab_size, self.fingerprint = shards.vocab_size, shards.fingerprint
        self.train_tokens, self.val_tokens = len(shards.train), len(shards.val)
        self.val_bytes = shards.splits["val"]["target_bytes"]
        self.lossy, self.ends = shards.lossy, shards.eot is not None
        self.warnings = list(shards.warnings)
        if self.train_tokens <= self.context:
            raise DataError(
                f"the training text has {self.train_tokens} tokens, and one sequence of scale.context={self.context} "
                f"needs {self.context + 1}: give more text or lower scale.context"
            )
        if cfg.batch.document_mask and shards.eot is None:
            raise ConfigError(
                f"batch.document_mask=true needs a token between documents, and tokenizer={cfg.tokenizer['name']} has "
                "none: use tokenizer=bpe, or tokenizer.eot=true where it is an option"
            )
        if cfg.batch.packing != "stream" and shards.eot is None:
            raise ConfigError(
                f"batch.packing={cfg.batch.packing} needs a token between documents, and tokenizer="
                f"{cfg.tokenizer['name']} has none: use tokenizer=bpe, or tokenizer.eot=true where it is an option"
            )
        self.stream = packing.Stream(shards.train, shards.eot, functools.partial(shards.check, "train"))
        self.rows = rows_of(
            cfg, self.sequences, lambda lengths: Bucketed(self.stream, lengths, cfg.batch.tokens, cfg.data_seed)
        )
        if self.packed is not None and self.packed.dropped > MUCH:
            self.warnings.append(
                f"batch.packing={cfg.batch.packing}: {self.packed}: documents are long for rows of {self.context} "
                "tokens; best_fit or stream keeps more"
            )

    def sequences(self, length: int) -> packing.NumberedRows:
        """Training sequences of a length, as batch.packing makes them."""
        return packing.KINDS[self._cfg.batch.packing](self.stream, length, self._cfg.data_seed)

    @property
    def texts(self) -> Mapping[str, TextDataset]:
        return {"": self}

    @property
    def tokenizer(self) -> Tokenizer:
        return self.shards.tokenizer

    @property
    def bytes_per_token(self) -> float | None:
        return None if self.lossy else self.val_bytes / (self.val_tokens - 1)

    @functools.cached_property
    def opening(self) -> str:
        start = self.shards.val[: 4 * OPENING].tolist()
        text = self.tokenizer.decode([token for token in start if token != self.shards.eot])
        lines = ("".join(filter(str.isprintable, line)).strip() for line in text.replace("\ufffd", "").splitlines())
        line = next(filter(None, lines), "")
        return line if len(line) <= OPENING else line[: OPENING + 1].rpartition(" ")[0].strip() or line[:OPENING]

    def floors(self) -> dict[str, float]:
        return {} if self.lossy else floors(self.shards)

    def validation(self, rows: int, limit: int | None = None, times: int = 1) -> Iterator[Batch]:
        sequences = -(-(self.val_tokens - 1) // (self.context * times))
        return self._in_batches(sequences, lambda chosen: self._val(chosen, times), rows, limit, times)

    def _val(self, chosen: Places, times: int) -> Examples:
        """Some sequences of `times` contexts of the validation text, by number."""
        length = self.context * times
        self.shards.check("val", chosen * length, length + 1)
        places = chosen[:, None] * length + np.arange(length + 1)
        inside = np.minimum(places, self.val_tokens - 1)
        windows = self.shards.val[inside].astype(np.int64)
        targets = np.where(places[:, 1:] < self.val_tokens, windows[:, 1:], IGNORED)
        return Examples(np.ascontiguousarray(windows[:, :-1]), targets)

    def _documents(self, tokens: Table) -> Tensor | None:
        eot = self.shards.eot
        if not self._cfg.batch.document_mask or eot is None:
            return None
        return torch.from_numpy(batches.documents(tokens, eot))


class MixtureDataset(RowsDataset):
    """Several corpora (`mixture`): rows drawn by weight, one validation set after the other."""

    parts: Mapping[str, TextDataset]

    def __init__(
        self, cfg: RunConfig, source: mixture.Mixture, shards: Mapping[str, Shards], warnings: list[str]
    ) -> None:
        super().__init__(cfg)
        parts = {name: _part_of(cfg, name, own) for name, own in shards.items()}
        self.parts, self.weights = parts, source.weights
        self._first = next(iter(parts.values()))
        self.vocab_size, self.fingerprint = self._first.vocab_size, mixture.name_of(source, shards)
        self.train_tokens = sum(part.train_tokens for part in parts.values())
        self.val_tokens = 1 + sum(part.val_tokens - 1 for part in parts.values())
        self.val_bytes = sum(part.val_bytes for part in parts.values())
        self.lossy = next((f"{name}: {part.lossy}" for name, part in parts.items() if part.lossy), "")
        self.ends = self._first.ends
        self.warnings = [*warnings, *(f"{name}: {line}" for name, part in parts.items() for line in part.warnings)]
        weights = list(self.weights.values())

        def mixed(length: int) -> packing.NumberedRows:
            return mixture.Mixed([part.sequences(length) for part in parts.values()], weights, cfg.data_seed)

        self.rows = rows_of(cfg, mixed)

    @property
    def texts(self) -> Mapping[str, TextDataset]:
        return self.parts

    @property
    def tokenizer(self) -> Tokenizer:
        return self._first.tokenizer

    @property
    def opening(self) -> str:
        return self._first.opening

    def floors(self) -> dict[str, float]:
        """By weight of those of the corpora, each fitted on its own training tokens."""
        each = {name: part.floors() for name, part in self.parts.items()}
        kinds = next(iter(each.values()))
        if not all(each.values()):
            return {}
        return {kind: sum(self.weights[name] * own[kind] for name, own in each.items()) for kind in kinds}

    def validation(self, rows: int, limit: int | None = None, times: int = 1) -> Iterator[Batch]:
        for name, part in self.parts.items():
            yield from part.validation(rows, share(limit, self.weights[name]), times)

    def _documents(self, tokens: Table) -> Tensor | None:
        return self._first._documents(tokens)


def share(limit: int | None, weight: float) -> int | None:
    """The part of a limit that a source of a mixture has; None: no limit."""
    return None if limit is None else max(1, round(limit * weight))


class SyntheticDataset(Dataset):
    """Sequences of a synthetic task."""

    is_text = False

    def __init__(self, cfg: RunConfig, source: Synthetic) -> None:
        super().__init__(cfg)
        if cfg.batch.document_mask:
            raise ConfigError("batch.document_mask=true needs text: each row of data=synthetic is one document")
        self._plan: TaskSizes = source.plan(self.context)
        self.vocab_size = self._plan.vocab_size
        self.fingerprint = "-".join(map(str, self._plan))
        self.train_tokens = 0
        self._val_rows = source.val_sequences
        self.val_tokens = self._val_rows * self.context
        self.val_bytes = 0
        self.warnings = []

    def _train(self, step: int, start: int, stop: int) -> Examples:
        tokens, targets = self._step(step)
        return Examples(tokens[start:stop], targets[start:stop])

    @functools.lru_cache(maxsize=2)  # noqa: B019 - the dataset lives as long as its run
    def _step(self, step: int) -> Examples:
        return self._plan.examples(self._cfg.data_seed, step, self._cfg.batch_sizes.rows(step))

    def validation(self, rows: int, limit: int | None = None, times: int = 1) -> Iterator[Batch]:
        tokens, targets = self._validation(times)
        return self._in_batches(
            self._val_rows, lambda chosen: Examples(tokens[chosen], targets[chosen]), rows, limit, times
        )

    @functools.lru_cache(maxsize=2)  # noqa: B019 - the dataset lives as long as its run
    def _validation(self, times: int) -> Examples:
        return self._plan.longer(times).examples(VALIDATION, 0, self._val_rows)


def open_dataset(cfg: RunConfig, progress: Progress | None = None, cache_dir: Path | None = None) -> Dataset:
    """The data of a run; its shards are built first if the cache lacks them.

    Args:
        progress: called as progress(what, bytes done, bytes in all or None) while shards are built.
        cache_dir: instead of $GPT_LAB_CACHE or ~/.cache/gpt_lab.

    Raises:
        ConfigError: settings that do not fit together. DataError: the corpus, tokenizer or cache cannot be used.
    """
    source = registry.build("data", cfg.data)
    if isinstance(source, Corpus):
        _check_vocabulary(cfg, source)
        return TextDataset(cfg, open_shards(source, cfg.tokenizer, progress, cache_dir))
    if isinstance(source, Synthetic):
        return SyntheticDataset(cfg, source)
    if isinstance(source, mixture.Mixture):
        return MixtureDataset(cfg, source, *mixture.open_mixture(source, cfg.tokenizer, progress, cache_dir))
    if isinstance(source, RowsSource):
        return source.dataset(cfg)
    raise ConfigError(
        f"data={cfg.data['name']} is neither a gpt_lab.data.corpus.Corpus nor synthetic, and has no `dataset`"
    )


def _part_of(cfg: RunConfig, name: str, shards: Shards) -> TextDataset:
    """The data set of one source.

    Raises:
        DataError: as TextDataset; the line has the source's name.
    """
    try:
        return TextDataset(cfg, shards)
    except DataError as error:
        raise DataError(f"data.sources.{name}: {error}") from error


def _check_vocabulary(cfg: RunConfig, source: Corpus) -> None:
    """Refuses a vocabulary that the text cannot fill: each merge of a byte-level BPE takes the place of two tokens.

    Raises:
        ConfigError: the line has the largest size that could be filled.
    """
    wanted, size = cfg.tokenizer.get("vocab_size"), source.size()
    if wanted is None or size is None or cfg.data["name"] not in UNPACKED:
        return
    most = 257 + size // 2
    if wanted > most:
        raise ConfigError(
            f"tokenizer.vocab_size={wanted} is more than {size:,} bytes of text can fill: lower it, far below {most:,}"
        )
