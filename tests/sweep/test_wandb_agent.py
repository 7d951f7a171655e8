"""`wandb sweep` and `wandb agent`, the unchanged client in real processes, against the double.

The one thing that is not real: a file named `uv` on PATH stands in for `uv run COMMAND`, which would install the lab
first, and starts COMMAND of this environment; where the tree of processes is not what is tested, it has COMMAND forked
from one that has imported torch.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing.connection import Client, Listener
from pathlib import Path
from typing import Any

import pytest
import yaml

from gpt_lab.config.composition import compose
from gpt_lab.config.schema import identity
from gpt_lab.frame.load import load
from gpt_lab.frame.places import StudyOptions
from gpt_lab.frame.sources.wandb_server import stated
from gpt_lab.frame.study import Study
from gpt_lab.store import Run, all_runs
from gpt_lab.study import sweep_file
from tests.processes import commands
from tests.study.arms import settings
from tests.sweep.sweep_helpers import tree
from tests.trackers.sweep_double import SweepDouble, cells

ROOT = Path(__file__).parent.parent.parent
BIN = Path(sys.executable).parent
TINY = {
    "data": "text",
    "tokenizer": "byte",
    "optim": "adamw",
    "scale.depth": 2,
    "scale.width": 32,
    "scale.heads": 4,
    "scale.context": 16,
    "batch.tokens": 64,
    "budget.steps": 20,
    "eval.every": 10,
    "eval.tokens": 2048,
    "log.every": 5,
    "sample.tokens": 0,
    "model.logit_softcap": None,
    "model.tied": True,
}
"""A null and a truth value, which an agent writes as Python does: None, True."""


class Clone:
    """A folder like a clone of the lab: conf/, sweeps/, and runs/ to come; W&B's client is logged in to the double."""

    def __init__(self, path: Path, server: SweepDouble) -> None:
        self.path, self.server = path, server
        text = path / "words (1), a=b~#é [2].txt"  # an agent writes no quotes
        text.write_text("To be, or not to be, that is the question.\n" * 400)
        tools = path / "tools"
        tools.mkdir()
        (tools / "uv").write_text(f'#!/bin/sh\nshift\ntool=$1\nshift\nexec {BIN}/"$tool" "$@"\n')
        (tools / "uv").chmod(0o755)
        (path / "conf").symlink_to(ROOT / "conf")
        (path / "sweeps").mkdir()
        self.tools = tools
        self.tiny = {**TINY, "data.path": str(text)}
        search = f"{tools}{os.pathsep}{BIN}{os.pathsep}{os.environ['PATH']}"
        self.environment = {**os.environ, **server.environment(), "PATH": search, "WANDB_SILENT": "false"}
        self.started: list[subprocess.Popen[str]] = []

    @contextlib.contextmanager
    def warm(self) -> Iterator[None]:
        """While entered, the stand-in for uv has its command forked by `commands.run`."""
        uv = self.tools / "uv"
        before = uv.read_text()
        with Listener(str(self.tools / "socket"), "AF_UNIX") as listener:
            uv.write_text(f"#!{sys.executable} -IS\n{WARM.format(address=listener.address)}")
            threading.Thread(target=serve, args=(listener,), daemon=True).start()
            yield
            with Client(listener.address) as last:
                last.send(None)
        uv.write_text(before)

    def write(self, name: str, parameters: dict[str, Any], **fixed: Any) -> Path:
        """A sweep file of the shipped form, at the smallest scale."""
        sweep = {
            "project": "lab",
            "program": "train",
            "method": "grid",
            "metric": {"name": "val/bpb", "goal": "minimize"},
            "parameters": {**parameters, **{key: {"value": value} for key, value in {**self.tiny, **fixed}.items()}},
            "command": ["uv", "run", "train", f"study={name}", "${args_no_hyphens}"],
            "gpt_lab": {"study": name, "question": "Does it work?", "baseline": {"position": "rope"}},
        }
        path = self.path / "sweeps" / f"{name}.yaml"
        path.write_text(yaml.safe_dump(sweep, sort_keys=False))
        return path

    def wandb(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(BIN / "wandb"), *arguments]
        return subprocess.run(
            command, cwd=self.path, env=self.environment, capture_output=True, text=True, timeout=120, check=False
        )

    def agent(self) -> subprocess.Popen[str]:
        """An agent of the only sweep, under way; what it prints goes to agent.log."""
        sweep = self.server.sweep
        with (self.path / "agent.log").open("w") as log:
            process = subprocess.Popen(
                [str(BIN / "wandb"), "agent", f"{sweep.entity}/{sweep.project}/{sweep.name}"],
                cwd=self.path,
                env=self.environment,
                stdout=log,
                stderr=log,
                text=True,
            )
        self.started.append(process)
        return process

    def end(self) -> None:
        for process in self.started:
            process.kill()
            process.wait()


