"""Text, JSON lines and parquet: what is read, and one clear line for each thing that can be wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from gpt_lab import registry
from gpt_lab.data.corpora import file_corpora
from gpt_lab.data.corpora.file_corpora import JSONLines, Parquet, Text, read_text
from gpt_lab.errors import DataError


def documents(corpus: file_corpora._Files) -> list[str]:
    return ["".join(document.pieces) for document in corpus.documents()]


def write_rows(path: Path, rows: list[object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_parquet(path: Path, **columns: list[object]) -> Path:
    pyarrow.parquet.write_table(pyarrow.table(columns), path, row_group_size=2)
    return path


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("b/2.txt", "a/1.md", "c.txt", "c.csv", ".hidden.txt", ".git/x.txt"):
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name, encoding="utf-8")
    return tmp_path / "tree"


def test_file_folder_and_glob(tree: Path) -> None:
    assert documents(Text(path=str(tree / "c.csv"))) == ["c.csv"]
    assert documents(Text(path=str(tree))) == ["a/1.md", "b/2.txt", "c.txt"]
    assert documents(Text(path=str(tree / "**" / "*.txt"))) == ["b/2.txt", "c.txt"]


def test_home_is_expanded(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tree))
    assert documents(Text(path="~/c.txt")) == ["c.txt"]


def test_jsonl(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "one\\n", "id": 1}\r\n\n{"text": "zw\xc3\xb6lf"}')
    assert documents(JSONLines(path=str(path))) == ["one\n", "zwölf"]
    write_rows(path, [{"story": "x"}])
    assert documents(JSONLines(path=str(path), field="story")) == ["x"]


def test_parquet(tmp_path: Path) -> None:
    write_parquet(tmp_path / "1.parquet", text=["a", "b", "c"], id=[1, 2, 3])
    write_parquet(tmp_path / "2.parquet", text=["d"], id=[4])
    assert documents(Parquet(path=str(tmp_path))) == ["a", "b", "c", "d"]


def test_validation_of_its_own(tree: Path) -> None:
    corpus = Text(path=str(tree / "c.txt"), val_path=str(tree / "b"))
    assert [(p.split, p.text) for p in corpus.passages()] == [("train", "c.txt"), ("val", "b/2.txt")]
    assert corpus.size() == 5 + 7


def test_large_files_come_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_corpora, "PIECE", 64)
    text = "\ufeff" + "".join(f"Zeile {i}: äöü €uro 𝄞\n" for i in range(200)) + "x" * 500
    path = tmp_path / "large.txt"
    path.write_text(text, encoding="utf-8")
    pieces = list(read_text(path))
    assert "".join(pieces) == text[1:]
    assert len(pieces) > 50
    assert max(map(len, pieces)) <= 128


@pytest.mark.parametrize("at", [0, 1, 63, 64, 65, 1000])
def test_the_first_byte_that_is_not_utf8(at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_corpora, "PIECE", 64)
    path = tmp_path / "latin1.txt"
    path.write_bytes(b"a" * at + b"\xe4" + b"b" * 500)
    with pytest.raises(DataError, match=rf"latin1.txt: not UTF-8 at byte {at}; convert"):
        documents(Text(path=str(path)))
    path.write_bytes(b"a" * at + b"\xe2\x82")  # cut off inside a character
    with pytest.raises(DataError, match=rf"latin1.txt: not UTF-8 at byte {at};"):
        documents(Text(path=str(path)))


def test_jsonl_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"text": "a"}\n{"text": "\xe4"}\n')
    with pytest.raises(DataError, match=r"rows.jsonl: not UTF-8 at byte 24;"):
        documents(JSONLines(path=str(path)))


@pytest.mark.parametrize(
    "line, says",
    [
        ('{"text": "a"', r"rows.jsonl:2: not a line of JSON \(.*column 13\)"),
        ("[1, 2]", r'rows.jsonl:2: a JSON object is expected, such as \{"text": ...\}'),
        ('{"texts": "a"}', r"rows.jsonl:2: unknown data.field 'text'; did you mean 'texts'\? \(allowed: texts\)"),
        ('{"text": null}', r"rows.jsonl:2: text must be text, not null"),
        ('{"text": ["a"]}', r"rows.jsonl:2: text must be text, not list"),
        ('{"text": "\\ud800"}', r"rows.jsonl:2: text holds half a surrogate pair at character 0"),
        ("[" * 100_000, r"rows.jsonl:2: not a line of JSON"),
    ],
)
def test_bad_lines(line: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "fine"}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=says) as caught:
        documents(JSONLines(path=str(path)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "make, says",
    [
        (lambda p: write_parquet(p, body=["a"]), r"x.parquet: unknown data.field 'text' \(allowed: body\)"),
        (lambda p: write_parquet(p, text=[1]), "x.parquet, row 1: text must be text, not int"),
        (lambda p: write_parquet(p, text=["a", None]), "x.parquet, row 2: text must be text, not null"),
        (lambda p: p.write_bytes(b"PAR1 not really"), "x.parquet: cannot be read as parquet"),
    ],
)
def test_bad_parquet(make: Callable[[Path], object], says: str, tmp_path: Path) -> None:
    make(tmp_path / "x.parquet")
    with pytest.raises(DataError, match=says) as caught:
        documents(Parquet(path=str(tmp_path)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "part, name, content, says",
    [
        (
            Text,
            "x.jsonl",
            b'{"text": "a"}\n{"text": "b"}\n',
            "looks like JSON lines: data=jsonl learns the text in them",
        ),
        (Text, "x.txt", b'\xef\xbb\xbf\n {"a": {"b": 1}, "text": "c"}', "looks like JSON lines"),
        (Text, "x.txt", b'{"text": "' + b"a" * 100_000 + b'"}\n', "looks like JSON lines"),
        (Text, "x.txt", b"PAR1....", "x.txt is a parquet file: write data=parquet"),
        (Text, "x.txt", b"a\0b", "holds zero bytes and seems to be no text: data.raw=true"),
        (Text, "x.txt", b"\x1f\x8b\x08", r"is compressed \(gzip\): unpack it first"),
        (Text, "x.txt", "a".encode("utf-16"), "is UTF-16: convert it"),
        (JSONLines, "x.json", b"PAR1....", "x.json is a parquet file: write data=parquet"),
        (JSONLines, "x.json", b"a\0b", "x.json is no jsonl file$"),
        (Parquet, "x.parquet", b'{"text": "a"}\n', "x.parquet is no parquet file: data=jsonl reads it"),
        (Parquet, "x.parquet", b"some words", "x.parquet is no parquet file: data=text reads it"),
    ],
)
def test_files_of_another_kind(
    part: type[file_corpora._Files], name: str, content: bytes, says: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=says):
        part(path=str(tmp_path / name), val_path=None, val_fraction=0.1).identity()  # before any shard is looked for


def test_a_folder_of_another_kind(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", [{"text": "a"}])
    with pytest.raises(DataError, match=r"holds no \.txt or \.md file; it holds \.jsonl files: write data=jsonl"):
        Text(path=str(tmp_path)).identity()


@pytest.mark.parametrize(
    "content", ['{"text": "a"}\n', "a\0b", "{\n", '{"a": 1} and on\n', "[1]\n", '{"a": 1}\nplain\n', ""]
)
def test_text_as_it_stands(content: str, tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text(content)
    corpus = Text(path=str(path), raw=content in ('{"text": "a"}\n', "a\0b"))
    assert corpus.identity() and documents(corpus) == [content]


@pytest.mark.parametrize("name", ["text", "jsonl", "parquet"])
def test_nothing_there(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path, says in {
        "missing.x": r"data.path: there is no file or folder .*missing.x \(looked from /",
        "*.x": r"data.path: no file matches .*\*.x",
        "empty": r"data.path: the folder .*empty holds no \..* file; other names take a glob",
    }.items():
        with pytest.raises(DataError, match=says):
            registry.build("data", {"name": name, "path": str(tmp_path / path)}).identity()
    (tmp_path / "there").write_text("PAR1" if name == "parquet" else "x", encoding="utf-8")
    corpus = registry.build("data", {"name": name, "path": str(tmp_path / "there"), "val_path": "missing.y"})
    with pytest.raises(DataError, match="data.val_path: there is no file or folder missing.y"):
        corpus.identity()


def test_identity_is_the_content(tree: Path, tmp_path: Path) -> None:
    first = Text(path=str(tree)).identity()
    (tree / "c.csv").write_text("another file", encoding="utf-8")
    moved = tree.rename(tmp_path / "moved")
    assert Text(path=str(moved)).identity() == first
    assert Text(path=str(moved), val_fraction=0.2).identity() != first
    (moved / "c.txt").write_text("d.txt", encoding="utf-8")
    assert Text(path=str(moved)).identity() != first


def test_identity_knows_where_a_file_ends(tmp_path: Path) -> None:
    for name, texts in {"x": ["ab", "c"], "y": ["a", "bc"]}.items():
        (tmp_path / name).mkdir()
        for i, text in enumerate(texts):
            (tmp_path / name / f"{i}.txt").write_text(text, encoding="utf-8")
    assert Text(path=str(tmp_path / "x")).identity() != Text(path=str(tmp_path / "y")).identity()


def test_identity_of_large_files_reads_none(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_corpora, "HASHED", 10)
    monkeypatch.setattr(Path, "read_bytes", lambda self: pytest.fail("was read"))
    first = Text(path=str(tree)).identity()
    assert Text(path=str(tree)).identity() == first
    (tree / "c.txt").write_text("longer than before", encoding="utf-8")
    assert Text(path=str(tree)).identity() != first
