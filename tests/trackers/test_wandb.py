"""The real W&B client, online against the double and offline: nothing lost, nothing doubled, nothing blocked."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gpt_lab.cli import upload
from gpt_lab.config import checked
from gpt_lab.config.schema import RunConfig
from gpt_lab.store import Run
from gpt_lab.trackers import Tracker, build_tracker, lacking
from gpt_lab.trackers import upload as send
from gpt_lab.trackers.wandb import Wandb
from gpt_lab.trackers.wandb_process import unreachable
from tests.trackers import offline
from tests.trackers.wandb_double import RecordedRun, WandbDouble

ROOT = Path(__file__).parent.parent.parent
BLINK = 0.25
"""Seconds; a call that waits for a server takes longer, one that the scheduler of a busy machine delays does not."""
SETTINGS: dict[str, Any] = {"name": "wandb", "mode": "auto"}


def until(true: Callable[[], Any], seconds: float = 120) -> None:
    """Waits until `true()`; fails after so long."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def log(tracker: Tracker, steps: range) -> float:
    """Logs train/loss = 100 - step for each step; returns the longest call in seconds."""
    longest = 0.0
    for step in steps:
        begin = time.perf_counter()
        tracker.log({"train/loss": 100.0 - step}, step)
        longest = max(longest, time.perf_counter() - begin)
    return longest


def losses(steps: range) -> list[tuple[int, float]]:
    return [(step, 100.0 - step) for step in steps]


def recorded(server: WandbDouble, run: Run) -> RecordedRun:
    return server.runs[run.record["wandb"]["id"]]


@pytest.fixture
def killable(run: Run) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts killable.py in a process of its own, and returns once it has logged its last step (or said `until`)."""
    started: list[subprocess.Popen[str]] = []

    def start(first: int, last: int, pause: float = 0.0, until: str = "") -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.trackers.killable", str(run.path), *map(str, (first, last, pause))]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() == (until or str(last)):
                return process
        raise AssertionError(f"it ended with {process.wait()}")

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@pytest.mark.slow
def test_online_and_resumed(server: WandbDouble, run: Run, cfg: RunConfig) -> None:
    tracker = build_tracker({**SETTINGS, "tags": ["a", "b"], "project": "lab"}, run, cfg)
    begin = time.perf_counter()
    tracker.start()
    assert time.perf_counter() - begin < BLINK
    assert log(tracker, range(30)) < BLINK
    tracker.log({"val/bpb": 2.5}, 29)
    tracker.text("samples", "ROMEO:\n<i>", 29)
    tracker.table("result", ["metric", "value"], [["val/bpb", 2.5], ["kernel", "math"]])
    tracker.finish("stopped", {"val/bpb": 2.25})
    seen = recorded(server, run)
    assert tracker.messages() == [f"W&B: {server.url}/tester/lab/runs/{seen.name}"]
    assert run.record["wandb"]["mode"] == "online"
    assert seen.name == run.record["id"]
    assert seen.values("train/loss") == losses(range(30))
    assert seen.values("val/bpb") == [(29, 2.5)]
    assert seen.history[-1]["samples"]["_type"] == "html-file"
    assert seen.history[-1]["result"]["ncols"] == 2
    page = next(data for name, data in seen.files.items() if name.startswith("media/html/"))
    assert b"ROMEO:\n&lt;i&gt;" in page
    table = next(data for name, data in seen.files.items() if name.startswith("media/table/"))
    assert json.loads(table)["data"] == [["val/bpb", 2.5], ["kernel", "math"]]
    assert seen.summary["val/bpb"] == 2.25
    assert seen.summary["state"] == "stopped"
    assert (seen.exit_code, seen.complete) == (255, True)
    assert (seen.display_name, seen.group, sorted(seen.tags)) == ("run", "ablation", ["a", "b"])
    assert seen.setting("optim") == {"name": "adamw", "lr": 1e-3, "betas": [0.9, 0.95]}
    assert (seen.setting("optim.lr"), seen.setting("optim.name"), seen.setting("seed")) == (1e-3, "adamw", 0)
    assert seen.setting("signature") == run.record["signature"]
    metrics = seen.setting("_wandb")["m"]
    assert any(m.get("2") == "*" and m.get("5") for m in metrics), "each metric is drawn over our own step"
    assert server.unknown == []

    again = build_tracker(SETTINGS, Run.open(run.path), cfg)  # from the checkpoint of step 19
    again.start()
    log(again, range(20, 40))
    again.finish("finished", {"val/bpb": 2.0})
    assert list(server.runs) == [seen.name]
    assert seen.values("train/loss") == losses(range(40))
    assert seen.summary["val/bpb"] == 2.0
    assert (seen.exit_code, seen.summary["state"]) == (0, "finished")


@pytest.mark.slow
def test_online_killed_and_resumed(
    server: WandbDouble, run: Run, cfg: RunConfig, killable: Callable[..., subprocess.Popen[str]]
) -> None:
    """After kill -9 of training the tracker's process sends what it has; a resume adds the rest, once."""
    process = killable(0, 29, 0.05)
    process.kill()
    until(lambda: server.runs and next(iter(server.runs.values())).complete)
    (seen,) = server.runs.values()
    assert seen.values("train/loss") == losses(range(29)), "all but the row that may have been incomplete"
    assert seen.exit_code == 1
    tracker = build_tracker(SETTINGS, Run.open(run.path), cfg)
    tracker.resume()  # from the checkpoint of step 29: only the run folder has its row
    tracker.start()
    log(tracker, range(30, 40))
    tracker.finish("finished", {})
    assert list(server.runs) == [seen.name]
    assert seen.values("train/loss") == losses(range(40))


