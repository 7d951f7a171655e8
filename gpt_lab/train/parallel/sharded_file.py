"""safetensors files that every rank writes and reads its own rows of: no rank ever holds a whole tensor.

A rank's rows of a tensor are neighbours in memory and so in the file, whose header says where each tensor lies; the
file is the same, byte for byte, as if one process had written it.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor

NAMES = {
    torch.int64: "I64",
    torch.float64: "F64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""What the format calls number types; tensors lie in this order, so that each begins at a multiple of its size."""


class Rows(NamedTuple):
    """This rank's rows of a tensor.

    Fields:
        here: (rows, ...), maybe none. first: number of the first of them. shape: of the whole tensor.
    """

    here: Tensor
    first: int
    shape: tuple[int, ...]


def prepare(path: Path, tensors: Mapping[str, Tensor | Rows]) -> None:
    """Makes the file with its header, and room for the tensors."""
    header, end = {}, 0
    for name, tensor in _in_order(tensors):
        rows = _rows(tensor)
        size = math.prod(rows.shape) * rows.here.element_size()
        header[name] = {
            "dtype": NAMES[rows.here.dtype],
            "shape": list(rows.shape),
            "data_offsets": [end, end + size],
        }
        end += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "xb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


def fill(path: Path, tensors: Mapping[str, Tensor | Rows], replicated: bool) -> None:
    """Writes what is here into a prepared file.

    Args:
        replicated: whether to write tensors that every rank has whole.
    """
    with open(path, "r+b") as file:
        begin = 8 + int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(begin - 8))
        for name, tensor in tensors.items():
            if isinstance(tensor, Rows) or replicated:
                rows = _rows(tensor)
                each = math.prod(rows.shape[1:]) * rows.here.element_size()
                file.seek(begin + header[name]["data_offsets"][0] + rows.first * each)
                file.write(_bytes(rows.here))
        file.flush()
        os.fsync(file.fileno())


def read_rows(path: Path, name: str, first: int = 0, number: int | None = None) -> Tensor:
    """Some rows of a tensor, without reading the others; with neither argument all of it."""
    with safe_open(path, framework="pt") as file:
        if number is None:
            whole: Tensor = file.get_tensor(name)
            return whole
        found: Tensor = file.get_slice(name)[first : first + number]
    return found


@torch.no_grad()
def read_into(path: Path, tensors: Mapping[str, Tensor | Rows]) -> None:
    """Fills tensors from the file.

    Raises:
        KeyError, ValueError: the file holds others.
    """
    with safe_open(path, framework="pt") as file:
        if set(file.keys()) != set(tensors):
            raise KeyError(f"tensors of other names: {', '.join(sorted(set(file.keys()) ^ set(tensors))[:3])}")
        for name, tensor in tensors.items():
            rows = _rows(tensor)
            shape = file.get_slice(name).get_shape()
            if tuple(shape) != rows.shape:
                raise ValueError(f"{name} is {tuple(shape)} there and {rows.shape} here")
            if rows.shape:
                rows.here.copy_(file.get_slice(name)[rows.first : rows.first + len(rows.here)])
            else:
                rows.here.copy_(file.get_tensor(name))


def _rows(tensor: Tensor | Rows) -> Rows:
    return tensor if isinstance(tensor, Rows) else Rows(tensor, 0, tuple(tensor.shape))


def _in_order(tensors: Mapping[str, Tensor | Rows]) -> Iterator[tuple[str, Tensor | Rows]]:
    places = {dtype: place for place, dtype in enumerate(NAMES)}
    yield from sorted(tensors.items(), key=lambda item: (places[_rows(item[1]).here.dtype], item[0]))


def _bytes(tensor: Tensor) -> bytes:
    found: bytes = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    return found
