"""Runs in offline W&B files: as the client writes them, torn, damaged, resumed."""

from __future__ import annotations

import json
import os
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpt_lab import schema
from gpt_lab.errors import DataError
from gpt_lab.frame.sources import wandb_offline
from gpt_lab.frame.sources.source import Source
from gpt_lab.store import Run
from gpt_lab.trackers import build_tracker
from tests.trackers import offline as oracle
from tests.trackers.plain import plain_config


def pb() -> Any:
    from wandb.proto import wandb_internal_pb2

    return wandb_internal_pb2


def begin(run: str, started: int, **config: Any) -> Any:
    record = pb().Record()
    record.run.run_id, record.run.display_name, record.run.run_group = run, f"name of {run}", "small"
    record.run.start_time.seconds = started
    for key, value in config.items():
        item = record.run.config.update.add()
        item.key, item.value_json = key, json.dumps(value)
    return record


def line(step: int, **values: Any) -> Any:
    record = pb().Record()
    for key, value in {"step": step, **values}.items():
        item = record.history.item.add()
        item.nested_key.append(key.replace("__", "/"))
        item.value_json = json.dumps(value)
    return record


def end(exit_code: int = 0, seconds: int = 9, **summary: Any) -> list[Any]:
    values, last = pb().Record(), pb().Record()
    for key, value in summary.items():
        item = values.summary.update.add()
        item.key, item.value_json = key.replace("__", "/"), json.dumps(value)
    last.exit.exit_code, last.exit.runtime = exit_code, seconds
    return [values, last]


