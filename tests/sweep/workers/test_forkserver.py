"""The fork server: what it forks, what it refuses, and that nothing outlives the process above it."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gpt_lab import registry
from gpt_lab.console import process
from gpt_lab.errors import ConfigError, LabError
from gpt_lab.optim.base import state_bytes
from gpt_lab.study import cells, sweep_file
from gpt_lab.sweep.workers import forkserver, worker
from gpt_lab.sweep.workers.client import ForkServer, how_ended
from tests.optim.problems import as_groups, problem
from tests.processes import commands
from tests.sweep.sweep_helpers import ROOT, children, until, write_sweep

HOLD = """
import sys, time
from gpt_lab.sweep.workers.client import ForkServer
server = ForkServer()
print(server.process.pid, flush=True)
time.sleep(600)
"""


def job(tmp_path: Path, **fixed: Any) -> dict[str, Any]:
    """The settings of a trial, as the runner sends them."""
    (cell,) = cells.cells(sweep_file.load(write_sweep(tmp_path, {"seed": [0]}, fixed=fixed)))
    (cfg,) = cells.configs([cell])
    return {
        "overrides": list(cell.overrides),
        "config": cfg.to_dict(),
        "identity": cell.identity,
        "log": str(tmp_path / "log"),
        "threads": 1,
        "gpu": None,
    }


def hear(server: ForkServer, job: str) -> tuple[list[dict[str, Any]], int]:
    """What a child says until it ends, and its status."""
    said = []
    while True:
        for event in server.events(60):
            if event.get("job") == job and event["event"] == "said":
                said.append(event["message"])
            elif event.get("job") == job:
                return said, event["status"]


def test_what_is_read_before_the_fork(tmp_path: Path) -> None:
    """What trains a trial, and nothing that only several devices need: that takes longer to import than the rest.

    Nor does a trial import sympy when it asks for the bytes of its optimizer's state.
    """
    done = commands.call(tell, tmp_path)
    assert (done.returncode, done.stdout) == (0, "True True False False None\n"), done.stderr


def tell() -> None:
    forkserver.prepare()
    forkserver.complete()
    for name in registry.index()["optim"]:
        state_bytes(registry.build("optim", {"name": name}).build(as_groups(problem()[0])))
    names = ("gpt_lab.train.trainer", "gpt_lab.parts.mlp.moe", "torch.distributed.fsdp", "sympy")
    print(*(name in sys.modules for name in names), forkserver.unsafe())


@pytest.mark.slow
def test_children(tmp_path: Path) -> None:
    """One server for all of it: trains, survives its children's deaths, and takes them with it."""
    server = ForkServer()
    try:
        settings = job(tmp_path)
        server.start("a", **settings, peaks=[("fp32", 1, 1e30)])
        said, status = hear(server, "a")
        assert status == 0
        pid, started, ended = said
        assert pid["pid"] > 0
        assert started["steps"] == 24
        assert ended["state"] == "finished"
        assert ended["run"] == started["run"]
        assert ended["summary"]["val/bpb"] > 0
        assert ended["peaks"] == [["fp32", 1, 1e30]] and 0 < ended["summary"]["perf/mfu"] < 1e-12, "it was told"
        assert "--- 20" in (tmp_path / "log").read_text("utf-8")
        server.start("a", **settings)
        said, status = hear(server, "a")
        assert (status, said[-1]["done"]) == (0, True)

        long = job(tmp_path, **{"budget.steps": 100_000, "eval.every": 50_000, "checkpoint.every": 50_000})
        for number in (signal.SIGKILL, signal.SIGTERM):
            server.start("b", **long)
            until(lambda: any("run" in e.get("message", {}) for e in server.events(1)))
            server.signal("b", number)
            said, status = hear(server, "b")
            if number == signal.SIGKILL:
                assert (said, status) == ([], -signal.SIGKILL)
            else:
                assert (said[-1]["state"], status) == ("stopped", 143)
        server.signal("b", signal.SIGKILL)  # nobody's any more: nothing happens

        server.start("c", **{**settings, "identity": "0" * 12})
        said, status = hear(server, "c")
        assert status == 2
        assert "are not those that were planned" in said[-1]["error"]
        assert not said[-1]["busy"]
        server.start("d", **{**settings, "config": {"no": "config"}})
        said, status = hear(server, "d")
        assert (status, "unknown key 'no'" in said[-1]["error"]) == (2, True)

        mine = os.sched_getaffinity(0)
        server.start("e", **long, cores=[max(mine)])
        until(lambda: any("run" in e.get("message", {}) for e in server.events(1)))
        (child,) = children(server.process.pid)
        assert os.getsid(child) == child, "a session of its own"
        assert os.sched_getaffinity(child) == {max(mine)}
        assert os.sched_getaffinity(server.process.pid) == mine
        records = [json.loads(path.read_text("utf-8")) for path in tmp_path.glob("runs/tiny/*/run.json")]
        assert {record["hardware"]["cores"] for record in records} == {len(mine)}, "of the machine, not of the trial"
        server.process.kill()
        until(lambda: not process_is_there(child), 5)
        assert server.events(5) == []
        assert server.gone
        assert server.last_words().startswith("killed by SIGKILL")
    finally:
        server.close()


