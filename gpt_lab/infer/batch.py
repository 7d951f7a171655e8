"""Continuations of different lengths read together: rows join and leave at any step (continuous batching).

Shapes: V vocabulary.

Paper: Yu et al. 2022, Orca (OSDI '22)
"""

from __future__ import annotations

import copy
from collections.abc import Hashable, Mapping, Sequence

import torch
from torch import Tensor

from gpt_lab.errors import LabError
from gpt_lab.infer.cache import Cache, JoinedCache
from gpt_lab.infer.generate import check_finite, check_prompt, context_limit, next_logits
from gpt_lab.model.gpt import GPT


class Batch:
    """The rows that a model reads together, each under a key of the caller's; no sampling in it.

    One forward pass reads a token of each row, wherever the rows are. Rows are read one by one where a part of the
    model does not say that it takes rows at different positions (`by_row`), where an attention keeps no state, and
    beyond the training context of an encoding that has no positions there.

    The model is to be in eval mode while rows are read.
    """

    def __init__(self, model: GPT) -> None:
        self._model = model
        self._device = next(model.parameters()).device
        self._limit = context_limit(model)
        self._joins = joins(model)
        self._joined = JoinedCache()
        self._order: list[Hashable] = []
        self._alone: dict[Hashable, tuple[list[int], Cache]] = {}
        self._texts: dict[Hashable, list[int]] = {}

    def __len__(self) -> int:
        return len(self._texts)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._texts

    @property
    def nbytes(self) -> int:
        """Bytes of keys, values and states of all rows."""
        return self._joined.nbytes + sum(cache.nbytes for _, cache in self._alone.values())

    @property
    def together(self) -> int:
        """How many of the rows are read in one forward pass."""
        return len(self._order)

    def add(self, prompt_ids: Sequence[int], *keys: Hashable) -> Tensor:
        """Reads a prompt as a new row, or as several, one for each key; logits (V,) in fp32 of the token after it.

        Raises:
            ConfigError: an empty prompt, or tokens outside the vocabulary; a model that continues no text.
            LabError: a key that there is already; logits that are not finite.
        """
        for key in keys:
            if key in self._texts:
                raise LabError(f"the batch has a row {key!r} already")
        check_prompt(self._model, prompt_ids)
        cache = Cache()
        logits_1V = next_logits(self._model, torch.tensor([list(prompt_ids)], device=self._device), cache)
        fits = self._joins and cache.usable and cache.seen == len(prompt_ids)
        for key in keys:
            joined = fits and self._join(cache)
            self._texts[key] = list(prompt_ids)
            if joined:
                self._order.append(key)
            else:
                self._alone[key] = self._texts[key], copy.deepcopy(cache)
        return logits_1V[0]

    def step(self, tokens: Mapping[Hashable, int]) -> dict[Hashable, Tensor]:
        """Reads one new token of each named row; logits (V,) in fp32 of the token after it, by key, whatever they are.

        After an error the rows cannot be read any more.
        """
        return dict(zip(tokens, self._read(tokens), strict=True)) if tokens else {}

    def read(self, tokens: Mapping[Hashable, int]) -> Tensor:
        """As `step`, of one row or more, with the logits in one tensor (L, V), in the order of `tokens`.

        Raises:
            LabError: logits that are not finite.
        """
        logits_LV = self._read(tokens)
        check_finite(logits_LV)
        return logits_LV

    def _read(self, tokens: Mapping[Hashable, int]) -> Tensor:
        for key, token in tokens.items():
            self._texts[key].append(token)
            if key not in self._alone and self._limit is not None and len(self._texts[key]) > self._limit:
                self._leave(key)
                self._alone[key] = self._texts[key], Cache()
        rows = [row for row, key in enumerate(self._order) if key in tokens]
        keys = [self._order[row] for row in rows]
        found: list[Tensor] = []
        if rows:
            tokens_B1 = torch.tensor([[tokens[key]] for key in keys], device=self._device)
            found.append(self._joined.step(self._model, rows, tokens_B1))
        for key in tokens:
            if key in self._alone:
                text, cache = self._alone[key]
                found.append(next_logits(self._model, torch.tensor([text], device=self._device), cache, check=False))
                keys.append(key)
        logits_LV = found[0] if len(found) == 1 else torch.cat(found)
        if keys == list(tokens):
            return logits_LV
        place = {key: row for row, key in enumerate(keys)}
        return logits_LV[[place[key] for key in tokens]]

    def remove(self, key: Hashable) -> None:
        """Forgets a row; another one takes its memory."""
        del self._texts[key]
        if key in self._alone:
            del self._alone[key]
        else:
            self._leave(key)

    def _join(self, cache: Cache) -> bool:
        try:
            return self._joined.add(cache)
        except Exception:  # no memory for one more row: some layers may have it, so each row is read anew, alone
            self._alone |= {key: (self._texts[key], Cache()) for key in self._order}
            self._joined, self._order = JoinedCache(), []
            raise

    def _leave(self, key: Hashable) -> None:
        row = self._order.index(key)
        self._joined.remove(row)
        self._order[row] = self._order[-1]
        self._order.pop()


def joins(model: GPT) -> bool:
    """Whether every part of the model says that it takes rows at different positions."""
    parts = [model.position, *model.blocks, *(getattr(block, "attention", None) for block in model.blocks)]
    parts += [model.position.at(layer) for layer in range(len(model.order))]
    return all(getattr(part, "by_row", False) for part in parts if part is not None)