def framed(bodies: list[bytes]) -> bytes:
    """A LevelDB log, as long records need it: frames end where blocks of 32 KiB do."""
    data = bytearray(b":W&B\xe1\xbe\x00")
    for body in bodies:
        first = True
        while True:
            room = 32768 - len(data) % 32768
            if room < 7:
                data += bytes(room)
                continue
            piece, body = body[: room - 7], body[room - 7 :]
            kind = (1 if first else 4) if not body else (2 if first else 3)
            data += struct.pack("<IHB", zlib.crc32(bytes([kind]) + piece), len(piece), kind) + piece
            first = False
            if not body:
                break
    return bytes(data)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes one file as W&B names it, an hour old."""

    def make(folder: str, records: list[Any], cut: int = 0, flip: int | None = None) -> Path:
        data = bytearray(framed([record.SerializeToString() for record in records]))
        if flip is not None:
            data[flip] ^= 1
        path = tmp_path / "wandb" / f"offline-run-{folder}" / "run-x.wandb"
        path.parent.mkdir(parents=True)
        path.write_bytes(data[: len(data) - cut])
        hour_ago = time.time() - 3600
        os.utime(path, (hour_ago, hour_ago))
        return path

    return make


def curve(source: Source, number: int = 0) -> dict[int, float]:
    run = source.rows[number]["run"]
    table = source.curves([run])[run]
    return dict(zip(table["step"].tolist(), table["train/loss"].tolist(), strict=True))


@pytest.mark.slow
def test_as_the_client_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tracker's own offline run: the same settings, curve and final values as in the store."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    cfg = plain_config()
    facts = {"signature": "s", "parameters": 41000, "train_flops_per_token": 7, "git": {"commit": "abc"}}
    run = Run.create(tmp_path, cfg.study, "run", cfg.to_dict(), {"config": cfg.flat(), **facts})
    tracker = build_tracker({"name": "auto"}, run, cfg)
    tracker.start()
    for step in range(1, 200):
        tracker.log({"tokens": 64 * step, "train/loss": 100.0 - step}, step)
    tracker.log({"val/bpb": float("nan")}, 199)
    tracker.log({f"wide/{number}": number for number in range(4000)}, 199)  # a record of several blocks
    tracker.text("sample", "hello", 199)
    tracker.finish("finished", {"val/bpb": 2.25, "steps": 199, "tokens": 12736})
    folder = run.path / run.record["wandb"]["folder"]
    for place in (tmp_path, run.path.parent, run.path, run.path / "wandb", folder):
        source = wandb_offline.load(place)
        assert ([row["run"] for row in source.rows], source.notes) == ([str(folder)], [])
    (row,) = source.rows
    assert row["config"] == cfg.flat()
    assert schema.identity(row["config"]) == cfg.identity()
    assert (row["source"], row["study"], row["name"], row["state"]) == ("offline", "ablation", "run", "finished")
    assert (row["steps"], row["tokens"], row["parameters"], row["train_flops_per_token"]) == (199, 12736, 41000, 7)
    assert row["summary"]["val/bpb"] == 2.25
    assert row["env"]["commit"] == "abc"
    assert row["env"]["started"] <= row["env"]["finished"]
    assert curve(source) == {step: 100.0 - step for step in range(1, 200)}
    table = source.curves([row["run"]])[row["run"]]
    wide = [f"wide/{number}" for number in range(4000)]
    assert set(table.columns) == {"step", "tokens", "train/loss", "val/bpb", *wide}
    assert table[wide].iloc[-1].tolist() == list(range(4000))
    assert next(folder.glob("*.wandb")).stat().st_size > 4 * wandb_offline.BLOCK
    kept = oracle.read(folder)["history"]
    assert [(line["step"], line["train/loss"]) for line in kept] == list(curve(source).items())


def test_long_records(write: Callable[..., Path], tmp_path: Path) -> None:
    """Records that cross one block, several, and one that ends within 7 bytes of a block."""
    for number, size in enumerate((30_000, 70_000, 32_768 - 2 * 7 - 80, *range(32_600, 32_680, 3))):
        text = line(1, note="x" * size)
        write(str(number), [begin(f"r{number}", 100), text, line(2, train__loss=1.0), *end()])
    source = wandb_offline.load(tmp_path)
    assert source.notes == []
    assert [row["state"] for row in source.rows] == ["finished"] * len(source.rows)
    for number, row in enumerate(source.rows):
        assert curve(source, number)[2] == 1.0, row["name"]


def test_killed(write: Callable[..., Path], tmp_path: Path) -> None:
    """A torn last record is no error; a file that is still being written is a running run."""
    records = [begin("r0", 100, signature="s"), *(line(step, train__loss=9.0 - step) for step in range(1, 5))]
    path = write("a", records, cut=5)
    source = wandb_offline.load(tmp_path)
    assert curve(source) == {1: 8.0, 2: 7.0, 3: 6.0}
    assert (source.rows[0]["state"], source.notes) == ("stopped", [])
    assert source.rows[0]["error"].startswith("killed while running")
    assert source.rows[0]["summary"] == {"train/loss": 6.0}
    os.utime(path)
    assert wandb_offline.load(tmp_path).rows[0]["state"] == "running"


def test_damaged(write: Callable[..., Path], tmp_path: Path) -> None:
    """A flipped bit ends what is read: no number behind it, and none of it."""
    records = [
        begin("r0", 100, signature="s"),
        line(1, train__loss=8.0),
        line(2, train__loss=7.0),
        *end(state="finished"),
    ]
    whole = framed([record.SerializeToString() for record in records])
    at = whole.index(b"7.0")
    path = write("a", records, flip=at)
    (row,) = (source := wandb_offline.load(tmp_path)).rows
    assert curve(source) == {1: 8.0}
    assert row["state"] == "stopped"
    assert source.notes == [f"{path} is damaged: only what stands before that place is read"]
    path.write_bytes(framed([record.SerializeToString() for record in records[:2]]) + bytes(5000))
    assert (curve(source := wandb_offline.load(tmp_path)), source.notes) == ({1: 8.0}, [])


def test_resumed(write: Callable[..., Path], tmp_path: Path) -> None:
    """Files of one run are one run: what was logged beyond the checkpoint is logged again, and counts once."""
    first = [begin("r0", 100, signature="s", seed=0), *(line(5 * k, train__loss=100.0 - k) for k in range(1, 8))]
    second = [begin("r0", 500, signature="s", seed=0), line(20, val__bpb=3.0), line(25, train__loss=95.5)]
    write("2", [*second, *end(255, 30, steps=27, state="stopped")])
    write("1", first)
    write("3", [begin("r1", 300, seed=1), line(1, train__loss=1.0), *end(state="finished", val__bpb=2.0)])
    source = wandb_offline.load(tmp_path)
    rows = {row["name"]: row for row in source.rows}
    row = rows["name of r0"]
    assert row["run"].endswith("offline-run-2")
    assert (row["state"], row["error"]) == ("stopped", "stopped at step 27: the same command resumes it")
    assert (row["env"]["started"], row["env"]["finished"]) == ("1970-01-01T00:01:40Z", "1970-01-01T00:08:50Z")
    table = source.curves([row["run"]])[row["run"]]
    assert table["step"].tolist() == [5, 10, 15, 20, 25]
    assert table["train/loss"].tolist() == [99.0, 98.0, 97.0, 96.0, 95.5]
    assert table["val/bpb"].dropna().tolist() == [3.0]
    assert (rows["name of r1"]["state"], rows["name of r1"]["study"]) == ("finished", "small")
    assert rows["name of r1"]["summary"] == {"train/loss": 1.0, "val/bpb": 2.0}


def test_resumed_then_killed(write: Callable[..., Path], tmp_path: Path) -> None:
    """The word of the first ending does not outlive the resume."""
    write("1", [begin("r0", 100, signature="s"), line(5, train__loss=9.0), *end(255, state="stopped", steps=7)])
    write("2", [begin("r0", 500, signature="s"), line(10, train__loss=8.0)])
    (row,) = wandb_offline.load(tmp_path).rows
    assert (row["state"], row["error"]) == ("stopped", "killed while running: the same command resumes it")


def test_reports_are_no_runs(write: Callable[..., Path], tmp_path: Path) -> None:
    report = begin("p", 100)
    report.run.job_type = "report"
    write("1", [report, *end()])
    write("2", [begin("r0", 100), *end()])
    assert [row["name"] for row in wandb_offline.load(tmp_path).rows] == ["name of r0"]


def test_what_is_no_run(write: Callable[..., Path], tmp_path: Path) -> None:
    """Named in a note, and the others are read."""
    write("1", [begin("r0", 100), *end()])
    empty = write("2", [])
    foreign = tmp_path / "notes.wandb"
    foreign.write_text("no such thing")
    source = wandb_offline.load(tmp_path)
    assert [row["name"] for row in source.rows] == ["name of r0"]
    assert source.notes == [f"{foreign} is no W&B file: left out", f"{empty} names no run: left out"]


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no offline W&B files"):
        wandb_offline.load(tmp_path)
