"""Continuations of different lengths read together: rows join and leave at any step (continuous batching).

Shapes: V vocabulary.

Paper: Yu et al. 2022, Orca (OSDI '22)
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import torch
from torch import Tensor

from gpt_lab.errors import ConfigError, LabError
from gpt_lab.infer.cache import Cache
from gpt_lab.infer.generate import next_logits
from gpt_lab.model.gpt import GPT


class Batch:
    """The rows that a model reads together, each under a key of the caller's; no sampling in it.

    The model is to be in eval mode while rows are read.

    Raises:
        LabError: logits that are not finite.
    """

    def __init__(self, model: GPT) -> None:
        self._model = model
        self._device = next(model.parameters()).device
        self._rows: dict[Hashable, _Row] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._rows

    @property
    def nbytes(self) -> int:
        """Bytes of keys, values and states of all rows."""
        return sum(row.cache.nbytes for row in self._rows.values())

    def add(self, prompt_ids: Sequence[int], key: Hashable) -> Tensor:
        """Reads a prompt as a new row; logits (V,) in fp32 of the token after it.

        Raises:
            ConfigError: an empty prompt, or tokens outside the vocabulary.
        """
        if key in self._rows:
            raise LabError(f"the batch has a row {key!r} already")
        if not prompt_ids:
            raise ConfigError("the prompt is empty: give at least one token to continue from")
        if not 0 <= min(prompt_ids) <= max(prompt_ids) < self._model.vocab_size:
            raise ConfigError(f"the prompt has tokens outside the model's vocabulary of {self._model.vocab_size}")
        row = _Row(torch.tensor([list(prompt_ids)], device=self._device))
        logits_V = next_logits(self._model, row.tokens_1T, row.cache)[0]
        self._rows[key] = row
        return logits_V

    def step(self, tokens: Mapping[Hashable, int]) -> dict[Hashable, Tensor]:
        """Reads one new token of each named row; logits (V,) in fp32 of the token after it, by key."""
        found: dict[Hashable, Tensor] = {}
        for key, token in tokens.items():
            row = self._rows[key]
            row.tokens_1T = torch.cat((row.tokens_1T, row.tokens_1T.new_full((1, 1), token)), dim=1)
            found[key] = next_logits(self._model, row.tokens_1T, row.cache)[0]
        return found

    def remove(self, key: Hashable) -> None:
        """Forgets a row."""
        del self._rows[key]


class _Row:
    def __init__(self, tokens_1T: Tensor) -> None:
        self.tokens_1T = tokens_1T
        self.cache = Cache()
