"""Corpora in files: plain text, JSON lines, parquet; one file, a folder or a glob."""

from __future__ import annotations

import codecs
import glob
import hashlib
import json
import os
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from gpt_lab.data.corpus import PIECE, Corpus, Document, line_end, whole
from gpt_lab.errors import DataError, unknown
from gpt_lab.options import NonEmpty, Probability
from gpt_lab.registry import register

HASHED = 256 << 20
"""Up to this many bytes a corpus is known by its content; above, by its files' paths, sizes and times."""


class _Files(Corpus):
    """Documents of the files that `path` names: a file, a folder (its files of the kind, at any depth), or a glob."""

    suffixes: ClassVar[tuple[str, ...]]

    def __init__(self, path: str, val_path: str | None, val_fraction: float) -> None:
        self.path, self.val_path, self.val_fraction = path, val_path, val_fraction

    @abstractmethod
    def read(self, path: Path) -> Iterator[Document]:
        """The documents of one file."""

    def documents(self) -> Iterator[Document]:
        for path in find(self.path, self.suffixes, "data.path"):
            yield from self.read(path)

    def held_out(self) -> Iterator[Document] | None:
        if self.val_path is None:
            return None
        paths = find(self.val_path, self.suffixes, "data.val_path")
        return (document for path in paths for document in self.read(path))

    def identity(self) -> Mapping[str, Any]:
        train = files_identity(find(self.path, self.suffixes, "data.path"))
        if self.val_path is None:
            return {"train": train, "val_fraction": self.val_fraction}
        return {"train": train, "val": files_identity(find(self.val_path, self.suffixes, "data.val_path"))}

    def size(self) -> int:
        names = {"data.path": self.path, "data.val_path": self.val_path}
        return sum(p.stat().st_size for key, name in names.items() if name for p in find(name, self.suffixes, key))


@register("data", "text")
class Text(_Files):
    """Plain UTF-8 text files: a file, a folder of .txt and .md files, or a glob.

    Reference: https://www.rfc-editor.org/rfc/rfc3629 (UTF-8)

    Each file is one document; a file of any size is read in pieces.

    path: file, folder or glob, such as 'books/**/*.txt'.
    val_path: the same for validation text (null: val_fraction of `path` is held out).
    val_fraction: share held out when val_path is null: whole documents of 100 or more, else the end of each.
    """

    suffixes = (".txt", ".md")

    def __init__(self, *, path: NonEmpty, val_path: NonEmpty | None = None, val_fraction: Probability = 0.1) -> None:
        super().__init__(path, val_path, val_fraction)

    def read(self, path: Path) -> Iterator[Document]:
        yield Document(read_text(path), path.stat().st_size)


class _Rows(_Files):
    """Files of rows with named fields, one of which is the text."""

    def __init__(
        self,
        *,
        path: NonEmpty,
        field: NonEmpty = "text",
        val_path: NonEmpty | None = None,
        val_fraction: Probability = 0.1,
    ) -> None:
        super().__init__(path, val_path, val_fraction)
        self.field = field

    def identity(self) -> Mapping[str, Any]:
        return {**super().identity(), "field": self.field}


@register("data", "jsonl")
class JSONLines(_Rows):
    """JSON lines, one document a line: a file, a folder of .jsonl, .ndjson or .json files, or a glob.

    Reference: https://jsonlines.org

    path: file, folder or glob.
    field: the key of each line's object that holds the text.
    val_path: the same for validation text (null: val_fraction of `path` is held out).
    val_fraction: share held out when val_path is null: whole documents of 100 or more, else the end of each.
    """

    suffixes = (".jsonl", ".ndjson", ".json")

    def read(self, path: Path) -> Iterator[Document]:
        with _opened(path) as file:
            start = 0
            for number, line in enumerate(file, 1):
                text = _decode(line, path, start).removeprefix("\ufeff").strip()
                start += len(line)
                if text:
                    yield whole(self._field(text, f"{path}:{number}"))

    def _field(self, line: str, where: str) -> str:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
            raise DataError(f"{where}: not a line of JSON ({reason})") from error
        if not isinstance(row, dict):
            raise DataError(f"{where}: a JSON object is expected, such as {{{json.dumps(self.field)}: ...}}")
        if self.field not in row:
            raise DataError(f"{where}: {unknown('data.field', self.field, map(str, row))}")
        return require_text(row[self.field], self.field, where)