@pytest.mark.slow
def test_the_server_dies_with_its_runner() -> None:
    agent = {**os.environ, "WANDB_SWEEP_ID": "s", "WANDB_RUN_ID": "r", "WANDB_PROJECT": "p"}
    runner = subprocess.Popen([sys.executable, "-c", HOLD], cwd=ROOT, stdout=subprocess.PIPE, text=True, env=agent)
    assert runner.stdout is not None
    server = int(runner.stdout.readline())
    assert process_is_there(server)
    environment = Path(f"/proc/{server}/environ")
    until(lambda: environment.read_text() != "", 5)  # it is, for a moment of every exec
    names = {entry.partition("=")[0] for entry in environment.read_text().split("\0")}
    assert names & agent.keys() >= {"WANDB_PROJECT", "PATH"}
    assert not names & {"WANDB_SWEEP_ID", "WANDB_RUN_ID"}, "its trials are several: no one's id is theirs"
    runner.kill()
    runner.communicate()
    until(lambda: not process_is_there(server), 5)


def process_is_there(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_it_refuses_to_fork_with_threads_or_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(process, "threads", lambda: 1)
    assert forkserver.unsafe() is None
    monkeypatch.setattr(process, "threads", lambda: 3)
    assert "3 threads run in the fork server, and a fork could hang" in str(forkserver.unsafe())
    monkeypatch.setattr(process, "threads", lambda: None)
    assert forkserver.unsafe() is None, "a system that cannot say"
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    assert "CUDA was initialised in the fork server" in str(forkserver.unsafe())


def test_the_runner_passes_a_refusal_on() -> None:
    class Refusing(ForkServer):
        def _launch(self, number: int) -> subprocess.Popen[bytes]:
            os.write(number, b'{"event": "refused", "error": "because"}\n')
            return subprocess.Popen(["true"])

    server = Refusing()
    with pytest.raises(LabError, match="cannot run trials: because"):
        server.events(5)
    server.close()


def test_a_child_sets_its_threads_and_gpu_before_it_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from gpt_lab.train import start

    seen: dict[str, Any] = {}

    class Done:
        path, state, summary, done, exit_code = Path("x/a-run"), "finished", {"val/bpb": 1.0}, False, 0

    def train(cfg: Any, console: Any, command: str, started: Any, *begins: Any) -> Any:
        seen.update(threads=torch.get_num_threads(), gpu=os.environ["CUDA_VISIBLE_DEVICES"], command=command)
        return Done

    monkeypatch.setattr(start, "run_training", train)
    monkeypatch.setattr(worker, "_redirect", lambda log: None)
    monkeypatch.setattr(sys, "argv", ["pytest"])
    for name in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(name, "")
    told: list[dict[str, Any]] = []
    before = torch.get_num_threads()
    try:
        assert worker.train_job({**job(tmp_path), "threads": 2, "gpu": "3"}, told.append) == 0
    finally:
        torch.set_num_threads(before)
    assert seen.pop("command").startswith("train scale.depth=1")
    assert seen == {"threads": 2, "gpu": "3"}
    told[0].pop("peaks")  # whatever this process has measured
    assert told == [{"run": "a-run", "state": "finished", "summary": {"val/bpb": 1.0}, "done": False}]


def test_messages_arrive_whole() -> None:
    buffer = bytearray()
    assert forkserver.lines(buffer, b'{"a": 1}\n{"b"') == [{"a": 1}]
    assert forkserver.lines(buffer, b": 2}") == []
    assert forkserver.lines(buffer, b'\n\n{"c": 3}\n') == [{"b": 2}, {"c": 3}]


@pytest.mark.parametrize(
    "status, expected",
    [
        (-9, "killed by SIGKILL (out of memory, or killed by hand)"),
        (-11, "killed by SIGSEGV (a crash in compiled code)"),
        (-15, "killed by SIGTERM"),
        (3, "ended with status 3 and said nothing"),
    ],
)
def test_ends_without_a_word(status: int, expected: str) -> None:
    assert how_ended(status) == expected


@pytest.mark.slow
def test_a_check_that_fails_is_one_line(tmp_path: Path) -> None:
    server = ForkServer()
    try:
        whole = cells.cells(sweep_file.load(write_sweep(tmp_path, {"seed": [0]})))[0]
        cell = dataclasses.asdict(whole)
        assert worker.from_fields(json.loads(json.dumps(cell))) == whole
        cfg = cells.configs([worker.from_fields(cell)])[0].to_dict()
        assert server.ask("check", cells=[cell], configs=[cfg])["gpus"] >= 0
        missing = {**cfg, "data": {**cfg["data"], "path": str(tmp_path / "none.txt")}}
        with pytest.raises(ConfigError, match="cell 0 .*none.txt"):
            server.ask("check", cells=[cell], configs=[missing])
        server.process.kill()
        with pytest.raises(LabError, match="the fork server ended: killed by SIGKILL"):
            server.ask("check", cells=[cell], configs=[cfg])
    finally:
        server.close()
