"""The run folder keeps what it was given, through kills, full disks and rivals."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from gpt_lab.errors import ConfigError, DataError, LabError
from gpt_lab.store import Run, atomic_files, lock

CONFIG = {"optim": {"name": "adamw", "lr": 1e-5}, "seed": 0, "prompt": "ROMEO:\n", "none": None}
ROOT = Path(__file__).parent.parent.parent


def make(root: Path, name: str = "run", study: str = "study", **fields: Any) -> Run:
    return Run.create(root, study, name, CONFIG, {"signature": f"sig-{name}", **fields})


def in_another_process(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, timeout=60
    )


def test_create_and_open(tmp_path: Path) -> None:
    run = make(tmp_path, seed=3)
    assert run.path == tmp_path / "study" / "run"
    assert sorted(p.name for p in run.path.iterdir()) == ["checkpoints", "config.yaml", "run.json", "samples"]
    assert [p.name for p in run.path.parent.iterdir()] == ["run"], "nothing temporary stays"
    again = Run.open(run.path)
    assert again.record == run.record
    assert again.config == CONFIG
    assert (again.name, again.study, again.state, again.summary) == ("run", "study", "running", {})
    assert re.fullmatch(r"sig-run-[0-9a-f]{6}", again.record["id"])
    assert again.record["seed"] == 3
    assert yaml.safe_load((run.path / "config.yaml").read_text()) == CONFIG


def test_same_name(tmp_path: Path) -> None:
    """The same signature is the same run; another signature never lands in a folder that is taken."""
    first = make(tmp_path)
    assert make(tmp_path).record == first.record
    other = make(tmp_path, signature="other")
    assert (other.path.name, other.name, other.record["name"]) == ("run-2", "run-2", "run-2")
    assert make(tmp_path, signature="third").name == "run-3"
    assert make(tmp_path, signature="other").record == other.record


def test_racing_creators_make_one_run(tmp_path: Path) -> None:
    gate, made = threading.Barrier(8), []

    def race() -> None:
        gate.wait()
        made.append(make(tmp_path))

    threads = [threading.Thread(target=race) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {run.record["id"] for run in made} == {made[0].record["id"]}
    assert [p.name for p in (tmp_path / "study").iterdir()] == ["run"]


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "a\nb", "x" * 201, "é" * 150, "a\\b"])
def test_names_that_cannot_be_folders(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be a folder"):
        make(tmp_path, name)
    with pytest.raises(ConfigError, match="cannot be a folder"):
        make(tmp_path, study=name)
    assert list(tmp_path.iterdir()) == []


def test_metrics(tmp_path: Path) -> None:
    run = make(tmp_path)
    assert run.metrics() == []
    run.log(1, {"train/loss": 2.5}, tokens=100, flops=1e6, seconds=0.5)
    assert (run.path / "metrics.jsonl").read_text() == (
        '{"step":1,"tokens":100,"flops":1000000.0,"seconds":0.5,"train/loss":2.5}\n'
    )
    run.log(2, {"train/loss": math.nan, "train/grad_norm": math.inf})
    run.log(2, {"val/loss": -math.inf})
    run.log(1, {"train/loss": 2.0})
    first, second = Run.open(run.path).metrics()
    assert first == {"step": 1, "tokens": 100, "flops": 1e6, "seconds": 0.5, "train/loss": 2.0}
    assert math.isnan(second["train/loss"])
    assert (second["train/grad_norm"], second["val/loss"]) == (math.inf, -math.inf)
    for line in (run.path / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_numbers_of_libraries(tmp_path: Path) -> None:
    import numpy as np

    float32: Any = np.float32(0.5)
    int64: Any = np.int64(3)
    run = make(tmp_path)
    run.log(1, {"a": float32, "b": int64})
    assert run.metrics() == [{"step": 1, "a": 0.5, "b": 3.0}]
    assert atomic_files.decode(atomic_files.encode({"x": (1, math.inf), "p": Path("a")})) == {
        "x": [1, math.inf],
        "p": "a",
    }


@pytest.mark.parametrize("torn", ['{"step":3,"a"', '{"step":3,"a":1.0}', '{"step":3}\n{"ste', "\x00\x00\x00"])
def test_torn_end(tmp_path: Path, torn: str) -> None:
    """A half line is skipped by readers, and cut off before the next line is written."""
    run = make(tmp_path)
    run.log(1, {"a": 1.0})
    run.log(2, {"a": 2.0})
    with open(run.path / "metrics.jsonl", "a") as file:
        file.write(torn)
    whole = [row["step"] for row in Run.open(run.path).metrics()]
    assert whole[:2] == [1, 2]
    after = Run.open(run.path)
    after.log(4, {"a": 4.0})
    lines = (run.path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, *([3] if "\n" in torn else []), 4]


def test_kill_while_logging(tmp_path: Path) -> None:
    """kill -9 loses no line that `log` has returned from."""
    run = make(tmp_path)
    code = """
