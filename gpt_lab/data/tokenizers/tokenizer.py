"""The tokenizer interface: text to tokens and back to the very same bytes, fitted on a corpus, saved in a folder."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np

from gpt_lab import registry
from gpt_lab.errors import DataError

EOT = "<|endoftext|>"
"""The text under which the end-of-text token is shown."""
STATE = "state.json"


class Tokenizer(ABC):
    """Text <-> token numbers in [0, vocab_size). `decode_bytes(encode(text))` is the text's UTF-8.

    Text never becomes the end-of-text token: it is encoded as the ordinary characters that it is made of.
    """

    fits: ClassVar[Literal["nothing", "train", "all"]] = "nothing"
    """What `fit` must be shown before the first use: no text, the training text, or all text."""
    vocab_size: int
    eot: int | None = None
    """The token that stands before and after each document; None: documents are joined, and where they end is lost."""

    def fit(self, texts: Iterable[str]) -> list[str]:
        """Learns from the corpus's text; the result are warnings for the user, one line each.

        Raises:
            DataError: nothing can be learnt from this text.
        """
        return []

    @classmethod
    def identity(cls, settings: Mapping[str, Any]) -> Mapping[str, Any]:
        """Plain values that change with what these options would make of a text; a file counts by its content."""
        return settings

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """The tokens of a text. No special token is added."""

    @abstractmethod
    def decode_bytes(self, ids: list[int]) -> bytes:
        """The bytes that tokens stand for; they may end inside a character. The end of text shows as EOT."""

    def decode(self, ids: list[int]) -> str:
        """The text that tokens stand for, each byte that is not UTF-8 as U+FFFD."""
        return self.decode_bytes(ids).decode(errors="replace")

    def encode_many(self, texts: Sequence[str]) -> list[np.ndarray[Any, Any]]:
        """The tokens of several texts, as integer arrays."""
        return [np.array(self.encode(text), dtype=np.uint32) for text in texts]

    def as_library(self) -> Any:
        """The same as a tokenizer of the `tokenizers` library, which other programs read; None: it cannot be one."""
        return None

    @abstractmethod
    def state(self) -> Mapping[str, Any]:
        """What `from_state` needs, as JSON values."""

    @classmethod
    @abstractmethod
    def from_state(cls, state: Mapping[str, Any], folder: Path) -> Self:
        """The tokenizer that was saved; `folder` holds what `save` added beside the state."""

    def save(self, folder: Path) -> None:
        """Writes all that `load_tokenizer` needs into a folder, which is made if it is missing."""
        folder.mkdir(parents=True, exist_ok=True)
        kind, name = type(self).part  # type: ignore[attr-defined]
        text = json.dumps({kind: name, "vocab_size": self.vocab_size, "eot": self.eot, "state": self.state()})
        (folder / STATE).write_text(text, encoding="utf-8")


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer that `Tokenizer.save` wrote into a folder.

    Raises:
        DataError: the folder holds none, or a broken one.
    """
    path = Path(folder) / STATE
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        loaded: Tokenizer = registry.load("tokenizer", saved["tokenizer"]).from_state(saved["state"], Path(folder))
    except OSError as error:
        raise DataError(f"no tokenizer in {folder}: cannot read {error.filename} ({error.strerror})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"the tokenizer in {folder} is broken ({type(error).__name__}: {error})") from error
    return loaded


def head(texts: Iterable[str], limit: int) -> Iterator[str]:
    """The first `limit` characters of the texts."""
    for text in texts:
        yield text[:limit]
        limit -= len(text)
        if limit <= 0:
            return


def unfilled(wanted: int, got: int) -> list[str]:
    """The warning that a corpus is too small for its vocabulary, if it is."""
    if got == wanted:
        return []
    return [f"tokenizer.vocab_size={wanted}: the corpus fills only {got}; the vocabulary has {got} tokens"]
