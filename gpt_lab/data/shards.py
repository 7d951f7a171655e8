"""Token shards on disk: memory-mapped, built once for each fingerprint of corpus and tokenizer.

The stream of a split is `EOT document EOT document ... EOT`: each document stands between two end-of-text tokens, so
that its first token is predicted from one and its end is learnt. Every target costs nats, ends included, and the bytes
are those of the text: bits per byte are the length of a code from which the documents come back, where they end
included, and so the same thing for every tokenizer. One without an end of text joins documents.

<cache>/<fingerprint>/     built beside its place and renamed into it
  train.bin, val.bin         tokens: little-endian uint16, or uint32 for more than 65536 different ones
  train.crc, val.crc         checksums of their blocks, checked before the first token of a block is used (blocks.py)
  meta.json, tokenizer/      sizes and counts; the tokenizer
  SHA256SUMS                 digests of all but the tokens, checked at every start
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gpt_lab import registry
from gpt_lab.data.blocks import Blocks, checksums
from gpt_lab.data.corpus import Corpus, Passage, Split
from gpt_lab.data.shard_cache import Progress, build_once, cache_folder
from gpt_lab.data.tokenizers.lossless import RoundTrip
from gpt_lab.data.tokenizers.tokenizer import Tokenizer, load_tokenizer
from gpt_lab.digests import SUMS, Damaged, check_sums, write_sums
from gpt_lab.errors import DataError

FORMAT = 2
"""Raised when the same corpus and options give another stream, so that old shards are not taken for new ones."""
BATCH = 4 << 20
"""Characters that are encoded at a time."""
CHECKED = 64 << 20
"""Token streams of up to this many bytes are checked as a whole when they are opened, which takes up to 30 ms."""

Tokens = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Shards:
    """The two token streams of a corpus and what is known of them."""

    folder: Path
    fingerprint: str
    vocab_size: int
    eot: int | None
    warnings: list[str]
    lossy: str
    """What validation text does not come back from its tokens, so that there are no bits per byte; "" if all does."""
    splits: Mapping[str, Mapping[str, int]]
    """For "train" and "val": tokens, text_bytes (UTF-8), lost_bytes of them, target_bytes (less the first token's),
    documents."""
    built: bool
    """Whether this call built them; False: they were there."""
    maps: Mapping[str, Tokens]
    """The bytes of the two streams."""
    blocks: Mapping[str, Blocks]

    @functools.cached_property
    def train(self) -> Tokens:
        """The training stream; of a large one `check` what is used."""
        return self.maps["train"].view(_dtype(self.vocab_size))

    @functools.cached_property
    def val(self) -> Tokens:
        """The validation stream; of a large one `check` what is used."""
        return self.maps["val"].view(_dtype(self.vocab_size))

    def check(self, split: Split, starts: Tokens, length: int) -> None:
        """Holds windows of a stream, of up to `length` tokens each, against the checksums; each block once.

        Raises:
            DataError: one is damaged; the next `open_shards` builds the shards again.
        """
        size, most = _dtype(self.vocab_size).itemsize, self.splits[split]["tokens"]
        at = self.blocks[split].damaged(starts * size, np.minimum(starts + length, most) * size - 1)
        if at is None:
            return
        way = "the same command builds it again, and goes on from the last checkpoint"
        try:
            (self.folder / SUMS).unlink()
        except OSError:
            way = f"remove {self.folder} and repeat the command"
        raise DataError(f"{self.folder / split}.bin is damaged at byte {at}: {way}")

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        return load_tokenizer(self.folder / "tokenizer")


def open_shards(
    corpus: Corpus,
    settings: Mapping[str, Any],
    progress: Progress | None = None,
    cache: Path | None = None,
    fitted: Path | None = None,
) -> Shards:
    """The shards of a corpus under the tokenizer `settings`, built first if they are missing or damaged.

    Several processes that ask at once build them once; the others wait.

    Args:
        fitted: a folder, named by its fingerprint, whose tokenizer/ was fitted already; None: it is fitted here.

    Raises:
        DataError: the corpus or the tokenizer cannot be used, or the cache cannot be written; one line.
    """
    recipe = {"fitted": fitted.name} if fitted else registry.load("tokenizer", settings["name"]).identity(settings)
    name = fingerprint(kind_of(corpus), corpus.identity(), dict(recipe))
    report = progress or (lambda phase, done, total: None)

    def build(temporary: Path) -> None:
        tokenizer = load_tokenizer(fitted / "tokenizer") if fitted else registry.build("tokenizer", settings)
        _build(temporary, name, corpus, tokenizer, f"tokenizer={settings['name']}", report, fit=fitted is None)

    found, damage = build_once((cache or cache_folder()) / name, _opened, build, report, "token shards")
    return replace(found, warnings=[damage, *found.warnings]) if damage else found


def fingerprint(*parts: Any) -> str:
    """Names what comes of these plain values, and of the format of shards."""
    return hashlib.sha256(json.dumps([FORMAT, *parts], sort_keys=True).encode()).hexdigest()[:16]


def kind_of(corpus: Corpus) -> str:
    """The name of a corpus's part."""
    kind: str = type(corpus).part[1]  # type: ignore[attr-defined]
    return kind


def _build(
    folder: Path, fingerprint: str, corpus: Corpus, tokenizer: Tokenizer, name: str, report: Progress, fit: bool
) -> None:
    total = corpus.size()
    warnings = []
    if fit and tokenizer.fits != "nothing":
        texts = (
            passage.text
            for passage in counted(corpus.passages(), "fitting the tokenizer", total, report)
            if tokenizer.fits == "all" or passage.split == "train"
        )
        warnings = tokenizer.fit(texts)
    streams = {split: _Stream(folder / f"{split}.bin", tokenizer) for split in ("train", "val")}
    with contextlib.ExitStack() as stack:
        for stream in streams.values():
            stack.enter_context(stream)
        for batch in _batches(counted(corpus.passages(), "encoding", total, report)):
            raw = [_utf8(passage.text) for passage in batch]
            encoded = tokenizer.encode_many([passage.text for passage in batch])
            for passage, text, ids in zip(batch, raw, encoded, strict=True):
                streams[passage.split].add(passage.starts, text, ids)
    splits = {split: stream.summary() for split, stream in streams.items()}
    _require_text(splits)
    lossy = {split: stream.lossy(name, split) for split, stream in streams.items()}
    tokenizer.save(folder / "tokenizer")
    meta = {
        "format": FORMAT,
        "fingerprint": fingerprint,
        "vocab_size": tokenizer.vocab_size,
        "eot": tokenizer.eot,
        "warnings": [*warnings, *_loss_warning(lossy), *_joined(name, tokenizer, splits)],
        "lossy": lossy["val"],
        "splits": splits,
    }
    (folder / "meta.json").write_text(json.dumps(meta, indent=1), encoding="utf-8")
    for split in streams:
        checksums(folder / f"{split}.bin").tofile(folder / f"{split}.crc")
    files = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    write_sums(folder, [name for name in files if not name.endswith(".bin")])


class _Stream:
    """Writes one split's token stream and counts what goes into it."""

    def __init__(self, path: Path, tokenizer: Tokenizer) -> None:
        self._path = path
        self._tokenizer = tokenizer
        self._dtype = _dtype(tokenizer.vocab_size)
        self._trip = RoundTrip(tokenizer)
        self._first: list[int] = []
        self.tokens = self.text_bytes = self.documents = 0

    def __enter__(self) -> _Stream:
        self._file = open(self._path, "wb")
        return self

    def __exit__(self, *error: object) -> None:
        with self._file:
            if error[0] is not None:
                return
            if self.documents:
                self._put(self._end())
            self._file.flush()
            os.fsync(self._file.fileno())

    def add(self, starts: bool, text: bytes, ids: Tokens) -> None:
        if starts:
            self.documents += 1
            self._put(self._end())
        if len(ids) and not 0 <= ids.min() <= ids.max() < self._tokenizer.vocab_size:
            beyond = ids.min() if ids.min() < 0 else ids.max()
            raise DataError(f"the tokenizer gave token {beyond}, and it has those from 0 to vocab_size - 1 only")
        self._put(ids)
        self._trip.add(text, ids)
        self.text_bytes += len(text)

    def _end(self) -> Tokens:
        return np.array([] if self._tokenizer.eot is None else [self._tokenizer.eot], dtype=self._dtype)

    def _put(self, ids: Tokens) -> None:
        if not self._first:
            self._first = [int(i) for i in ids[:1]]
        self.tokens += len(ids)
        self._file.write(ids.astype(self._dtype).data)

    def summary(self) -> dict[str, int]:
        first = 0 if self._first == [self._tokenizer.eot] else len(self._tokenizer.decode_bytes(self._first))
        return {
            "tokens": self.tokens,
            "text_bytes": self.text_bytes,
            "lost_bytes": self._trip.lost,
            "target_bytes": self.text_bytes - first,
            "documents": self.documents,
            "size": self._path.stat().st_size,
        }

    def lossy(self, tokenizer: str, split: str) -> str:
        """What its text loses, in words; "" if nothing."""
        if not self._trip.lost:
            return ""
        text = {"train": "training", "val": "validation"}[split]
        return (
            f"{tokenizer} loses text: at least {self._trip.lost:,} of {self.text_bytes:,} bytes of the {text} text do "
            f"not come back ({self._trip.example})"
        )


def _loss_warning(lossy: Mapping[str, str]) -> list[str]:
    """The warning that text is lost, if it is: of the validation text first, for which it matters more."""
    if lossy["val"]:
        return [f"{lossy['val']}: there will be no bits per byte; use tokenizer=byte, bpe or tiktoken"]
    return [lossy["train"]] if lossy["train"] else []


def _joined(name: str, tokenizer: Tokenizer, splits: Mapping[str, Mapping[str, int]]) -> list[str]:
    """The warning that documents cannot be told apart, if there are several."""
    most = max(split["documents"] for split in splits.values())
    if tokenizer.eot is not None or most < 2:
        return []
    said = f"{name} without an end of text: where {most:,} documents end costs no bits, so that bits per byte compare"
    return [f"{said} with those of no tokenizer that has one"]


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"the corpus holds half a surrogate pair ({text[error.start]!r}): it is no text") from error


