"""What tokenizers make of a corpus: compression, how evenly tokens are used, speed.

A tokenizer that is fitted learns from the training text. Compression is that of the held-out text, ends of documents
included; how tokens are used is counted on the training text without them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from gpt_lab.data.corpus import Corpus
from gpt_lab.data.shard_cache import Progress
from gpt_lab.data.shards import Shards, open_shards

ALPHA = 2.5
"""The order of Rényi entropy that goes best with translation quality in Zouhar et al. 2023."""
TIMED, LEAST = 2 << 20, 0.2
"""Characters of held-out text whose encoding is timed, and for how many seconds at the least."""


@dataclass(frozen=True)
class Measured:
    """A tokenizer on a corpus.

    Fields:
        vocabulary: its tokens, the end of text included.
        bytes_per_token: UTF-8 bytes of held-out text, over its tokens and ends of documents.
        renyi: Rényi efficiency of the tokens of the training text.
        unused: share of the vocabulary that the training text does not use.
        mb_per_s: text encoded in a second, in MB, the library's threads included.
        lossy: what does not come back from the tokens; "" if every byte does.
    """

    tokenizer: str
    corpus: str
    vocabulary: int
    bytes_per_token: float
    renyi: float
    unused: float
    mb_per_s: float
    lossy: str


def measure(
    corpus: Corpus, settings: Mapping[str, Any], progress: Progress | None = None, cache: Path | None = None
) -> Measured:
    """A tokenizer with these settings on a corpus, whose shards are built if they are not there.

    Raises:
        DataError: as `open_shards`.
    """
    shards = open_shards(corpus, settings, progress, cache)
    counts = token_counts(shards)
    val = shards.splits["val"]
    return Measured(
        tokenizer=settings["name"],
        corpus=type(corpus).part[1],  # type: ignore[attr-defined]
        vocabulary=shards.vocab_size,
        bytes_per_token=val["target_bytes"] / (val["tokens"] - 1),
        renyi=renyi_efficiency(counts, shards.vocab_size),
        unused=1 - np.count_nonzero(counts) / (shards.vocab_size - (shards.eot is not None)),
        mb_per_s=_speed(shards),
        lossy=shards.lossy,
    )


def token_counts(shards: Shards) -> np.ndarray[Any, Any]:
    """How often each token of the vocabulary stands in the training text, ends of text not counted: (vocabulary,)."""
    shards.check("train", np.array([0]), len(shards.train))
    counts = np.bincount(shards.train, minlength=shards.vocab_size)
    if shards.eot is not None:
        counts[shards.eot] = 0
    return counts


def renyi_efficiency(counts: np.ndarray[Any, Any], vocabulary: int, alpha: float = ALPHA) -> float:
    """Rényi entropy of the tokens over that of as many tokens equally often, log |V|: 1 is the most even use.

    Zouhar et al. 2023, arXiv:2306.16842: ln(sum p^alpha) / ((1 - alpha) ln |V|); Shannon's for alpha = 1.

    Args:
        counts: how often each token occurs, (V,); those that never do add nothing.
    """
    if vocabulary < 2:
        return math.nan
    p = counts[counts > 0] / counts.sum()
    entropy = -(p * np.log(p)).sum() if alpha == 1 else np.log((p**alpha).sum()) / (1 - alpha)
    return float(entropy / math.log(vocabulary))


def _speed(shards: Shards) -> float:
    tokenizer = shards.tokenizer
    ids = shards.val[: TIMED // 2]
    text = tokenizer.decode(ids[ids != shards.eot].tolist())[:TIMED]
    size, passes, start = len(text.encode()), 0, time.perf_counter()
    while passes == 0 or time.perf_counter() - start < LEAST:
        tokenizer.encode_many([text])
        passes += 1
    return passes * size / (time.perf_counter() - start) / 1e6


def show(rows: Sequence[Measured], console: Console) -> None:
    """A table with a row for each tokenizer and corpus, and what is lost of the text."""
    from rich.box import SIMPLE
    from rich.table import Table

    table = Table(box=SIMPLE, show_edge=False, pad_edge=False)
    for heading in ("tokenizer", "corpus"):
        table.add_column(heading, no_wrap=True)
    for heading in ("vocab", "bytes/token", "Rényi", "unused", "MB/s", "lossy"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        numbers = (
            f"{row.bytes_per_token:.3f}",
            f"{row.renyi:.3f}",
            f"{row.unused:.1%}",
            f"{row.mb_per_s:,.{int(row.mb_per_s < 10)}f}",
        )
        table.add_row(row.tokenizer, row.corpus, f"{row.vocabulary:,}", *numbers, "yes" if row.lossy else "no")
    console.print(table)
    if lossy := {row.tokenizer: row for row in rows if row.lossy}:
        console.print()
    for row in lossy.values():
        console.print(f"data={row.corpus}: {row.lossy}", markup=False, soft_wrap=True)
