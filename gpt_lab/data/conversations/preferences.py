"""Pairs of answers, one better than the other: what objective=dpo learns from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from gpt_lab.config.schema import RunConfig
from gpt_lab.data.base import Batch, Dataset
from gpt_lab.data.chat_template import ChatTemplate, Message, Rendered, checked
from gpt_lab.data.conversations import dialogues
from gpt_lab.data.conversations.chat import (
    Sides,
    fitted_tokenizer,
    hold_out,
    numbers_of,
    read,
    refuse_rows,
    rows_of_conversations,
)
from gpt_lab.data.synthetic import IGNORED, Examples
from gpt_lab.data.tokenizers.tokenizer import Tokenizer
from gpt_lab.errors import ConfigError, DataError
from gpt_lab.options import NonEmpty, Probability
from gpt_lab.registry import register

Pair = Mapping[str, Any]
"""`prompt` (messages), `chosen` and `rejected` (what the assistant says)."""


@register("data", "preferences")
class Preferences:
    """Pairs of answers, one a line: {"prompt": ..., "chosen": ..., "rejected": ...}; for objective=dpo.

    Reference: https://huggingface.co/docs/trl/dataset_formats#preference (the form of a line)

    The prompt is text, or messages; the answers are text. A step has both answers of batch.tokens / scale.context / 2
    pairs, each a row. A pair that is longer than the context is left out, and a line says how many.

    path: a file of JSON lines (null: sums that the lab makes, the rejected answer a wrong one).
    val_path: the same for validation (null: val_fraction of `path` is held out).
    val_fraction: share of the pairs held out, by their content.
    """

    def __init__(
        self, *, path: NonEmpty | None = None, val_path: NonEmpty | None = None, val_fraction: Probability = 0.1
    ) -> None:
        if path is None and val_path is not None:
            raise ConfigError("data.val_path needs data.path: the lab's own are split by data.val_fraction")
        self.path, self.val_path, self.val_fraction = path, val_path, val_fraction

    def dataset(self, cfg: RunConfig) -> Dataset:
        """The data of a run."""
        found = list(_sums()) if self.path is None else read(self.path, "data.path", _pair)
        if self.val_path is not None:
            return PairDataset(cfg, Sides(found, read(self.val_path, "data.val_path", _pair)))
        return PairDataset(cfg, hold_out(found, self.val_fraction))


def _pair(value: Any) -> Pair:
    if not isinstance(value, Mapping) or not all(isinstance(value.get(k), str) for k in ("chosen", "rejected")):
        raise DataError('a pair must be {"prompt": ..., "chosen": ..., "rejected": ...}, the answers text')
    prompt = value.get("prompt")
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else checked(prompt)
    if value["chosen"].strip() == value["rejected"].strip():
        raise DataError("chosen and rejected are the same: nothing can be learnt from them")
    return {"prompt": messages, "chosen": value["chosen"], "rejected": value["rejected"]}


def _sums() -> Iterator[Pair]:
    """Each sum of the lab's conversations, with an answer that is off by 1 to 3."""
    for question, right in dialogues.conversations("arithmetic"):
        off = 1 + hashlib.blake2b(question["content"].encode()).digest()[0] % 3
        wrong = str(int(right["content"]) + off)
        yield {"prompt": [question], "chosen": right["content"], "rejected": wrong}


class PairDataset(Dataset):
    """Rows 2 i and 2 i + 1 of a batch are what was chosen and what was rejected; targets are the answers' tokens."""

    is_text = False
    rows_are = "pairs"

    def __init__(self, cfg: RunConfig, sides: Sides) -> None:
        super().__init__(cfg)
        refuse_rows(cfg)
        if cfg.rows % 2 or cfg.batch.start is not None:
            raise ConfigError(
                f"data=preferences needs two rows for each pair: make batch.tokens an even number of contexts "
                f"({2 * self.context} is one pair), without batch.start"
            )
        self._tokenizer, self.warnings = fitted_tokenizer(cfg, sides)
        self.template = self._template = ChatTemplate(self._tokenizer)
        self.vocab_size = self._tokenizer.vocab_size
        self._sides = [self._table(name, side) for name, side in zip(Sides._fields, sides, strict=True)]
        train, val = self._sides
        self.train_tokens = int((train.targets != IGNORED).sum())
        self.val_tokens = 1 + len(val.tokens) // 2  # what validation counts are pairs
        self.val_bytes = 0
        digest = hashlib.sha256()
        for side in self._sides:
            for array in side:
                digest.update(np.ascontiguousarray(array).tobytes())
        self.fingerprint = digest.hexdigest()[:16]

    def _table(self, name: str, pairs: Sequence[Pair]) -> Examples:
        """Both rows of each pair that fits."""
        both = []
        for pair in pairs:
            for answer in (pair["chosen"], pair["rejected"]):
                said: list[Message] = [*pair["prompt"], {"role": "assistant", "content": answer}]
                ids, _ = self._template.with_answers(said)
                asked = len(self._template.render(pair["prompt"], add_generation_prompt=True))
                both.append((ids, [place >= asked for place in range(len(ids))]))
        fits = [max(len(both[i][0]), len(both[i + 1][0])) <= self.context for i in range(0, len(both), 2)]
        if not any(fits):
            raise DataError(f"no {name} pair fits into scale.context={self.context}: raise it")
        if not all(fits):
            self.warnings.append(
                f"{fits.count(False):,} of {len(fits):,} {name} pairs are longer than scale.context={self.context}: "
                "they are left out"
            )
        kept = [Rendered(*both[2 * i + side]) for i, fit in enumerate(fits) if fit for side in (0, 1)]
        return rows_of_conversations(kept, self.context, self._template.stop, packed=False)

    @property
    def tokenizer(self) -> Tokenizer:
        return self._tokenizer

    def validation(self, rows: int, limit: int | None = None, times: int = 1) -> Iterator[Batch]:
        tokens, targets = self._sides[1]
        pairs = len(tokens) // 2
        number = pairs if limit is None else min(pairs, max(1, round(limit / (2 * self.context))))
        chosen = np.arange(number) * pairs // number
        each = max(1, rows // 2)
        for start in range(0, number, each):
            taken = (2 * chosen[start : start + each, None] + np.arange(2)).flatten()
            yield self._pack(Examples(tokens[taken], targets[taken]))

    def _train(self, step: int, start: int, stop: int) -> Examples:
        tokens, targets = self._sides[0]
        rows = np.arange(start, stop)
        pairs = numbers_of(len(tokens) // 2, self._cfg.data_seed, self._cfg.batch_sizes.first(step) // 2 + rows // 2)
        chosen = 2 * pairs + rows % 2
        return Examples(tokens[chosen], targets[chosen])
