"""Tokenizers of the libraries: Hugging Face tokenizers (fitted here, or ready-made) and tiktoken."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from gpt_lab.data.tokenizers.as_library import merges_of_ranks, of_bytes, with_end
from gpt_lab.data.tokenizers.bpe import MIN_COUNT, check_vocab_size
from gpt_lab.data.tokenizers.byte_level import BYTE_ORDER, CHARACTERS
from gpt_lab.data.tokenizers.tokenizer import EOT, Tokenizer, head, unfilled
from gpt_lab.data.tokenizers.truncated import first_merges, first_ranks
from gpt_lab.errors import DataError, unknown
from gpt_lab.options import NonEmpty, PositiveInt
from gpt_lab.registry import register

FILE = "tokenizer.json"
RANKS = "ranks.tiktoken"
ENDS = (EOT, "<|end_of_text|>", "</s>", "<eos>", "<|eot_id|>", "[SEP]")
"""Names under which tokenizers know the end of text, most common first."""


class LibraryTokenizer(Tokenizer):
    """Whatever `tokenizers.Tokenizer` can do."""

    _inner: Any

    def take(self, inner: Any, eot: int | None) -> None:
        """Becomes this tokenizer, whose end of text is `eot`."""
        inner.encode_special_tokens = True  # "<|endoftext|>" in a text is ordinary text
        inner.no_truncation()
        inner.no_padding()
        self._inner = inner
        self.__dict__.pop("_table", None)  # of what was fitted before
        self.eot = eot
        self.vocab_size = 1 + max(*inner.get_vocab(with_added_tokens=True).values(), -1 if eot is None else eot)

    def encode(self, text: str) -> list[int]:
        return list(self._inner.encode(text, add_special_tokens=False).ids)

    def encode_many(self, texts: Sequence[str]) -> list[np.ndarray[Any, Any]]:
        encodings = self._inner.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.uint32) for encoding in encodings]

    def decode_bytes(self, ids: list[int]) -> bytes:
        if self._table is not None:
            return b"".join([self._table.get(i, b"") for i in ids])  # models may have more rows than there are tokens
        documents: list[list[int]] = [[]]  # what a token stands for depends on its neighbours in the same document
        for i in ids:
            if i == self.eot:
                documents.append([])
            else:
                documents[-1].append(i)
        return self._end.join(self._inner.decode(own, skip_special_tokens=False).encode() for own in documents)

    @property
    def _end(self) -> bytes:
        """The end of text as it is shown; the vocabulary may lack it."""
        own = None if self.eot is None else self._inner.id_to_token(self.eot)
        return (own or EOT).encode()

    @functools.cached_property
    def _table(self) -> dict[int, bytes] | None:
        """The bytes of each token of a byte-level tokenizer; None for another, whose tokens depend on neighbours."""
        described = json.loads(self._inner.to_str())
        if (described.get("decoder") or {}).get("type") != "ByteLevel":
            return None
        extra = {token["id"]: token["content"].encode() for token in described["added_tokens"]}
        table = dict.fromkeys(range(self.vocab_size), b"")
        for text, i in self._inner.get_vocab(with_added_tokens=False).items():
            table[i] = bytes([_BYTE_OF_CHARACTER[c] for c in text if c in _BYTE_OF_CHARACTER])
        return table | extra | ({} if self.eot is None else {self.eot: self._end})

    def as_library(self) -> Any:
        return with_end(type(self._inner).from_str(self._inner.to_str()), self.eot)

    def state(self) -> Mapping[str, Any]:
        return {"eot": self.eot}

    def save(self, folder: Path) -> None:
        super().save(folder)
        self._inner.save(str(folder / FILE))

    @classmethod
    def from_state(cls, state: Mapping[str, Any], folder: Path) -> Self:
        made = cls.__new__(cls)
        made.take(_read(folder / FILE), state["eot"])
        return made


@register("tokenizer", "bpe")
class BPE(LibraryTokenizer):
    """Byte-level BPE fitted on the training text, by the Hugging Face library; any text can be encoded.

    Paper: Sennrich et al. 2015, arXiv:1508.07909

    vocab_size: 256 bytes, the merges, and the end of text (the last token); fewer if the corpus cannot fill it.
    fit_chars: merges are learnt on the first so many characters of the training text.
    """

    fits = "train"

    def __init__(self, *, vocab_size: PositiveInt = 512, fit_chars: PositiveInt = 100_000_000) -> None:
        self._wanted, self._fit_chars = check_vocab_size(vocab_size), fit_chars

    def fit(self, texts: Iterable[str]) -> list[str]:
        from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers
        from tokenizers import Tokenizer as Inner

        inner = Inner(models.BPE())
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        inner.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=self._wanted - 1,
            min_frequency=MIN_COUNT,
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        )
        inner.train_from_iterator(head(texts, self._fit_chars), trainer)
        inner.add_special_tokens([AddedToken(EOT, special=True, normalized=False)])
        self.take(inner, inner.token_to_id(EOT))
        return unfilled(self._wanted, self.vocab_size)


@register("tokenizer", "hf")
class HuggingFaceTokenizer(LibraryTokenizer):
    """A ready-made tokenizer: a tokenizer.json, a folder that holds one, or a name on the Hugging Face Hub.

    Reference: https://github.com/huggingface/tokenizers

    path: the file, the folder or the Hub name, such as 'openai-community/gpt2'.
    revision: commit or tag of a Hub name.
    eot: the text of its end-of-text token (null: the usual names are tried, and a token is added if it has none).
    vocab: keep only so many tokens: the bytes, the first merges and the end of text (null: all).
    """

    def __init__(
        self,
        *,
        path: NonEmpty,
        revision: NonEmpty = "main",
        eot: NonEmpty | None = None,
        vocab: PositiveInt | None = None,
    ) -> None:
        file = _local(path)
        inner = _read(file) if file else _from_hub(path, revision)
        vocabulary = inner.get_vocab(with_added_tokens=True)
        if eot is not None and eot not in vocabulary:
            raise DataError(f"tokenizer.eot={eot!r} is no token of {path}; set it to one, or to null")
        end = eot or next((name for name in ENDS if name in vocabulary), None)
        if vocab is not None:
            inner = first_merges(inner, vocab, end or EOT)
            vocabulary, end = inner.get_vocab(with_added_tokens=True), end or EOT
        self.take(inner, 1 + max(vocabulary.values()) if end is None else vocabulary[end])

    @classmethod
    def identity(cls, settings: Mapping[str, Any]) -> Mapping[str, Any]:
        settings = _without_vocab(settings)
        file = _local(settings["path"])
        if file is None or not file.is_file():
            return settings
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        return {**settings, "path": content, "revision": None}


@register("tokenizer", "tiktoken")
class Tiktoken(Tokenizer):
    """A ready-made encoding of tiktoken: gpt2 and r50k_base (50257 tokens), p50k_base, cl100k_base, o200k_base.

    Reference: https://github.com/openai/tiktoken

    encoding: its name. Its ranks are downloaded once, into TIKTOKEN_CACHE_DIR where that is set.
    vocab: keep only so many tokens: the bytes, the first merges and the end of text (null: all).
    """

    def __init__(self, *, encoding: NonEmpty = "gpt2", vocab: PositiveInt | None = None) -> None:
        import tiktoken

        names = tiktoken.list_encoding_names()
        if encoding not in names:
            raise DataError(unknown("tokenizer.encoding", encoding, names))
        try:
            whole = tiktoken.get_encoding(encoding)
        except Exception as error:  # requests, its transport and the file system raise many types
            command = f"import tiktoken; tiktoken.get_encoding('{encoding}')"
            raise DataError(
                f"tokenizer=tiktoken needs the ranks of {encoding} from the web once ({type(error).__name__}): run "
                f'`TIKTOKEN_CACHE_DIR=ranks python -c "{command}"` where there is a network, bring the folder here and '
                "set TIKTOKEN_CACHE_DIR to it; tokenizer=bpe needs no download"
            ) from error
        if vocab is not None:
            ranks = first_ranks(whole._mergeable_ranks, vocab)
            whole = tiktoken.Encoding(
                f"{encoding}-{vocab}", pat_str=whole._pat_str, mergeable_ranks=ranks, special_tokens={EOT: len(ranks)}
            )
        self._take(encoding, whole)

    @classmethod
    def identity(cls, settings: Mapping[str, Any]) -> Mapping[str, Any]:
        return _without_vocab(settings)

    def _take(self, name: str, inner: Any) -> None:
        self._name, self._inner = name, inner
        self.vocab_size = inner.n_vocab
        self.eot = inner._special_tokens.get(EOT)

    def encode(self, text: str) -> list[int]:
        return list(self._inner.encode_ordinary(text))

    def encode_many(self, texts: Sequence[str]) -> list[np.ndarray[Any, Any]]:
        return [np.array(ids, dtype=np.uint32) for ids in self._inner.encode_ordinary_batch(list(texts))]

    def decode_bytes(self, ids: list[int]) -> bytes:
        try:
            return bytes(self._inner.decode_bytes(ids))
        except KeyError:  # numbers between the ranks and the special tokens that stand for nothing
            return b"".join(self._inner.decode_bytes([i]) for i in ids if i in self._known)

    @functools.cached_property
    def _known(self) -> frozenset[int]:
        return frozenset(self._inner._mergeable_ranks.values()) | frozenset(self._inner._special_tokens.values())

    def as_library(self) -> Any:
        ranks = self._inner._mergeable_ranks
        return of_bytes(ranks, merges_of_ranks(ranks), self._inner._pat_str, self.eot)

    def state(self) -> Mapping[str, Any]:
        inner = self._inner
        return {"name": self._name, "pattern": inner._pat_str, "special": inner._special_tokens}

    def save(self, folder: Path) -> None:
        super().save(folder)
        ranks = sorted(self._inner._mergeable_ranks.items(), key=lambda item: item[1])
        text = "".join(f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in ranks)
        (folder / RANKS).write_text(text, encoding="ascii")

    @classmethod
    def from_state(cls, state: Mapping[str, Any], folder: Path) -> Self:
        import tiktoken

        lines = (line.split() for line in (folder / RANKS).read_text(encoding="ascii").splitlines())
        ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
        made = cls.__new__(cls)
        inner = tiktoken.Encoding(
            state["name"], pat_str=state["pattern"], mergeable_ranks=ranks, special_tokens=state["special"]
        )
        made._take(state["name"], inner)
        return made


_BYTE_OF_CHARACTER = dict(zip(CHARACTERS, BYTE_ORDER, strict=True))
"""The byte behind each character of a byte-level token's name."""


