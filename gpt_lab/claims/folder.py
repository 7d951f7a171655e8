"""The folder of a claim: written atomically, its files held to SHA-256 sums when read.

claim.json    the claim as data, with the SHA-256 of every other file and of itself
configs/      the config of every run
seeds.csv     every run's score, and its difference to the baseline
sweep.yaml    the sweep file, where there is one
code.diff     uncommitted changes of the checkout that made the claim, if there were any
report.html report.md figures/ runs.csv runs.parquet     the report
"""

from __future__ import annotations

import difflib
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt_lab.console.invocation import prefix
from gpt_lab.digests import sha256
from gpt_lab.errors import ConfigError, DataError
from gpt_lab.store.atomic_files import (
    decode,
    read_json,
    sync_folder,
    write_atomic,
    write_json,
    writing,
)

CLAIM = "claim.json"
CLAIMS = Path("claims")
"""Where claims are, unless the user says."""
FORMATS = (3,)
MOST = 5
"""Files that a refusal names."""


@dataclass(frozen=True)
class Claim:
    """A claim that was read and whose files are what they were when it was made.

    Fields:
        others: files in its folder that are not of the claim.
    """

    folder: Path
    content: dict[str, Any]
    others: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return str(self.content["name"])

    @property
    def design(self) -> dict[str, Any]:
        return dict(self.content["design"])

    @property
    def cells(self) -> list[dict[str, Any]]:
        """Every run, in the study's order."""
        return list(self.content["cells"])

    @property
    def arms(self) -> list[dict[str, Any]]:
        """Every arm, best first, the baseline among them."""
        return list(self.content["arms"])


def new_folder(name: str, out: Path | None, force: bool) -> Path:
    """The folder of a claim to be made.

    Raises:
        ConfigError: the name cannot be a folder's; the folder exists, and is not a claim that `force` may replace.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.=-]{0,99}", name):
        raise ConfigError(f"--claim must be a plain folder name (letters, digits, . _ = -), not {name!r}")
    folder = CLAIMS / name if out is None else out
    if folder.is_symlink() or folder.exists():
        if folder.is_symlink() or not (folder / CLAIM).is_file():
            raise ConfigError(f"{folder} exists and is no claim: choose another name, or --out another folder")
        if not force:
            raise ConfigError(f"{folder} is a claim already: choose another name, or replace it with --force")
    return folder


def write(folder: Path, claim: dict[str, Any], fill: Callable[[Path], None], force: bool) -> None:
    """Makes the folder at once and complete: `fill` writes its files elsewhere first, claim.json is the last.

    Raises:
        LabError: it cannot be written; what stood there is untouched.
    """
    folder = folder.absolute()  # .. and a name of its own for what is made beside it
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
    beside = f".{folder.name}.{os.getpid()}.{secrets.token_hex(3)}"
    temporary, old = folder.with_name(f"{beside}.new"), folder.with_name(f"{beside}.old")
    try:
        with writing(folder):
            temporary.mkdir()
        fill(temporary)
        write_json(
            temporary / CLAIM, {**claim, "files": {name: sha256(temporary / name) for name in _files(temporary)}}
        )
        with writing(folder):
            if force and (folder / CLAIM).is_file():
                os.rename(folder, old)
            try:
                os.rename(temporary, folder)  # fails where a folder with content stands
            except OSError:
                if old.exists():
                    os.rename(old, folder)
                raise
            sync_folder(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)


def write_file(folder: Path, name: str, data: bytes) -> None:
    """Writes one file of a claim, its own folder made if missing.

    Raises:
        LabError: it cannot be written.
    """
    path = folder / name
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, data)


def find(target: str) -> Path:
    """The folder that a user means: a path, or a name of claims/.

    Raises:
        DataError: there is none; the line offers the closest names.
    """
    for folder in (Path(target), CLAIMS / target):
        if (folder / CLAIM).is_file():
            return folder
    if Path(target).name == CLAIM and Path(target).is_file():
        return Path(target).parent
    names = []
    with suppress(OSError):
        names = sorted(path.name for path in CLAIMS.iterdir() if (path / CLAIM).is_file())
    close = difflib.get_close_matches(Path(target).name, names, n=1, cutoff=0.5)
    there = f"claims/ holds {', '.join(names)}" if names else f"`{prefix()}report STUDY --claim NAME` makes one"
    raise DataError(f"no claim {target!r}: {f'did you mean {close[0]}?' if close else there}")


def read(folder: Path) -> Claim:
    """A claim whose every file is as it was when the claim was made.

    Raises:
        DataError: it is torn, was edited, or is of another version of the lab.
    """
    path = folder / CLAIM
    raw = read_json(path, digest=True)
    if raw.get("format") not in FORMATS:
        raise DataError(f"{path} is of format {raw.get('format')!r}, and this lab reads {FORMATS[-1]}")
    files = raw.get("files")
    if not isinstance(files, dict):
        raise DataError(f"{path} names no files: it is no claim")
    there = set(_files(folder))
    wrong = [f"{name} is missing" for name in files if name not in there]
    wrong += [
        f"{name} was edited or is damaged" for name in files if name in there and _digest(folder / name) != files[name]
    ]
    if wrong:
        more = f" and {len(wrong) - MOST} more" if len(wrong) > MOST else ""
        raise DataError(
            f"{folder} is not the claim that was made: {', '.join(wrong[:MOST])}{more}; get the claim again"
        )
    return Claim(folder, decode(raw), tuple(sorted(there - {CLAIM, *files})))


def _files(folder: Path) -> Iterator[str]:
    yield from sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _digest(path: Path) -> str:
    try:
        return sha256(path)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
