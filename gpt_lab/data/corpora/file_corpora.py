"""Corpora in files: plain text, JSON lines, parquet; one file, a folder or a glob."""

from __future__ import annotations

import codecs
import glob
import hashlib
import itertools
import json
import os
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from gpt_lab.data.corpora import sniff
from gpt_lab.data.corpus import PIECE, Corpus, Document, in_memory, line_end
from gpt_lab.errors import DataError, unknown
from gpt_lab.options import NonEmpty, Probability
from gpt_lab.registry import register

SNIFFED = 100
"""Files of a corpus whose first bytes are looked at."""
HASHED = 256 << 20
"""Up to this many bytes a corpus is known by its content; above, by its files' paths, sizes and times."""


class _Files(Corpus):
    """Documents of the files that `path` names: a file, a folder (its files of the kind, at any depth), or a glob.

    val_path: the same for validation text (null: val_fraction of `path` is held out).
    val_fraction: share held out when val_path is null: whole documents of 100 or more, else the end of each.
    """

    suffixes: ClassVar[tuple[str, ...]]
    own: ClassVar[str]
    """What sniff.kind calls files of this kind."""

    def __init__(self, path: str, val_path: str | None, val_fraction: float) -> None:
        self.path, self.val_path, self.val_fraction = path, val_path, val_fraction

    @abstractmethod
    def read(self, path: Path) -> Iterator[Document]:
        """The documents of one file."""

    def documents(self) -> Iterator[Document]:
        for path in self._find("path"):
            yield from self.read(path)

    def held_out(self) -> Iterator[Document] | None:
        if self.val_path is None:
            return None
        return (document for path in self._find("val_path") for document in self.read(path))

    def identity(self) -> Mapping[str, Any]:
        train = self._ask("path")
        if self.val_path is None:
            return {"train": train, "val_fraction": self.val_fraction}
        return {"train": train, "val": self._ask("val_path")}

    def size(self) -> int:
        keys = ("path", "val_path") if self.val_path else ("path",)
        return sum(path.stat().st_size for key in keys for path in self._find(key))

    def accepts(self, kind: str) -> bool:
        """Whether this part can make something of files that sniff.kind calls so."""
        return kind == self.own

    def _find(self, key: str) -> list[Path]:
        return find(getattr(self, key), self.suffixes, f"data.{key}")

    def _ask(self, key: str) -> list[Any]:
        """The files' identity, once none of the first is of another kind: its text would be learnt as it stands.

        Raises:
            DataError: the line has the part that reads them.
        """
        paths = self._find(key)
        for path in paths[:SNIFFED]:
            kind = sniff.kind(path)
            if not self.accepts(kind):
                raise DataError(_other_kind(path, kind, self.own))
        return files_identity(paths)


@register("data", "text")
class Text(_Files):
    """Plain UTF-8 text files: a file, a folder of .txt and .md files, or a glob.

    Reference: https://www.rfc-editor.org/rfc/rfc3629 (UTF-8)

    Each file is one document; a file of any size is read in pieces.

    path: file, folder or glob, such as 'books/**/*.txt'.
    raw: take files as they stand that look like JSON lines, or that hold zero bytes.
    """

    suffixes = (".txt", ".md")
    own = "text"

    def __init__(
        self,
        *,
        path: NonEmpty,
        val_path: NonEmpty | None = None,
        val_fraction: Probability = 0.1,
        raw: bool = False,
    ) -> None:
        super().__init__(path, val_path, val_fraction)
        self.raw = raw

    def accepts(self, kind: str) -> bool:
        return kind == self.own or (self.raw and kind in ("jsonl", "binary"))

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
    """

    suffixes = (".jsonl", ".ndjson", ".json")
    own = "jsonl"

    def accepts(self, kind: str) -> bool:
        return kind in ("jsonl", "text")  # a line that is none is named when it is read

    def read(self, path: Path) -> Iterator[Document]:
        with _opened(path) as file:
            start = 0
            for number, line in enumerate(file, 1):
                text = _decode(line, path, start).removeprefix("\ufeff").strip()
                start += len(line)
                if text:
                    yield in_memory(self._field(text, f"{path}:{number}"))

    def _field(self, line: str, where: str) -> str:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
            raise DataError(f"{where}: not a line of JSON ({reason}); data=text reads plain text") from error
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
    """

    suffixes = (".parquet",)
    own = "parquet"

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
                        yield in_memory(require_text(value.as_py(), self.field, f"{path}, row {row}"))
            except (OSError, ValueError, pyarrow.ArrowException) as error:
                reason = " ".join(str(error).split())[:200]
                raise DataError(f"{path}: cannot be read after row {row} ({reason})") from error


def find(name: str, suffixes: Sequence[str], key: str) -> list[Path]:
    """The files that a path, folder or glob names, in order of their paths; hidden files only if named outright.

    Raises:
        DataError: there are none.
    """
    path = Path(name).expanduser()
    if os.path.isfile(path):  # unlike Path.is_file, False for a path that is too long
        return [path]
    if os.path.isdir(path):
        inside = (p for p in path.rglob("*") if p.suffix.lower() in suffixes and p.is_file())
        found = sorted(p for p in inside if not any(part.startswith(".") for part in p.relative_to(path).parts))
        if not found:
            raise DataError(f"{key}: the folder {name} holds no {' or '.join(suffixes)} file{_instead(path, name)}")
        return found
    found = sorted(Path(p) for p in glob.glob(str(path), recursive=True) if os.path.isfile(p))
    if not found:
        what = "no file matches" if glob.has_magic(str(path)) else "there is no file or folder"
        raise DataError(f"{key}: {what} {name} (looked from {Path.cwd()})")
    return found


def _instead(folder: Path, name: str) -> str:
    """What a folder without files of the kind holds, and which part reads that."""
    ends = {p.suffix.lower() for p in itertools.islice(folder.rglob("*"), 10_000) if p.is_file()}
    for part in (Text, JSONLines, Parquet):
        if there := sorted(ends & set(part.suffixes)):
            return f"; it holds {there[0]} files: write data={part.own}"
    return f"; other names take a glob: '{name}/**/*'"


def _other_kind(path: Path, kind: str, wanted: str) -> str:
    """The line of a file that another part reads, or none."""
    if kind == "parquet":
        return f"{path} is a parquet file: write data=parquet"
    if kind in sniff.COMPRESSED:
        return f"{path} is compressed ({kind}): unpack it first"
    if kind == "UTF-16":
        return f"{path} is UTF-16: convert it, e.g. `iconv -f utf-16 -t utf-8 OLD > NEW`"
    if kind == "PDF":
        return f"{path} is a PDF: extract its text first"
    if wanted == "text" and kind == "jsonl":
        return (
            f"{path} looks like JSON lines: data=jsonl learns the text in them (data.field=KEY names it), and "
            "data.raw=true learns the lines as they stand, braces and keys included"
        )
    if wanted == "text":
        return f"{path} holds zero bytes and seems to be no text: data.raw=true takes it all the same"
    reader = {"jsonl": "data=jsonl", "text": "data=text"}.get(kind)
    return f"{path} is no {wanted} file{f': {reader} reads it' if reader else ''}"


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