def _without_vocab(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings; `vocab`, which came later, only where it cuts."""
    return {key: value for key, value in settings.items() if key != "vocab" or value is not None}


def _local(name: str) -> Path | None:
    """The file that a name means; None: it is a name on the Hub."""
    path = Path(name).expanduser()
    if path.is_dir():
        return path / FILE
    return path if path.is_file() or path.suffix == ".json" or path.is_absolute() else None


def _read(path: Path) -> Any:
    from tokenizers import Tokenizer as Inner

    if not path.is_file():
        raise DataError(f"tokenizer: there is no file {path}; set tokenizer.path to a tokenizer.json or its folder")
    try:
        return Inner.from_file(str(path))
    except Exception as error:  # the library raises bare Exceptions
        raise DataError(f"{path} is no tokenizer.json of the tokenizers library ({_line(error)})") from error


def _from_hub(name: str, revision: str) -> Any:
    from tokenizers import Tokenizer as Inner

    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # what fails is said in one line, without each retry
    try:
        return Inner.from_pretrained(name, revision=revision)
    except Exception as error:  # the library, its client and its network stack raise many types
        raise DataError(
            f"tokenizer.path={name!r} is no file or folder here and cannot be had from the Hub ({_line(error)}): run "
            f"`hf download {name} {FILE} --local-dir FOLDER` where there is a network and set tokenizer.path=FOLDER"
        ) from error


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."