WARM = """
import os, sys
from multiprocessing.connection import Client
with Client({address!r}) as server:
    server.send((sys.argv[2:], os.getcwd(), dict(os.environ)))
    out, error, status = server.recv()
print(out, end="", flush=True)
print(error, end="", file=sys.stderr)
sys.exit(status)
"""
"""`uv run COMMAND` for as long as `serve` listens at an address."""


def serve(listener: Listener) -> None:
    """Runs the commands that come, one after the other, until nothing comes."""
    while True:
        with listener.accept() as asked:
            if (what := asked.recv()) is None:
                return
            words, folder, environment = what
            done = commands.run(words, Path(folder), environment=environment)
            asked.send((done.stdout, done.stderr, done.returncode))


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Clone]:
    with SweepDouble() as server:
        clone = Clone(tmp_path, server)
        yield clone
        clone.end()


def until(true: Callable[[], Any], seconds: float = 180) -> None:
    """Waits until `true()`; fails after so long."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


@pytest.mark.slow
def test_small_sweep(here: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two positions, two seeds, run by one agent to the end and read back. One test: the sweep takes a minute."""
    here.write("small", {"position": {"values": ["rope", "alibi"]}, "seed": {"values": [0, 1]}})
    made = here.wandb("sweep", "sweeps/small.yaml")
    assert made.returncode == 0, made.stderr
    assert "wandb agent tester/lab/sweep0" in made.stderr
    with here.warm():
        assert here.agent().wait(400) == 0, (here.path / "agent.log").read_text()
    the_file_arrives_as_written(here)
    each_cell_ran_once(here)
    runs_carry_the_whole_config(here)
    runs_are_those_of_the_file(here)
    report_reads_them(here, monkeypatch)
    report_command(here)
    another_sweep_gets_finished_runs(here)


def the_file_arrives_as_written(swept: Clone) -> None:
    """The lab's own block passes the client."""
    assert swept.server.sweep.config == yaml.safe_load((swept.path / "sweeps/small.yaml").read_text())
    assert swept.server.unknown == []


def each_cell_ran_once(swept: Clone) -> None:
    values = [{"position": p, "seed": s} for p in ("rope", "alibi") for s in (0, 1)]
    asked = [{key: run[key] for key in ("position", "seed")} for run in swept.server.sweep.runs.values()]
    assert asked == values
    runs = all_runs(swept.path / "runs", "small")
    assert [run.state for run in runs] == ["finished"] * 4
    settings = [(run.record["config"]["position.name"], run.record["config"]["seed"]) for run in runs]
    assert settings == [(cell["position"], cell["seed"]) for cell in values]
    assert swept.server.sweep.state == "FINISHED"


def runs_carry_the_whole_config(swept: Clone) -> None:
    """Flat beside nested: a swept group key (position, data, optim) hides the nested one, and nothing else."""
    assert set(swept.server.runs) == set(swept.server.sweep.runs)
    for run in all_runs(swept.path / "runs", "small"):
        seen = swept.server.runs[run.record["wandb"]["id"]]
        assert (seen.sweep, seen.group, seen.project, seen.sessions) == ("sweep0", "small", "lab", 1)
        flat = run.record["config"]
        assert {key: seen.setting(key) for key in flat} == flat
        assert {key: seen.setting(key) for key in swept.tiny} == swept.tiny
        assert seen.setting("position") == flat["position.name"]
        assert seen.setting("scale") == {"name": flat["scale.name"], **{k: TINY[f"scale.{k}"] for k in SCALE}}
        assert seen.summary["val/bpb"] == run.summary["val/bpb"]
        assert (seen.summary["state"], seen.exit_code) == ("finished", 0)
        assert [step for step, _ in seen.values("train/loss")] == [5, 10, 15, 20]


