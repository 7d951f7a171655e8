"""The data of a run: tokenized text, mixtures of it, synthetic tasks.

Legend: B rows, T context.
"""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gpt_lab import registry
from gpt_lab.config.schema import RunConfig
from gpt_lab.data import batches, mixture, packing
from gpt_lab.data.base import Batch, Dataset, Places, RowsSource, Table
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
VALIDATION = 2**64 - 1
"""Key of synthetic validation sequences: a seed that no run can have, so that every run is validated alike."""


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
