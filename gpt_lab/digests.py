"""SHA-256 sums of files, so that what is damaged is not used.

The digests of a folder's files stand in its SHA256SUMS; `sha256sum -c SHA256SUMS` checks them too.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gpt_lab.errors import DataError

SUMS = "SHA256SUMS"
_GONE = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP}


class Damaged(DataError):
    """A file that is not as it was written; the message says which and how."""


def sha256(path: Path) -> str:
    """64 hex digits over a file's bytes (1.7 GB a second and core)."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_sums(folder: Path, names: Iterable[str] | None = None) -> None:
    """Writes SHA256SUMS for files of a folder, and puts all of them on stable storage.

    Args:
        names: relative to the folder; None: all that are in it, at any depth.

    Raises:
        OSError: one cannot be read or written.
    """
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    files = {name: folder / name for name in sorted(found if names is None else names)}
    with ThreadPoolExecutor(1) as pool:  # the disk works while the processor does
        written = [pool.submit(_sync, path) for path in files.values()]
        lines = [f"{sha256(path)}  {name}\n" for name, path in files.items()]
        for one in written:
            one.result()
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")
    _sync(folder / SUMS)


def check_sums(folder: Path, *names: str) -> None:
    """Reads files of a folder and holds them against its SHA256SUMS.

    Args:
        names: these alone, which must be listed; none: all that are listed.

    Raises:
        Damaged: one is missing, not listed, or not what was written. DataError: it cannot be read for another reason.
    """
    try:
        listed = _listed(folder)
        for name in names or listed:
            if name not in listed:
                raise Damaged(f"{SUMS} does not list {name}")
            if sha256(folder / name) != listed[name]:
                raise Damaged(f"{name} is not what was written")
    except OSError as error:
        name = Path(str(error.filename or folder)).name
        if error.errno in _GONE:
            raise Damaged(f"{name} is missing") from error
        if error.errno == errno.EIO:
            raise Damaged(f"{name} cannot be read from the disk") from error
        raise DataError(f"cannot read {error.filename or folder}: {error.strerror}") from error


def _sync(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _listed(folder: Path) -> dict[str, str]:
    try:
        text = (folder / SUMS).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise Damaged(f"{SUMS} is not what was written") from None
    found = [re.fullmatch(r"([0-9a-f]{64})  ([^\x00\s][^\x00]*)", line) for line in text.split("\n")[:-1]]
    if not found or not text.endswith("\n") or not all(found):
        raise Damaged(f"{SUMS} is not what was written")
    return {match[2]: match[1] for match in found if match}