@pytest.mark.slow
def test_stop_button_is_a_sigterm(server: WandbDouble, killable: Callable[..., subprocess.Popen[str]]) -> None:
    def stopped_at_once(variables: dict[str, Any]) -> dict[str, Any]:
        answer = WandbDouble.on_UpsertBucket(server, variables)
        server.stop_run(variables["name"])
        return answer

    server.on_UpsertBucket = stopped_at_once  # type: ignore[method-assign]
    process = killable(0, 5, until="stopped")
    assert process.wait(60) == 0


@pytest.mark.parametrize("trouble", ["none", "error", "forbidden"])
def test_an_answer_is_a_server(server: WandbDouble, trouble: Any) -> None:
    server.trouble = trouble
    assert unreachable(server.url, 5) is None


def test_no_answer_is_no_server(server: WandbDouble) -> None:
    server.trouble = "hang"
    assert unreachable(server.url, 0.2) == f"{server.url}: timed out"
    server.stop()
    assert "refused" in (unreachable(server.url, 5) or "")
    assert unreachable("https://wandb.invalid", 5) is not None
    assert unreachable("nonsense", 5) is not None


@pytest.mark.slow
def test_server_falls_silent_at_start(server: WandbDouble, run: Run, cfg: RunConfig) -> None:
    """After the probe, in the middle of wandb.init: one warning, and everything offline."""

    def hang(variables: dict[str, Any]) -> dict[str, Any]:
        server.trouble = "hang"
        return server.answer("POST", "/", b"")

    server.on_RunResumeStatus = hang  # type: ignore[method-assign]
    tracker = build_tracker(SETTINGS, run, cfg)
    assert isinstance(tracker, Wandb)
    tracker.probe_timeout = tracker.init_timeout = 1.0
    tracker.patience = 30
    tracker.start()
    assert log(tracker, range(20)) < BLINK
    tracker.finish("finished", {"val/bpb": 2.0})
    (message,) = tracker.messages()
    folder = run.path / run.record["wandb"]["folder"]
    assert message.startswith("W&B cannot be reached (")
    assert message.endswith(f"): all is in the run folder, later: uv run upload {run.path}")
    assert run.record["wandb"]["mode"] == "offline"
    assert [row["step"] for row in offline.read(folder)["history"]] == list(range(20))


def begun(run: Run, cfg: RunConfig, server: WandbDouble, patience: float = 3.0) -> tuple[Wandb, RecordedRun]:
    """A run whose first ten rows the server has."""
    tracker = build_tracker(SETTINGS, run, cfg)
    assert isinstance(tracker, Wandb)
    tracker.probe_timeout, tracker.transmit_interval, tracker.patience = 1.0, 1.0, patience
    tracker.start()
    train(run, tracker, range(10))
    train(run, tracker, range(10, 11))  # a row leaves when the next one begins
    until(lambda: run.record.get("wandb"))
    seen = recorded(server, run)
    until(lambda: len(seen.history) == 10)
    return tracker, seen


def train(run: Run, tracker: Tracker, steps: range) -> None:
    for step in steps:
        run.log(step, {"train/loss": 100.0 - step})
    assert log(tracker, steps) < BLINK, "training does not notice"


def ended(run: Run, tracker: Wandb) -> list[str]:
    """The messages of a run's end; the server may hold it for a bounded time."""
    run.sample(19, "hello")
    tracker.text("sample", "hello", 19)
    tracker.table("summary", ["a"], [[1]])
    run.finish("finished", {"val/bpb": 2.0})
    begin = time.monotonic()
    tracker.finish("finished", {"val/bpb": 2.0})
    assert time.monotonic() - begin < 20, "3 when nothing else runs"
    assert not run.record["wandb"]["uploaded"]
    return tracker.messages()[1:]  # the first is the link


