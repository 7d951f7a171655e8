"""Block checksums (CRC-32) of a token file, each checked when a token of it is first used.

To read a large corpus whole at every start would take longer than many a run; so each block is checked when the first
token of it is asked for, once in a process. A block is less than what the kernel reads ahead around a token anyway.
CRC-32 misses one damaged block in 4 billion.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np

BLOCK = 1 << 14
"""Bytes of a block: checking one takes 7 microseconds."""

Array = np.ndarray[Any, Any]


def checksums(path: Path) -> Array:
    """CRC-32 of each block of a file, uint32."""
    with open(path, "rb") as file:
        return np.array([zlib.crc32(block) for block in iter(lambda: file.read(BLOCK), b"")], dtype="<u4")


class Blocks:
    """A file's bytes, and which of its blocks this process has found to be as they were written.

    Args:
        data: the file, mapped: uint8. sums: as `checksums` gave them when it was written.
    """

    def __init__(self, data: Array, sums: Array) -> None:
        self._data = data
        self._sums = sums
        self._known = np.zeros(len(sums), dtype=bool)
        self._left = len(sums)

    def damaged(self, first: Array, last: Array) -> int | None:
        """The first byte of a block that is damaged, among those that hold bytes first to last; None: all are whole.

        Args:
            first, last: of several ranges, (number,).
        """
        if not self._left:
            return None
        first, last = first // BLOCK, last // BLOCK
        longest = int((last - first).max()) + 1
        wanted = np.minimum(first[:, None] + np.arange(longest), last[:, None])
        for block in sorted(set(wanted[~self._known[wanted]].tolist())):
            if zlib.crc32(self._data[block * BLOCK : (block + 1) * BLOCK].data) != self._sums[block]:
                return int(block * BLOCK)
            self._known[block] = True
            self._left -= 1
        return None
