"""Mixtures: several corpora with one tokenizer, from which rows are drawn by weight.

Of each SHARE neighbouring rows of a run every corpus has its share to the row, in an order keyed by the seed; within a
corpus rows follow one another as without the others. So row s of the run is a pure function of the seed and s.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gpt_lab import registry
from gpt_lab.data.batches import philox_key
from gpt_lab.data.corpus import Corpus
from gpt_lab.data.packing import NumberedRows, Statistics
from gpt_lab.data.shard_cache import Progress, build_once, cache_folder
from gpt_lab.data.shards import Shards, counted, fingerprint, kind_of, open_shards
from gpt_lab.data.tokenizers.tokenizer import Tokenizer
from gpt_lab.digests import Damaged, check_sums, write_sums
from gpt_lab.errors import ConfigError
from gpt_lab.options import WEIGHT, Sources
from gpt_lab.registry import register

SHARE = 1024
"""Rows of which each corpus has its share."""
SHARE_KEYS = 1 << 63
"""Where the counters of keys for the order of corpora begin; those of epochs count from 0."""
Ints = np.ndarray[Any, Any]


@register("data", "mix")
class Mixture:
    """Several corpora, rows drawn from each by its weight; validation on each, and on all by weight.

    Paper: Gao et al. 2020, arXiv:2101.00027

    A tokenizer that is fitted learns from the training text of all, as much of each as its weight says while it lasts.

    sources: each corpus under a name of one's own with its weight, relative to the others' and 1 if it is not given,
      such as {plays: {name: shakespeare, weight: 3}, code: {name: stdlib}}.
    """

    def __init__(self, *, sources: Sources) -> None:
        self.corpora: dict[str, Corpus] = {}
        for name, settings in sources.items():
            source = registry.build("data", {key: value for key, value in settings.items() if key != WEIGHT})
            if not isinstance(source, Corpus):
                raise ConfigError(f"data.sources.{name}.name={settings['name']} is no text, and data=mix mixes texts")
            self.corpora[name] = source
        total = sum(settings.get(WEIGHT, 1.0) for settings in sources.values())
        self.weights: dict[str, float] = {name: settings.get(WEIGHT, 1.0) / total for name, settings in sources.items()}
        """Shares of the rows; their sum is 1."""
        rows = np.bincount(_template(list(self.weights.values())), minlength=len(sources))
        for name, number in zip(sources, rows, strict=True):
            if not number:
                raise ConfigError(
                    f"data.sources.{name}.weight is less than one row in {SHARE} of the mixture: raise it"
                )


class Mixed(NumberedRows):
    """Rows drawn from several corpora.

    Args:
        parts: sequences of one length. weights: share of each, the sum 1.
    """

    def __init__(self, parts: Sequence[NumberedRows], weights: Sequence[float], seed: int) -> None:
        self._parts, self._weights, self._seed = parts, weights, seed
        self.length = parts[0].length
        self._template = _template(weights)
        self._each = np.bincount(self._template, minlength=len(parts))
        self._made: tuple[int, Ints] = (-1, self._template)

    def take(self, first: int, number: int) -> tuple[Ints, Ints]:
        inputs, targets = (np.empty((number, self.length), np.int64) for _ in range(2))
        done = 0
        while done < number:
            block, at = divmod(first + done, SHARE)
            chosen = self._block(block)[at : at + number - done]
            before = block * self._each + np.bincount(self._block(block)[:at], minlength=len(self._parts))
            for part, sequences in enumerate(self._parts):
                rows = done + np.flatnonzero(chosen == part)
                if len(rows):
                    inputs[rows], targets[rows] = sequences.take(int(before[part]), len(rows))
            done += len(chosen)
        return inputs, targets

    def statistics(self) -> Statistics:
        each = [part.statistics() for part in self._parts]
        return Statistics(*np.average(np.array(each), axis=0, weights=self._weights).tolist())

    def _block(self, block: int) -> Ints:
        """The corpus of each row of a block."""
        if self._made[0] != block:
            generator = np.random.Generator(np.random.Philox(key=philox_key(self._seed, SHARE_KEYS + block)))
            self._made = block, generator.permutation(self._template)
        return self._made[1]


def _template(weights: Sequence[float]) -> Ints:
    """The corpora of SHARE rows, by number, in order."""
    ends = np.cumsum(weights)
    return np.searchsorted(ends[:-1], (np.arange(SHARE) + 0.5) / SHARE, side="right")


def open_mixture(
    mixture: Mixture, settings: Mapping[str, Any], progress: Progress | None = None, cache: Path | None = None
) -> tuple[dict[str, Shards], list[str]]:
    """The shards of each corpus under one tokenizer, which is fitted on all of them first if it is fitted at all.

    Returns:
        Shards by name, and what fitting had to say.

    Raises:
        DataError: as `open_shards`; the line names the corpus by its files.
    """
    fitted, warnings = None, list[str]()
    if registry.load("tokenizer", settings["name"]).fits != "nothing":
        fitted, warnings = _fitted(mixture, settings, progress, cache)
    found = {name: open_shards(own, settings, progress, cache, fitted) for name, own in mixture.corpora.items()}
    return found, warnings


def name_of(mixture: Mixture, shards: Mapping[str, Shards]) -> str:
    """The fingerprint of a mixture: of the shards of each corpus, and the weights."""
    return fingerprint([[name, own.fingerprint, mixture.weights[name]] for name, own in shards.items()])


def _fitted(
    mixture: Mixture, settings: Mapping[str, Any], progress: Progress | None, cache: Path | None
) -> tuple[Path, list[str]]:
    """The folder of a tokenizer that was fitted on a mixture, and what fitting it had to say."""
    report = progress or (lambda phase, done, total: None)
    recipe = dict(registry.load("tokenizer", settings["name"]).identity(settings))
    own = [[name, mixture.weights[name], kind_of(one), one.identity()] for name, one in mixture.corpora.items()]
    folder = (cache or cache_folder()) / fingerprint("mix", own, recipe)

    def build(temporary: Path) -> None:
        tokenizer = registry.build("tokenizer", settings)
        warnings = tokenizer.fit(_texts(mixture, tokenizer, report))
        tokenizer.save(temporary / "tokenizer")
        (temporary / "meta.json").write_text(json.dumps({"warnings": warnings}), encoding="utf-8")
        write_sums(temporary)

    def opened(path: Path, built: bool) -> list[str]:
        check_sums(path)
        try:
            warnings: list[str] = json.loads((path / "meta.json").read_bytes())["warnings"]
        except (ValueError, KeyError, TypeError) as error:
            raise Damaged("meta.json is of another version of the lab") from error
        return warnings

    warnings, damage = build_once(folder, opened, build, report, "tokenizer's files")
    return folder, [damage, *warnings] if damage else warnings


def _texts(mixture: Mixture, tokenizer: Tokenizer, report: Progress) -> Iterator[str]:
    """The text that the tokenizer is fitted on, of each corpus in proportion to its weight until it ends."""
    left: dict[str, Iterator[str]] = {}
    for name, corpus in mixture.corpora.items():
        passages = counted(corpus.passages(), f"fitting the tokenizer, {name}", corpus.size(), report)
        left[name] = (one.text for one in passages if tokenizer.fits == "all" or one.split == "train")
    read = dict.fromkeys(left, 0)
    while left:
        name = min(left, key=lambda one: read[one] / mixture.weights[one])
        text = next(left[name], None)
        if text is None:
            del left[name]
            continue
        read[name] += len(text)
        yield text
