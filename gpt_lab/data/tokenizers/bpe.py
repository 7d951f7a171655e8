"""Byte-pair encoding (Sennrich et al. 2016, arXiv:1508.07909), written to be read: trainer and encoder.

The result equals the Hugging Face library's `BpeTrainer` for the same pre-tokenisation: the same merges in the same
order and the same token numbers. A test holds the two against each other on Shakespeare.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import regex

from gpt_lab.data.tokenizers.as_library import of_bytes
from gpt_lab.data.tokenizers.byte_level import BYTE_ORDER
from gpt_lab.data.tokenizers.tokenizer import EOT, Tokenizer, head, unfilled
from gpt_lab.errors import ConfigError, DataError
from gpt_lab.options import PositiveInt
from gpt_lab.registry import register

Pair = tuple[int, int]

WORD = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")
"""GPT-2's pre-tokenisation (Radford et al. 2019): merges never cross the border of two of these words."""
MIN_COUNT = 2
"""A pair that occurs only once is not merged."""
_TOKEN_OF_BYTE = {byte: token for token, byte in enumerate(BYTE_ORDER)}
CACHED_WORDS = 1 << 18


@register("tokenizer", "bpe_scratch")
class ScratchBPE(Tokenizer):
    """Byte-level BPE in plain Python, to read and to change: same merges as tokenizer=bpe, some 10 times slower.

    Paper: Sennrich et al. 2015, arXiv:1508.07909

    vocab_size: 256 bytes, the merges, and the end of text (the last token); fewer if the corpus cannot fill it.
    fit_chars: merges are learnt on the first so many characters of the training text.
    """

    fits = "train"

    def __init__(self, *, vocab_size: PositiveInt = 512, fit_chars: PositiveInt = 100_000_000) -> None:
        self._wanted, self._fit_chars = check_vocab_size(vocab_size), fit_chars
        self._learn([])

    def _learn(self, merges: Sequence[Pair]) -> None:
        self.merges = list(merges)
        self._rank = {pair: rank for rank, pair in enumerate(merges)}
        self._bytes = [bytes((byte,)) for byte in BYTE_ORDER]
        for left, right in merges:
            self._bytes.append(self._bytes[left] + self._bytes[right])
        self.eot = len(self._bytes)
        self._bytes.append(EOT.encode())
        self.vocab_size = len(self._bytes)
        self._words: dict[str, tuple[int, ...]] = {}

    def fit(self, texts: Iterable[str]) -> list[str]:
        words: Counter[str] = Counter()
        for text in head(texts, self._fit_chars):
            words.update(WORD.findall(text))
        if not words:
            raise DataError("tokenizer=bpe_scratch cannot be fitted: there is no training text")
        self._learn(learn_merges(words, self._wanted - 257))
        return unfilled(self._wanted, self.vocab_size)

    def encode(self, text: str) -> list[int]:
        words = self._words
        ids: list[int] = []
        for word in WORD.findall(text):
            tokens = words.get(word)
            if tokens is None:
                tokens = self._encode_word(word)
                if len(words) < CACHED_WORDS:
                    words[word] = tokens
            ids.extend(tokens)
        return ids

    def _encode_word(self, word: str) -> tuple[int, ...]:
        """Applies the merges to one word, earliest learnt first."""
        tokens = bytes_to_tokens(word)
        never = len(self._rank)
        while len(tokens) > 1:
            best = min(itertools.pairwise(tokens), key=lambda pair: self._rank.get(pair, never))
            rank = self._rank.get(best)
            if rank is None:
                break
            tokens = merge(tokens, best, 256 + rank)
        return tuple(tokens)

    def decode_bytes(self, ids: list[int]) -> bytes:
        return b"".join([self._bytes[i] for i in ids])

    def as_library(self) -> Any:
        names = {piece: token for token, piece in enumerate(self._bytes[: self.eot])}
        pairs = [(self._bytes[left], self._bytes[right]) for left, right in self.merges]
        return of_bytes(names, pairs, WORD.pattern, self.eot)

    def state(self) -> Mapping[str, Any]:
        return {"merges": self.merges}

    @classmethod
    def from_state(cls, state: Mapping[str, Any], folder: Path) -> Self:
        made = cls(vocab_size=257 + len(state["merges"]))
        made._learn([(left, right) for left, right in state["merges"]])
        return made


def learn_merges(words: Mapping[str, int], number: int) -> list[Pair]:
    """The `number` pairs that BPE merges, in order; fewer if no pair occurs MIN_COUNT times any more.

    The most frequent pair is merged next; of equally frequent ones, that of the smallest token numbers. Counts are
    kept up to date by visiting only the words that hold the merged pair.
    """
    tokens = [bytes_to_tokens(word) for word in words]
    counts = list(words.values())
    pair_count: Counter[Pair] = Counter()
    where: defaultdict[Pair, set[int]] = defaultdict(set)
    for i, word in enumerate(tokens):
        for pair in itertools.pairwise(word):
            pair_count[pair] += counts[i]
            where[pair].add(i)
    # The heap may hold outdated counts; an entry is believed only if it still agrees with pair_count.
    queue = [(-count, pair) for pair, count in pair_count.items()]
    heapq.heapify(queue)
    merges: list[Pair] = []
    while queue and len(merges) < number:
        negative, best = heapq.heappop(queue)
        count = pair_count[best]
        if count < MIN_COUNT:
            continue
        if count != -negative:
            heapq.heappush(queue, (-count, best))
            continue
        new = 256 + len(merges)
        merges.append(best)
        grown: set[Pair] = set()
        for i in where.pop(best):
            before = tokens[i]
            after = merge(before, best, new)
            for pair in itertools.pairwise(before):
                pair_count[pair] -= counts[i]
            for pair in itertools.pairwise(after):
                pair_count[pair] += counts[i]
                if new in pair:
                    where[pair].add(i)
                    grown.add(pair)
            tokens[i] = after
        for pair in grown:
            heapq.heappush(queue, (-pair_count[pair], pair))
    return merges


def merge(tokens: Sequence[int], pair: Pair, new: int) -> list[int]:
    """The tokens with each `pair`, from the left, replaced by `new`."""
    merged: list[int] = []
    i = 0
    while i < len(tokens):
        if i + 1 < len(tokens) and (tokens[i], tokens[i + 1]) == pair:
            merged.append(new)
            i += 2
        else:
            merged.append(tokens[i])
            i += 1
    return merged


def bytes_to_tokens(word: str) -> list[int]:
    """The tokens of a word's bytes before any merge."""
    return [_TOKEN_OF_BYTE[byte] for byte in word.encode()]


def check_vocab_size(vocab_size: int) -> int:
    """The size, if a byte-level BPE can have it.

    Raises:
        ConfigError: too small for 256 bytes and the end of text.
    """
    if vocab_size < 257:
        raise ConfigError(f"tokenizer.vocab_size must be at least 257 (256 bytes, end of text), not {vocab_size}")
    return vocab_size
