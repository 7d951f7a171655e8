"""Reads the file of an offline W&B run, also one that a killed process left."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK = 32768
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def chunks(data: bytes) -> Iterator[bytes]:
    """The records of a LevelDB-framed log after its 7-byte header, up to the first torn one."""
    at, record = 7, b""
    while at + 7 <= len(data):
        if BLOCK - at % BLOCK < 7:  # no room for a frame header: zeros up to the next block
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        if kind not in (FULL, FIRST, MIDDLE, LAST) or at + 7 + length > len(data):
            return
        record = (b"" if kind in (FULL, FIRST) else record) + data[at + 7 : at + 7 + length]
        if kind in (FULL, LAST):
            yield record
        at += 7 + length


def read(folder: Path) -> dict[str, Any]:
    """{"history": rows, "config": settings by key, "summary": values by key, "name", "group", "exit_code"} of the run
    file in `folder`."""
    from wandb.proto import wandb_internal_pb2 as pb

    (file,) = folder.glob("*.wandb")
    found: dict[str, Any] = {"history": [], "config": {}, "summary": {}, "exit_code": None}
    for chunk in chunks(file.read_bytes()):
        record = pb.Record.FromString(chunk)  # type: ignore[attr-defined]
        if record.HasField("history"):
            found["history"].append(_items(record.history.item))
        elif record.HasField("summary"):
            found["summary"].update(_items(record.summary.update))
        elif record.HasField("run"):
            found["config"].update(_items(record.run.config.update))
            found |= {"name": record.run.display_name, "group": record.run.run_group}
        elif record.HasField("config"):
            found["config"].update(_items(record.config.update))
        elif record.HasField("exit"):
            found["exit_code"] = record.exit.exit_code
    return found


def _items(items: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