SCALE = ("depth", "width", "heads", "context")


def runs_are_those_of_the_file(swept: Clone) -> None:
    """A run of the agent is the same run as the cell's own command line makes."""
    file = yaml.safe_load((swept.path / "sweeps/small.yaml").read_text())
    runs = all_runs(swept.path / "runs", "small")
    for run, cell in zip(runs, cells(file), strict=True):
        words = [f"{key}={value}" for key, value in cell.items()]
        assert compose(["study=small", *words]).identity() == identity(run.record["config"])


UNHURRIED = """
import time

from gpt_lab.parts.norm.rmsnorm import RMSNorm
from gpt_lab.registry import register


@register("norm", "unhurried")
class Unhurried(RMSNorm):
    \"\"\"RMSNorm that leaves the processor to others.\"\"\"

    def forward(self, x):
        time.sleep(0.02)
        return super().forward(x)
"""


@pytest.mark.slow
def test_stop_resume_cancel(here: Clone) -> None:
    """The stop button ends a run with a checkpoint; W&B's resume goes on from there, and so it does when every process
    was told to leave; a cancelled sweep ends all."""
    parts = here.path / "parts"
    parts.mkdir()
    (parts / "unhurried.py").write_text(UNHURRIED)
    here.environment["GPT_LAB_PARTS"] = str(parts)
    here.write("long", {"seed": {"values": [0, 1]}}, norm="unhurried", **{"budget.steps": 1_000_000})
    assert here.wandb("sweep", "sweeps/long.yaml").returncode == 0
    agent = here.agent()
    server, runs = here.server, here.server.runs

    def steps() -> int:
        """The last step that the server has seen of the only run that has begun."""
        return max((row["step"] for run in runs.values() for row in run.history), default=0)

    until(lambda: steps() >= 10)
    server.sweep.waiting.clear()
    ((name, seen),) = runs.items()
    server.sweep.state = "PAUSED"  # the agent stays, and begins nothing
    server.stop_run(name)
    until(lambda: seen.complete)
    (run,) = all_runs(here.path / "runs", "long")
    assert (run.state, seen.exit_code, seen.summary["state"]) == ("stopped", 255, "stopped")
    stopped = run.summary["steps"]
    assert (run.checkpoints / "last" / "model.safetensors").is_file()

    server.resume_run(name)
    server.sweep.state = "RUNNING"
    until(lambda: steps() > stopped)
    assert seen.sessions == 2
    everybody = tree(agent.pid)
    assert len(everybody) >= 4, "the agent, training, and W&B's two processes beside it"
    for pid in (*everybody, *everybody):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    agent.wait(120)
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in everybody))
    (run,) = all_runs(here.path / "runs", "long")
    assert (run.state, seen.exit_code, seen.summary["state"], seen.complete) == ("stopped", 255, "stopped", True)
    assert seen.sessions == 3, "W&B's service had left, too"
    assert seen.summary["steps"] == run.summary["steps"] > stopped
    stopped = run.summary["steps"]

    agent = here.agent()
    server.resume_run(name)
    until(lambda: steps() > stopped)
    assert here.wandb("sweep", "--cancel", f"tester/lab/{server.sweep.name}").returncode == 0
    assert agent.wait(120) == 0
    (run,) = all_runs(here.path / "runs", "long")
    assert (run.state, seen.summary["state"], len(runs)) == ("stopped", "stopped", 1)
    assert run.summary["steps"] > stopped
    losses = [step for step, _ in seen.values("train/loss")]
    rows = [row for row in run.metrics() if row["step"] % 10 or "val/loss" in row]  # else a resume goes on with it
    assert losses == [row["step"] for row in rows], "none lost, none doubled"
    assert "resuming" in (here.path / "agent.log").read_text()


