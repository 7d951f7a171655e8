"""Atomic files: replacement, whole-line appends, JSON with a digest and with NaN.

JSON has no NaN and no infinity. They are written as the strings "NaN", "Infinity" and "-Infinity" (the JSON mapping
of protocol buffers), so that every line stays valid JSON for any reader; `decode` turns them back.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gpt_lab.digests import Damaged
from gpt_lab.errors import DataError, LabError

DIGEST = "sha256"
"""Last key of a JSON file that `write_json` wrote: SHA-256 of the text before it."""
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_CLOSED = {errno.EROFS, errno.EACCES, errno.EPERM}
NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class Unwritable(LabError):
    """A file or folder that cannot be written; `way` names what chooses another place."""

    def __init__(self, path: Path, reason: str, way: str = "runs_dir=...") -> None:
        super().__init__(f"cannot write {path}: {reason} choose another folder with {way}")
        self.path, self.reason = path, reason


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns an OSError of the block into one line that says what to do about `path`.

    Raises:
        LabError: disk full, no permission, or any other failure of the file system.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            way = "no space left: free some and repeat the command, it resumes from the last checkpoint"
            raise LabError(f"cannot write {path}: {way}") from error
        if error.errno in _CLOSED:
            raise Unwritable(path, f"{os.strerror(error.errno).lower()}: make it writable or") from error
        raise Unwritable(path, f"{error.strerror or error}:") from error


def check_folder(folder: Path) -> None:
    """Refuses a folder that cannot be made or takes no files; makes nothing.

    Raises:
        LabError: as `writing`.
    """
    with writing(folder):
        there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        if not there.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"{there} is no folder")
        if not os.access(there, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def encode(value: Any) -> Any:
    """Plain JSON values: non-finite floats as strings, tuples as lists, NumPy and torch scalars as numbers."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, Mapping):
        return {str(k): encode(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [encode(v) for v in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    number = float(value)
    if math.isfinite(number):
        return number
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"


def decode(value: Any) -> Any:
    """The values that `encode` was given, non-finite floats among them."""
    if isinstance(value, str):
        return NON_FINITE.get(value, value)
    if isinstance(value, dict):
        return {k: decode(v) for k, v in value.items()}
    if isinstance(value, list):
        return [decode(v) for v in value]
    return value


def write_atomic(path: Path, data: bytes) -> None:
    """Replaces `path` by `data` on stable storage: after any crash it holds either the old bytes or the new.

    Raises:
        LabError: the file cannot be written; the old one is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with writing(path):
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes renames inside `folder` survive a power cut."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def parse(data: bytes) -> Any:
    """What a JSON text says.

    Raises:
        ValueError: it is no JSON, or nested too deeply to be read.
    """
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Atomically writes indented JSON; non-finite floats as strings; its digest as the last key."""
    text = json.dumps(encode(value), indent=1, allow_nan=False, ensure_ascii=False).encode()[: -len("\n}")]
    write_atomic(path, text + _seal(text))


def read_json(
    path: str | os.PathLike[str], digest: bool = False, parse: Callable[[bytes], Any] = parse
) -> dict[str, Any]:
    """The object in a JSON file, non-finite floats still as strings.

    Args:
        digest: whether it must have one. A file without (another program's) is taken as it is otherwise.
        parse: says what a text says, as the function `parse` does.

    Raises:
        DataError: missing, unreadable, or not a JSON object. Damaged: not what was written, by its digest.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            data = file.read()
        value = parse(data)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {getattr(error, 'strerror', None) or 'not valid JSON'}") from error
    if not isinstance(value, dict):
        raise DataError(f"cannot read {path}: a JSON object is expected")
    if DIGEST in value or digest:
        text = data[: data.rfind(f',\n "{DIGEST}": '.encode())]
        if data != text + _seal(text):
            raise Damaged(f"{path} was edited or is damaged: its digest does not fit")
        del value[DIGEST]
    return value


def _seal(text: bytes) -> bytes:
    return f',\n "{DIGEST}": "{hashlib.sha256(text).hexdigest()}"\n}}\n'.encode()


class Lines:
    """An append-only file of JSON lines. Each line is one write, so another process never reads half of one.

    Lines reach the operating system at once (they survive kill -9) and stable storage at `sync()`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None

    def append(self, value: Mapping[str, Any]) -> None:
        """Adds one line.

        Raises:
            LabError: it cannot be written; the lines before it are intact and no half line is left.
        """
        line = (json.dumps(encode(value), allow_nan=False, separators=(",", ":")) + "\n").encode()
        with writing(self.path):
            fd = self._open()
            end = os.fstat(fd).st_size
            try:
                written = os.write(fd, line)
                while written < len(line):
                    written += os.write(fd, line[written:])
            except OSError:
                os.ftruncate(fd, end)
                raise

    def _open(self) -> int:
        if self._fd is None:
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            self._drop_torn_end(self._fd)
        return self._fd

    def _drop_torn_end(self, fd: int) -> None:
        """Cuts off the half line of a power cut, so that the next line does not join it."""
        end = os.fstat(fd).st_size
        start = max(0, end - 65536)
        tail = os.pread(fd, end - start, start)
        if tail and not tail.endswith(b"\n"):
            os.ftruncate(fd, start + tail.rfind(b"\n") + 1)

    def read(self) -> list[bytes]:
        """All whole lines, without their ends; a torn last line is skipped, a missing file is empty.

        Raises:
            DataError: the file is there but cannot be read.
        """
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise DataError(f"cannot read {self.path}: {error.strerror}") from error
        return data[: data.rfind(b"\n") + 1].splitlines()

    def replace(self, rows: list[dict[str, Any]]) -> None:
        """Atomically replaces the whole file."""
        self.close()
        lines = (json.dumps(encode(row), allow_nan=False, separators=(",", ":")) + "\n" for row in rows)
        write_atomic(self.path, "".join(lines).encode())

    def sync(self) -> None:
        """Waits until all lines are on stable storage."""
        if self._fd is not None:
            with writing(self.path):
                os.fsync(self._fd)

    def close(self) -> None:
        """Closes the file; the next append opens it again."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
