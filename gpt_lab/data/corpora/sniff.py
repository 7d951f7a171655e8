"""File type detection by the first bytes, so that a file is not read by the wrong reader."""

from __future__ import annotations

import json
import re
from pathlib import Path

from gpt_lab.errors import DataError

HEAD = 1 << 16
"""Bytes that are looked at."""
MAGIC = {
    b"PAR1": "parquet",
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\xfd7zXZ": "xz",
    b"BZh": "bzip2",
    b"%PDF": "PDF",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
COMPRESSED = ("gzip", "zip", "zstd", "xz", "bzip2")
ROW = re.compile(r'\s*\{\s*"(?:[^"\\]|\\.)*"\s*:')


def kind(path: Path) -> str:
    """parquet, gzip, zip, zstd, xz, bzip2, PDF, UTF-16; `binary` of another with a zero byte; jsonl; else text.

    Raises:
        DataError: it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    for magic, name in MAGIC.items():
        if head.startswith(magic):
            return name
    if b"\0" in head:
        return "binary"
    return "jsonl" if _rows(head) else "text"


def _rows(head: bytes) -> bool:
    """Whether the first lines are JSON objects, one on each; a line that goes on beyond the head may be one."""
    text = head.decode("utf-8", errors="replace").removeprefix("\ufeff")
    lines = text.split("\n")
    cut = lines.pop() if len(head) == HEAD else None
    whole = [line for line in lines if line.strip()][:3]
    if not whole:
        return cut is not None and ROW.match(cut) is not None
    return all(_is_object(line) for line in whole)


def _is_object(line: str) -> bool:
    if not ROW.match(line):
        return False
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False