import sys
from gpt_lab.store import Run
run = Run.open(sys.argv[1])
for step in range(10**9):
    run.log(step, {"a": step / 3})
    print(step, flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", code, run.path], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    told = [int(process.stdout.readline()) for _ in range(200)]
    process.kill()
    told += [int(line) for line in process.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
    process.stdout.close()
    process.wait()
    steps = [row["step"] for row in run.metrics()]
    assert steps[: len(told)] == told
    assert len(steps) <= len(told) + 1


def test_truncate(tmp_path: Path) -> None:
    run = make(tmp_path)
    for step in range(1, 6):
        run.log(step, {"a": float(step)})
    run.truncate_after(3)
    run.log(4, {"a": 40.0})
    assert [(row["step"], row["a"]) for row in run.metrics()] == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 40.0)]
    run.truncate_after(99)
    assert len(run.metrics()) == 4
    run.truncate_after(0)
    assert run.metrics() == []


def test_update_and_finish(tmp_path: Path) -> None:
    run = make(tmp_path)
    run.update(device="cpu", nested={"loss": math.nan})
    assert Run.open(run.path).record["device"] == "cpu"
    run.log(1, {"a": 1.0})
    run.finish("finished", {"val/bpb": 2.0, "val/ppl": math.inf})
    again = Run.open(run.path)
    assert again.state == "finished"
    assert again.summary == {"val/bpb": 2.0, "val/ppl": math.inf}
    assert again.record["started"] < again.record["finished"] <= again.record["updated"]
    with pytest.raises(ConfigError, match="did you mean 'finished'"):
        run.update(state="finish")
    json.loads((run.path / "run.json").read_text(), parse_constant=lambda name: pytest.fail(name))


def test_update_from_threads(tmp_path: Path) -> None:
    run = make(tmp_path)

    def work(number: int) -> None:
        for count in range(10):
            run.update(**{f"thread{number}": count})
            run.log(count, {f"t{number}": 1.0})

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    again = Run.open(run.path)
    assert [again.record[f"thread{number}"] for number in range(4)] == [9] * 4
    assert all(len(row) == 5 for row in again.metrics())


def test_sample(tmp_path: Path) -> None:
    run = make(tmp_path)
    path = run.sample(20, "ROMEO:\nhé \ud800")
    assert path == run.samples / "step_00000020.txt"
    assert path.read_text(encoding="utf-8") == "ROMEO:\nhé ?"


def test_restart(tmp_path: Path) -> None:
    run = make(tmp_path)
    run.log(1, {"a": 1.0})
    run.sample(1, "x")
    (run.checkpoints / "last").mkdir()
    run.update(wandb={"id": "old"})
    run.finish("finished", {"val/bpb": 2.0})
    old = run.record["id"]
    run.restart(command="train force=true")
    again = Run.open(run.path)
    assert (again.state, again.summary, again.metrics(), again.record["finished"]) == ("running", {}, [], None)
    assert again.record["id"] != old
    assert "wandb" not in again.record
    assert again.record["command"] == "train force=true"
    assert list(again.checkpoints.iterdir()) == list(again.samples.iterdir()) == []


# disks


def test_full_disk(tmp_path: Path) -> None:
    """A limit on file sizes makes writes fail as a full disk does, half-way through a line too."""
    run = make(tmp_path)
    code = """
import resource, sys
from gpt_lab.errors import LabError
from gpt_lab.store import Run
run = Run.open(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    for step in range(1000):
        run.log(step, {"train/loss": 1.0})
        print(step)
except LabError as error:
    print(error, file=sys.stderr)
for attempt in (lambda: run.update(note="x" * 1000), lambda: run.sample(1, "x" * 1001)):
    try:
        attempt()
    except LabError as error:
        print(error, file=sys.stderr)
"""
    before = (run.path / "run.json").read_bytes()
    done = in_another_process(code, run.path)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 3
    for line, name in zip(lines, ("metrics.jsonl", "run.json", "samples/step_00000001.txt"), strict=True):
        assert line.startswith(f"cannot write {run.path / name}: no space left: free some")
    data = (run.path / "metrics.jsonl").read_bytes()
    assert data.endswith(b"\n")
    assert [row["step"] for row in run.metrics()] == [int(step) for step in done.stdout.split()]
    assert (run.path / "run.json").read_bytes() == before
    assert not list(run.path.rglob("*.tmp"))
    assert list(run.samples.iterdir()) == []