def report_reads_them(swept: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the run folders and from the server: the same comparison."""
    for name, value in swept.server.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(swept.path)
    as_stored(load(["runs/small"], StudyOptions(baseline="position=rope")))
    as_stored(load(["sweeps/small.yaml"], StudyOptions()))
    as_stored(load(["wandb:tester/lab/sweep0"], StudyOptions()))


def as_stored(study: Study) -> None:
    """The arms, pairs, scores, costs and curves that the store has."""
    stored = {run.record["id"]: run for run in all_runs("runs", "small")}
    expected = {
        (settings(f"position={run.record['config']['position.name']}"), str(run.record["seed"]), run.summary["val/bpb"])
        for run in stored.values()
    }
    runs = study.runs
    assert set(zip(runs["arm"], runs["pair"], runs["score"], strict=True)) == expected
    assert runs["state"].tolist() == ["finished"] * 4
    assert study.design.baseline_arm == settings("position=rope")
    for name in ("steps", "tokens", "flops", "seconds", "parameters", "train_flops_per_token", "floor_trigram"):
        assert sorted(runs[name]) == pytest.approx(sorted(_known(run)[name] for run in stored.values())), name
    assert set(runs["env.cpu"]) == {run.record["hardware"]["cpu"] for run in stored.values()}
    curves = study.curves(runs["run"].tolist())
    seen = {tuple(curve["val/bpb"].dropna()) for curve in curves.values()}
    assert seen == {tuple(row["val/bpb"] for row in run.metrics() if "val/bpb" in row) for run in stored.values()}


def _known(run: Run) -> dict[str, Any]:
    return {**run.record, **run.summary, "floor_trigram": run.summary["floor/trigram"]}


def report_command(swept: Clone) -> None:
    """`report wandb:... --wandb` as a user types it: the question, the arms, the files, and the report in W&B."""
    words = ["report", "wandb:tester/lab/sweep0", "--wandb", "--out", "answer"]
    done = commands.run(words, swept.path, environment=swept.environment)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "Does it work?" in done.stdout
    assert "alibi" in done.stdout
    (pushed,) = (run for run in swept.server.runs.values() if run.job_type == "report")
    assert f"report in W&B: {swept.server.url}/tester/lab/runs/{pushed.name}" in done.stdout
    assert (pushed.group, pushed.complete) == ("small", True)
    assert (swept.path / "answer/report.html").is_file()
    assert swept.server.unknown == []


def another_sweep_gets_finished_runs(swept: Clone) -> None:
    """What an agent asks for and the store has is not trained again, and the sweep has it all the same."""
    run = all_runs(swept.path / "runs", "small")[0]
    agent = {"SWEEP_ID": "other", "RUN_ID": "again", "SWEEP_PARAM_PATH": "none", "PROJECT": "lab", "ENTITY": "tester"}
    words = ["train", "study=small", "position=rope", "seed=0", *(f"{k}={v}" for k, v in swept.tiny.items())]
    environment = {**swept.environment, **{f"WANDB_{name}": value for name, value in agent.items()}}
    done = commands.run(words, swept.path, environment=environment)
    assert done.returncode == 0, done.stderr
    assert "is already done" in done.stdout
    seen = swept.server.runs["again"]
    assert (seen.sweep, seen.exit_code, seen.summary["val/bpb"]) == ("other", 0, run.summary["val/bpb"])
    assert [step for step, _ in seen.values("train/loss")] == [5, 10, 15, 20]


ALL = """
import sys
from wandb.cli.cli import cli
for path in sys.argv[1:]:
    cli(["sweep", "--project", "lab", path], standalone_mode=False)
"""


@pytest.mark.slow
def test_shipped_files_pass_the_client(here: Clone) -> None:
    """`wandb sweep` takes every file of sweeps/, warns of none, and sends it whole."""
    paths = sorted((ROOT / "sweeps").glob("*.yaml"))
    assert paths
    done = subprocess.run(
        [sys.executable, "-c", ALL, *map(str, paths)],
        cwd=here.path,
        env=here.environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr and "ERROR" not in done.stderr
    sent = list(here.server.sweeps.values())
    for path, sweep in zip(paths, sent, strict=True):
        written, config = yaml.safe_load(path.read_text()), sweep.config
        for name, parameter in written["parameters"].items():
            if "min" in parameter:  # the client names the distribution
                assert config["parameters"][name].pop("distribution") == "int_uniform"
        assert config == written, path.name
        assert sweep.waiting, path.name
        assert f"study={written['gpt_lab']['study']}" in config["command"]
        read, refusal = stated(sweep.name, sweep.config)
        assert read is not None, refusal
        ours = sweep_file.load(path).design
        assert replace(read.design, factors=ours.factors, nuisance=ours.nuisance) == ours
        assert set(read.design.factors) == set(ours.factors), "the client sorts keys, and so their order"
    assert here.server.unknown == []