@register("data", "parquet")
class Parquet(_Rows):
    """Parquet files, one document a row: a file, a folder of .parquet files, or a glob.

    Reference: https://parquet.apache.org

    path: file, folder or glob.
    field: the column that holds the text.
    val_path: the same for validation text (null: val_fraction of `path` is held out).
    val_fraction: share held out when val_path is null: whole documents of 100 or more, else the end of each.
    """

    suffixes = (".parquet",)

    def read(self, path: Path) -> Iterator[Document]:
        import pyarrow
        import pyarrow.parquet

        try:
            file = pyarrow.parquet.ParquetFile(path)
        except (OSError, pyarrow.ArrowException) as error:
            raise DataError(f"{path}: cannot be read as parquet ({' '.join(str(error).split())[:200]})") from error
        with file:
            columns = file.schema_arrow.names
            if self.field not in columns:
                raise DataError(f"{path}: {unknown('data.field', self.field, columns)}")
            row = 0
            try:
                for batch in file.iter_batches(batch_size=1024, columns=[self.field]):
                    for value in batch.column(0):
                        row += 1
                        yield whole(require_text(value.as_py(), self.field, f"{path}, row {row}"))
            except (OSError, ValueError, pyarrow.ArrowException) as error:
                reason = " ".join(str(error).split())[:200]
                raise DataError(f"{path}: cannot be read after row {row} ({reason})") from error


def find(name: str, suffixes: Sequence[str], key: str) -> list[Path]:
    """The files that a path, folder or glob names, in order of their paths; hidden files only if named outright.

    Raises:
        DataError: there are none.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        inside = (p for p in path.rglob("*") if p.suffix.lower() in suffixes and p.is_file())
        found = sorted(p for p in inside if not any(part.startswith(".") for part in p.relative_to(path).parts))
        if not found:
            kinds = " or ".join(suffixes)
            raise DataError(f"{key}: the folder {name} holds no {kinds} file; other names take a glob: '{name}/**/*'")
        return found
    found = sorted(Path(p) for p in glob.glob(str(path), recursive=True) if os.path.isfile(p))
    if not found:
        what = "no file matches" if glob.has_magic(str(path)) else "there is no file or folder"
        raise DataError(f"{key}: {what} {name} (looked from {Path.cwd()})")
    return found


def files_identity(paths: Sequence[Path]) -> list[Any]:
    """What tells these files' content from any other: see HASHED."""
    try:
        stats = [path.stat() for path in paths]
        if sum(stat.st_size for stat in stats) > HASHED:
            return [[str(p.resolve()), s.st_size, s.st_mtime_ns] for p, s in zip(paths, stats, strict=True)]
        digest = hashlib.sha256()
        for path, stat in zip(paths, stats, strict=True):
            digest.update(stat.st_size.to_bytes(8, "big"))
            digest.update(path.read_bytes())
        return [digest.hexdigest()]
    except OSError as error:
        raise DataError(f"cannot read {error.filename}: {error.strerror}") from error


def read_text(path: Path) -> Iterator[str]:
    """A UTF-8 file in pieces that joined are the whole, cut after line breaks; a byte order mark is left out.

    Raises:
        DataError: unreadable or not UTF-8; the line names the byte offset.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    rest, start = "", 0
    with _opened(path) as file:
        while True:
            block = file.read(PIECE)
            pending = len(decoder.getstate()[0])
            try:
                text = decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                raise _not_utf8(path, start - pending + error.start) from error
            if start == 0:
                text = text.removeprefix("\ufeff")
            start += len(block)
            rest += text
            if not block:
                break
            if len(rest) > PIECE:
                end = line_end(rest, 0, len(rest) - 1)
                yield rest[:end]
                rest = rest[end:]
    if rest:
        yield rest


def require_text(value: object, field: str, where: str) -> str:
    """The value, if it is text."""
    if not isinstance(value, str):
        raise DataError(f"{where}: {field} must be text, not {'null' if value is None else type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{where}: {field} holds half a surrogate pair at character {error.start}") from error
    return value


def _opened(path: Path) -> Any:
    try:
        return open(path, "rb")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error


def _decode(line: bytes, path: Path, start: int) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise _not_utf8(path, start + error.start) from error


def _not_utf8(path: Path, offset: int) -> DataError:
    return DataError(f"{path}: not UTF-8 at byte {offset}; convert the file, e.g. `iconv -f latin1 -t utf-8 OLD > NEW`")