def _require_text(splits: Mapping[str, Mapping[str, int]]) -> None:
    if not any(split["text_bytes"] for split in splits.values()):
        raise DataError("the corpus is empty: there is no text in it; check data.path")
    if splits["train"]["tokens"] < 2:
        raise DataError("no text is left to train on: lower data.val_fraction or give more text")
    if splits["val"]["tokens"] < 2:
        raise DataError("no text is held out for validation: raise data.val_fraction or give more text")


def _batches(passages: Iterator[Passage]) -> Iterator[list[Passage]]:
    batch: list[Passage] = []
    size = 0
    for passage in passages:
        batch.append(passage)
        size += len(passage.text)
        if size >= BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def counted(passages: Iterator[Passage], phase: str, total: int | None, report: Progress) -> Iterator[Passage]:
    """The passages, while `report` is told how far they are."""
    done = 0
    for passage in passages:
        report(phase, done, total)
        yield passage
        done += len(passage.text)
    report(phase, done, done)


def _opened(folder: Path, built: bool) -> Shards:
    """The shards in a folder.

    Raises:
        Damaged: they are not what was written.
    """
    try:
        check_sums(folder)
        meta = json.loads((folder / "meta.json").read_bytes())
        maps, blocks = {}, {}
        for name, split in meta["splits"].items():
            path = folder / f"{name}.bin"
            if path.stat().st_size != split["size"]:
                raise Damaged(f"{path.name} is not what was written")
            # A plain view: numpy's memmap class makes each slice several times slower.
            maps[name] = np.memmap(path, dtype=np.uint8, mode="r").view(np.ndarray)
            blocks[name] = Blocks(maps[name], np.fromfile(path.with_suffix(".crc"), dtype="<u4"))
            whole = np.array([0]), np.array([split["size"] - 1])
            if split["size"] <= CHECKED and blocks[name].damaged(*whole) is not None:
                raise Damaged(f"{path.name} is not what was written")
        known = {key: meta[key] for key in ("fingerprint", "vocab_size", "eot", "warnings", "lossy", "splits")}
        return Shards(folder, **known, built=built, maps=maps, blocks=blocks)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged("meta.json is of another version of the lab") from error


def _dtype(vocab_size: int) -> np.dtype[Any]:
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")