def test_full_disk_on_create(tmp_path: Path) -> None:
    code = """
import resource, sys
from gpt_lab.errors import LabError
from gpt_lab.store import Run
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
try:
    Run.create(sys.argv[1], "study", "run", {"x": "y" * 200}, {})
except LabError as error:
    print(error)
"""
    done = in_another_process(code, tmp_path)
    assert "no space left" in done.stdout
    assert list((tmp_path / "study").iterdir()) == []


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    run = make(tmp_path)

    def refuse(*arguments: Any, **keywords: Any) -> Any:
        raise OSError(number, os.strerror(number))

    attempts: list[Callable[[], Any]] = [
        lambda: run.log(1, {"a": 1.0}),
        lambda: run.update(a=1),
        lambda: run.sample(1, "x"),
        run.lock,
        lambda: make(tmp_path, "other"),
    ]
    monkeypatch.setattr("os.open", refuse)
    monkeypatch.setattr("builtins.open", refuse)
    monkeypatch.setattr("os.mkdir", refuse)
    for attempt in attempts:
        with pytest.raises(LabError, match=r"cannot write .*make it writable or choose another folder with runs_dir="):
            attempt()


def test_runs_dir_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(LabError, match="choose another folder with runs_dir="):
        make(tmp_path / "runs")


def test_unreadable_records(tmp_path: Path) -> None:
    run = make(tmp_path)
    (run.path / "run.json").write_text('{"state": ')
    with pytest.raises(DataError, match="not valid JSON"):
        Run.open(run.path)
    (run.path / "run.json").write_text("[]")
    with pytest.raises(DataError, match="a JSON object is expected"):
        Run.open(run.path)
    with pytest.raises(DataError, match="it has no run.json"):
        Run.open(tmp_path)
    (run.path / "run.json").write_text("[" * 200_000)
    with pytest.raises(DataError, match="not valid JSON"):
        Run.open(run.path)
    (run.path / "config.yaml").write_text("a: [")
    with pytest.raises(DataError, match="not valid YAML"):
        _ = run.config


def test_a_file_that_was_changed_is_not_what_was_written(tmp_path: Path) -> None:
    """Any byte: the digest is of the text. A file without a digest is another program's, and taken as it is."""
    path = tmp_path / "a.json"
    value = {"text": "é\n", "list": [1, 2.5, None], "sum": {"nan": math.nan}}
    atomic_files.write_json(path, value)
    data = path.read_bytes()
    assert atomic_files.decode(atomic_files.read_json(path, digest=True))["list"] == value["list"]
    changed = 0
    for at in range(len(data)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        try:
            atomic_files.read_json(path, digest=True)
        except DataError:
            changed += 1
    assert changed == len(data)
    path.write_text(json.dumps(json.loads(data)))
    with pytest.raises(DataError, match="a.json was edited or is damaged: its digest does not fit"):
        atomic_files.read_json(path)
    path.write_text('{"a": 1}')
    assert atomic_files.read_json(path) == {"a": 1}
    with pytest.raises(DataError, match="its digest does not fit"):
        atomic_files.read_json(path, digest=True)


# locks


def test_lock(tmp_path: Path) -> None:
    run = make(tmp_path)
    assert run.holder() is None
    with run.lock():
        holder = run.holder()
        assert holder is not None
        assert (holder["pid"], holder["start_time"]) == (os.getpid(), lock.start_time(os.getpid()))
        with pytest.raises(
            LabError, match=rf"run run is being trained by process {os.getpid()} on .*kill {os.getpid()}"
        ):
            Run.open(run.path).lock()
    assert run.holder() is None
    held = run.lock()
    for text in ("", "[]", "[" * 200_000):
        (run.path / "lock").write_text(text)
        assert (run.holder() or {})["pid"] == "?"
    held.release()
    held.release()
    assert run.holder() is None


def test_lock_of_another_process_ends_with_it(tmp_path: Path) -> None:
    run = make(tmp_path)
    code = "import sys; from gpt_lab.store import Run; Run.open(sys.argv[1]).lock(); print('held', flush=True); input()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, run.path], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(LabError, match=f"process {process.pid} "):
            run.lock()
        assert (run.holder() or {})["pid"] == process.pid
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert run.holder() is None
        with run.lock():
            assert (run.holder() or {})["pid"] == os.getpid()


def test_start_time() -> None:
    assert isinstance(lock.start_time(os.getpid()), int)
    assert lock.start_time(2**22 + 1) is None
