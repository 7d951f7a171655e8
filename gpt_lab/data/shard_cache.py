"""What is built from a corpus once and kept: folders named by a fingerprint, locked while they are built."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from gpt_lab.digests import Damaged
from gpt_lab.errors import DataError

Progress = Callable[[str, int, int | None], None]
"""Called with what is being done, how many bytes of text are done, and of how many (None: unknown)."""
T = TypeVar("T")

ANOTHER = "set GPT_LAB_CACHE=FOLDER to keep it elsewhere"


def cache_folder() -> Path:
    """Where shards are kept: $GPT_LAB_CACHE, else ~/.cache/gpt_lab."""
    named = os.environ.get("GPT_LAB_CACHE")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "gpt_lab"


def build_once(
    folder: Path, opened: Callable[[Path, bool], T], build: Callable[[Path], None], report: Progress, what: str
) -> tuple[T, str]:
    """What is kept in a folder, built beside it and renamed into it if it is missing or damaged.

    Several processes that ask at once build it once; the others wait.

    Args:
        opened: reads a folder, told whether it was just built; raises Damaged. build: fills an empty folder.
        what: the folder holds, in words.

    Returns:
        It, and a warning that it was damaged and has been built again; "" if it was not.

    Raises:
        DataError: it cannot be built, or the cache cannot be written; one line.
    """
    found, damage = _open(folder, opened)
    if found is not None:
        return found, ""
    with _writing(folder.parent), _locked(folder.with_suffix(".lock"), report):
        found, damage = _open(folder, opened)  # another process may have built it meanwhile
        if found is not None:
            return found, ""
        for left in folder.parent.glob(f".{folder.name}.*"):  # of a build that was killed, or of a damaged one
            shutil.rmtree(left, ignore_errors=True)
        temporary, torn = (folder.with_name(f".{folder.name}.{end}") for end in (os.getpid(), "torn"))
        try:
            temporary.mkdir()
            build(temporary)
            if folder.exists():
                os.replace(folder, torn)
            os.replace(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.rmtree(torn, ignore_errors=True)
        found, wrong = _open(folder, lambda path, _: opened(path, True))
    if found is None:
        raise DataError(
            f"{what} just written to {folder} read back wrong ({wrong}): check the disk, or set GPT_LAB_CACHE"
        )
    return found, f"the {what} in {folder} were damaged ({damage}) and have been built again" if damage else ""


def _open(folder: Path, opened: Callable[[Path, bool], T]) -> tuple[T | None, str]:
    """What is in a folder; None if there is nothing or it is not what was written, which is then said."""
    if not folder.exists():
        return None, ""
    try:
        return opened(folder, False), ""
    except Damaged as error:
        return None, str(error)
    except DataError as error:
        raise DataError(f"{error}; {ANOTHER}") from error
    except (FileNotFoundError, NotADirectoryError) as error:
        return None, f"{Path(error.filename).name} is missing"
    except OSError as error:
        raise DataError(f"cannot read the cache {folder}: {error.strerror}; {ANOTHER}") from error


@contextlib.contextmanager
def _writing(cache: Path) -> Iterator[None]:
    try:
        cache.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise DataError(f"cannot write the cache {cache}: {reason}; {ANOTHER}") from error


@contextlib.contextmanager
def _locked(path: Path, report: Progress) -> Iterator[None]:
    """Holds an exclusive lock that the kernel frees however this process ends."""
    with open(path, "ab") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                report("waiting for another process that builds these shards", 0, None)
                time.sleep(0.05)
        yield