def has_all(seen: RecordedRun) -> None:
    assert seen.values("train/loss") == losses(range(20)), "none missing, none doubled"
    assert [row["_step"] for row in seen.history] == list(range(20))
    assert seen.history[-1]["sample"]["_type"] == "html-file"
    assert any(b"hello" in data for name, data in seen.files.items() if name.startswith("media/html/"))
    assert (seen.exit_code, seen.summary["state"], seen.summary["val/bpb"]) == (0, "finished", 2.0)


@pytest.mark.slow
def test_server_falters(server: WandbDouble, run: Run, cfg: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gone and back in mid-run, then silent for good: nothing is lost, and what is missing follows with one command."""
    tracker, seen = begun(run, cfg, server)
    make(server, "refuse")
    train(run, tracker, range(11, 13))
    time.sleep(0.5)
    make(server, "error")
    train(run, tracker, range(13, 15))
    time.sleep(0.5)
    assert len(seen.history) == 10
    make(server, "none")
    until(lambda: len(seen.history) == 14)  # by itself
    make(server, "hang")
    train(run, tracker, range(15, 20))
    table, message = ended(run, tracker)
    assert table.startswith("W&B did not take summary (")
    assert re.match(r"W&B did not (finish within 3 s;|take everything within 3 s of the run's end:)", message)
    assert message.endswith(f" later: uv run upload {run.path}")
    assert len(seen.history) == 14
    kept = offline.read(run.path / run.record["wandb"]["folder"])["history"]
    assert [row["step"] for row in kept] == list(range(20)), "W&B's own file has it too"
    monkeypatch.setattr(checked, "from_dict", lambda tree: cfg)  # no part is named "plain"
    make(server, "refuse")
    assert upload.run([str(run.path)]) == 1, "offline again, and still to come"
    make(server, "none")
    assert lacking([run.path]) == 1
    assert upload.run([str(run.path.parent)]) == 0
    has_all(seen)
    assert lacking([run.path]) == 0
    assert upload.run([str(run.path.parent.parent)]) == 0
    assert seen.sessions == 2, "it is not sent again"
    assert all(path.with_name(f"{path.name}.synced").exists() for path in run.path.glob("wandb/*/*.wandb"))


def make(server: WandbDouble, trouble: Any) -> None:
    """Puts the server into a state, from whatever it was in; connections that hang are cut."""
    server.stop()
    server.trouble = "none" if trouble == "refuse" else trouble
    if trouble != "refuse":
        server.start()


@pytest.mark.slow
def test_server_refuses(server: WandbDouble, run: Run, cfg: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that was withdrawn in mid-run: W&B's client gives up for good and ends as if all had arrived."""
    tracker, seen = begun(run, cfg, server, patience=15.0)
    server.trouble = "unauthorized"
    train(run, tracker, range(11, 20))
    assert ended(run, tracker)[-1] == (
        f"W&B did not take everything (the server answered 401): all is in the run folder, later: uv run upload "
        f"{run.path}"
    )
    monkeypatch.setattr(checked, "from_dict", lambda tree: cfg)  # no part is named "plain"
    server.trouble = "forbidden"
    (message,) = send(Run.open(run.path))
    assert "403" in message
    server.trouble = "none"
    assert len(seen.history) == 10
    assert send(Run.open(run.path)) == [f"W&B: {server.url}/tester/gpt_lab/runs/{seen.name}"]
    has_all(seen)


@pytest.mark.slow
def test_offline(run: Run, cfg: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    left_over = {
        "RUN_ID": "other",
        "SWEEP_ID": "old",
        "RESUME": "never",
        "FORK_FROM": "x?_step=3",
        "JOB_TYPE": "report",
    }
    for name, value in left_over.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    tracker = build_tracker({"name": "auto"}, run, cfg)
    tracker.start()
    until(lambda: run.record.get("wandb"))
    assert run.record["wandb"]["id"] == run.record["id"]
    log(tracker, range(50))
    tracker.log({"val/bpb": float("nan")}, 49)
    tracker.text("samples", "hello", 49)
    time.sleep(2)  # training goes on meanwhile
    begin = time.monotonic()
    tracker.finish("diverged", {"val/bpb": float("inf")})
    assert time.monotonic() - begin < 5  # 0.2 when nothing else runs
    assert tracker.messages() == []
    kept = offline.read(run.path / run.record["wandb"]["folder"])
    assert [(row["step"], row["train/loss"]) for row in kept["history"]] == losses(range(50))
    assert kept["history"][-1]["samples/_type"] == "html-file"
    assert kept["config"]["optim.lr"] == 1e-3
    assert kept["config"]["optim"]["lr"] == 1e-3
    assert kept["summary"]["state"] == "diverged"


def descendants(pid: int) -> dict[int, list[str]]:
    """Command lines of the processes that `pid` started, and that those started."""
    found: dict[int, list[str]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            line = (path.parent / "cmdline").read_text().split("\0")
        except OSError:
            continue
        if parent == pid:
            child = int(path.parent.name)
            found |= {child: line, **descendants(child)}
    return found


@pytest.mark.slow
def test_offline_all_killed(
    run: Run, cfg: RunConfig, killable: Callable[..., subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a machine kills the whole container: the file is readable and lacks a second. A resume's has all."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    process = killable(0, 80, 0.05)
    family = descendants(process.pid)
    core = [line for line in family.values() if line[0].endswith("wandb-core")]
    assert len(core) == 1
    assert "--no-observability" in core[0], "no error reports to W&B"
    for pid in (process.pid, *family):
        with contextlib.suppress(ProcessLookupError):  # they leave when the first has gone
            os.kill(pid, signal.SIGKILL)
    process.wait()
    (folder,) = (run.path / "wandb").glob("offline-run-*")
    steps = [row["step"] for row in offline.read(folder)["history"]]
    assert steps == list(range(len(steps)))
    assert len(steps) > 80 - 3 / 0.05, "a second for the flush, the rest for a busy machine"
    resumed = Run.open(run.path)
    tracker = build_tracker({"name": "auto"}, resumed, cfg)
    tracker.resume()
    tracker.start()
    log(tracker, range(81, 90))
    tracker.finish("finished", {})
    again = resumed.path / resumed.record["wandb"]["folder"]
    kept = offline.read(again)["history"]
    assert [(row["step"], row["train/loss"]) for row in kept] == losses(range(90))
    assert [path.parent for path in run.path.glob("wandb/*/*.synced")] == [folder], "`wandb sync` takes the whole one"


def can_trace() -> bool:
    tracer = shutil.which("strace")
    return (
        tracer is not None and subprocess.run([tracer, "-o", os.devnull, "true"], capture_output=True).returncode == 0
    )


@pytest.mark.slow
@pytest.mark.skipif(not can_trace(), reason="needs strace, and the right to use it")
def test_offline_uses_no_network(run: Run, cfg: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No connection and no datagram over IP by any process, so no look-up of a name either."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    trace, tool = tmp_path / "trace", tmp_path / "python"
    tool.write_text(f'#!/bin/sh\nexec strace -f -qq -e trace=connect,sendto,sendmsg -o {trace} {sys.executable} "$@"\n')
    tool.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tool))
    tracker = build_tracker({"name": "auto"}, run, cfg)
    tracker.start()
    log(tracker, range(5))
    tracker.finish("finished", {})
    calls = trace.read_text().splitlines()
    assert any("AF_UNIX" in call for call in calls), "the trace works: wandb speaks to wandb-core"
    assert [call for call in calls if "AF_INET" in call or "nscd" in call] == []


@pytest.mark.slow
def test_swept_group_keeps_its_settings(
    server: WandbDouble, run: Run, cfg: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under an agent, W&B replaces the config's `optim` by the swept value; the flat keys still say everything."""
    swept = tmp_path / "config-agent.yaml"
    swept.write_text("wandb_version: 1\noptim:\n  value: adamw\noptim.lr:\n  value: 0.001\n")
    agent = {"SWEEP_ID": "sweep1", "RUN_ID": "agentrun", "PROJECT": "swept", "SWEEP_PARAM_PATH": str(swept)}
    for name, value in agent.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    tracker = build_tracker({"name": "auto", "project": "ignored", "entity": "ignored"}, run, cfg)
    tracker.start()
    log(tracker, range(3))
    tracker.finish("finished", {"val/bpb": 2.0})
    seen = server.runs["agentrun"]
    assert (seen.sweep, seen.project, run.record["wandb"]["id"]) == ("sweep1", "swept", "agentrun")
    assert seen.setting("optim") == "adamw"
    assert (seen.setting("optim.name"), seen.setting("optim.lr")) == ("adamw", 1e-3)
    assert seen.setting("optim.betas") == [0.9, 0.95]
    assert seen.setting("scale")["width"] == seen.setting("scale.width") == 32


@pytest.mark.parametrize("fault", ["import", "exit"])
def test_broken_wandb(run: Run, cfg: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    """A client that cannot even be imported, or dies, is one message."""
    (tmp_path / "wandb.py").write_text("raise ImportError('torn')" if fault == "import" else "import os; os._exit(3)")
    monkeypatch.syspath_prepend(tmp_path)
    tracker = build_tracker({"name": "auto"}, run, cfg)
    tracker.start()
    for step in range(100):
        tracker.log({"a": 1.0}, step)
        time.sleep(0.01)
    tracker.finish("finished", {})
    (message,) = tracker.messages()
    assert message.startswith("W&B could not begin (torn)" if fault == "import" else "W&B stopped mirroring (")
    assert message.endswith(f"later: uv run upload {run.path}")
