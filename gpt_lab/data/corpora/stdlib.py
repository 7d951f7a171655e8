"""The corpus of source code that every machine has: the modules of Python's own standard library."""

from __future__ import annotations

import hashlib
import platform
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gpt_lab.data.corpora.file_corpora import files_identity, read_text
from gpt_lab.data.corpus import Corpus, Document
from gpt_lab.errors import DataError
from gpt_lab.options import Probability
from gpt_lab.registry import register

APART = ("distutils", "ensurepip", "idlelib", "lib2to3", "tkinter", "turtle", "turtledemo")
"""Modules that some systems install apart: without them installations of one version agree."""
NO_CODE = ("encodings", "pydoc_data")
"""Modules that are tables, or one long text."""


@register("data", "stdlib")
class StandardLibrary(Corpus):
    """The modules of the Python standard library that runs the lab: about 8 MB of source code, no download.

    Reference: https://docs.python.org/3/library/ (Python Software Foundation License)

    A document is a file, in the order of paths; tests, encodings, GUI and packaging tools are left out. Another version
    of Python has other files, and so another fingerprint; run.json names the version among the packages.

    val_fraction: share of the files that is held out for validation, whole, chosen by their paths.
    """

    def __init__(self, *, val_fraction: Probability = 0.1) -> None:
        self.val_fraction = val_fraction

    def documents(self) -> Iterator[Document]:
        return (_read(path) for path in _modules() if not self._is_held_out(path))

    def held_out(self) -> Iterator[Document]:
        return (_read(path) for path in _modules() if self._is_held_out(path))

    def identity(self) -> Mapping[str, Any]:
        version = ".".join(platform.python_version_tuple()[:2])
        return {"python": version, "files": files_identity(_modules()), "val_fraction": self.val_fraction}

    def size(self) -> int:
        return sum(path.stat().st_size for path in _modules())

    def _is_held_out(self, path: Path) -> bool:
        digest = hashlib.sha256(path.relative_to(_root()).as_posix().encode()).digest()
        return int.from_bytes(digest[:8], "big") < self.val_fraction * 2.0**64


def _root() -> Path:
    return Path(sysconfig.get_path("stdlib"))


def _modules() -> list[Path]:
    """The files of the corpus, in the order of their paths."""
    root, names = _root(), sys.stdlib_module_names.difference(APART, NO_CODE)
    found = []
    for top in sorted(root.iterdir()) if root.is_dir() else ():
        if top.is_dir() and top.name in names:
            found += [path for path in top.rglob("*.py") if not {"test", "tests"} & {*path.relative_to(root).parts}]
        elif top.suffix == ".py" and top.stem in names:
            found.append(top)
    if not found:
        raise DataError(f"data=stdlib: this Python has no source files in {root}: use data=shakespeare or data=text")
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


def _read(path: Path) -> Document:
    return Document(read_text(path), path.stat().st_size)
