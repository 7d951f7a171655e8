"""Workers by each engine for real: runs and report are those of undisturbed ones bit for bit, each trial once."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, NamedTuple

import pytest
import yaml

from gpt_lab.cli import sweep as command
from gpt_lab.errors import LabError
from gpt_lab.frame.places import StudyOptions, find
from gpt_lab.report.markdown import markdown
from gpt_lab.report.tables import Report
from gpt_lab.report.write import answer
from gpt_lab.study import sweep_file
from gpt_lab.sweep import runner, work
from gpt_lab.sweep.engines import local_processes
from gpt_lab.sweep.engines.slurm_array import FILE
from gpt_lab.sweep.ledger import overview
from gpt_lab.sweep.ledger.ledger import entries
from tests.docs.expected import COMMANDS
from tests.docs.test_commands import make_short
from tests.processes import commands
from tests.sweep.engines import ray_nodes, slurm, sshd
from tests.sweep.sweep_helpers import ROOT, TINY, curves, quiet, until, write_sweep
from tests.sweep.test_tuned_sweep import BLOCK

pytestmark = pytest.mark.slow
DISTURBED = not slurm.missing() or ray_nodes.PROGRAM is not None
LONG = {"budget.steps": 60, "eval.every": 30, "checkpoint.every": 20, "log.every": 20}
"""Time enough to disturb each trial; what nobody disturbs can be shorter."""
SEEDS = ("--seeds", "2")
CLOCKED = ("tokens_per_s", "peak_memory_gb", "seconds")
"""Of what an arm costs, that which is the machine's."""


class Outcome(NamedTuple):
    """What a study came to: the curve of each trial, and the report."""

    curves: dict[str, Any]
    report: str


def write_pos_enc(folder: Path) -> Path:
    """sweeps/pos_enc.yaml made short: all its arms, tiny models on a tiny text."""
    folder.mkdir()
    write_sweep(folder).unlink()  # for the text
    path = folder / "pos_enc.yaml"
    shutil.copy(ROOT / "sweeps" / path.name, path)
    short = {**TINY, **(LONG if DISTURBED else {}), "data.path": folder / "words.txt", "runs_dir": folder / "runs"}
    make_short(path, [f"{key}={value}" for key, value in short.items()])
    return path


def outcome(folder: Path) -> Outcome:
    """Each trial has one run; the report is without its place and without what depends on the clock."""
    found, study = answer(find([str(folder)], StudyOptions()), StudyOptions())
    kept = [
        replace(row, medians={key: value for key, value in row.medians.items() if key not in CLOCKED})
        for row in found.rows
    ]
    text = markdown(Report(replace(found, rows=tuple(kept)), study), ())
    return Outcome(curves(folder), text.replace("\\", "").replace(str(folder.parents[1]), ""))  # Markdown escapes paths


@pytest.fixture(scope="module")
def by_local(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """What pos_enc comes to by `--on local`."""
    path = write_pos_enc(tmp_path_factory.mktemp("local") / "local")
    folder = path.parent / "runs" / "pos_enc"
    assert command.run([str(path), *SEEDS, "--on", "local", "--jobs", "2"]) == 0
    wait_for(folder, lambda: whole(folder))
    found = outcome(folder)
    assert len(found.curves) == 10
    assert "2 pairs only" in found.report and "position=sinusoidal" in found.report
    return found


def write_tuned(folder: Path) -> Path:
    """Two arms, three to four rates for each, then a fresh seed."""
    folder.mkdir(exist_ok=True)
    metric = {"name": "val/bpb", "goal": "minimize"}
    fixed = {"budget.steps": 240, "eval.every": 120, "checkpoint.every": 40, "log.every": 40}  # long enough to stop it
    return write_sweep(folder, {"optim": ["adamw", "muon"], "seed": [0]}, metric=metric, gpt_lab=BLOCK, fixed=fixed)


def undisturbed(write: Callable[[Path], Path], folder: Path) -> dict[str, Any]:
    """The curves of one runner in this process."""
    folder.mkdir()
    assert runner.run_sweep(sweep_file.load(write(folder)), quiet(), 1) == 0
    return curves(folder / "runs" / "tiny")


def whole(folder: Path) -> bool:
    """Whether all trials are finished and their workers have left."""
    found = overview.read(folder)
    return found is not None and found.counts["finished"] == sum(found.counts.values()) > 0 and not found.workers


def said(folder: Path) -> str:
    """What the workers wrote, for a failure's message."""
    return "".join(log.read_text("utf-8")[-2000:] for log in folder.glob("workers/*.log"))


def wait_for(folder: Path, true: Callable[[], Any], seconds: float = 400, every: float = 0.1) -> None:
    try:
        until(true, seconds, every)  # it reads the ledger, or asks Slurm
    except TimeoutError:
        raise AssertionError(said(folder)) from None


def freeze_with_trials(folder: Path, send: Callable[[int], None]) -> None:
    """Stops one of two workers while both are in the midst of a trial that has a checkpoint."""

    def both() -> bool:
        newest = [os.readlink(link) for link in folder.glob("*/checkpoints/last")]
        return sum(name != f"step-{LONG['budget.steps']}" for name in newest) == 2

    while True:
        wait_for(folder, both, every=0.01)
        send(signal.SIGSTOP)
        if both():
            return
        send(signal.SIGCONT)


def forked_worker(words: list[str], *, cwd: Path, stdout: IO[bytes], **settings: Any) -> Any:
    """In place of subprocess.Popen: a worker that need not import torch. The one of `by_local` is a real one."""
    assert words[:3] == [sys.executable, "-m", "gpt_lab.cli.sweep"] and settings["start_new_session"]
    log = Path(stdout.name)
    return commands.begun(["sweep", *words[3:]], cwd, log, log, hear_soon)


def hear_soon() -> None:
    """A --stop is heard while a short trial trains."""
    work.LISTEN_EVERY = 0.1


@pytest.mark.usefixtures("one_server")
def test_local_workers_tune_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two background processes, stopped while they train and started again."""
    monkeypatch.setattr(local_processes, "subprocess", SimpleNamespace(**{**vars(subprocess), "Popen": forked_worker}))
    expected = undisturbed(write_tuned, tmp_path / "undisturbed")
    path = write_tuned(tmp_path / "elsewhere")
    folder = path.parent / "runs" / "tiny"
    start = [str(path), "--on", "local", "--workers", "2", "--jobs", "1"]
    assert command.run(start) == 0
    assert "--status" in capsys.readouterr().out
    wait_for(folder, lambda: (found := overview.read(folder)) is not None and found.counts["finished"])
    assert command.run([str(path), "--stop"]) == 0
    assert command.run([str(path), "--status"]) == 0
    assert re.search(r"tiny: \d+ trials: .*finished", capsys.readouterr().out)
    wait_for(folder, lambda: not (overview.read(folder) or pytest.fail("no ledger")).workers)
    assert not whole(folder), "they left before the end"
    assert command.run(start) == 0
    wait_for(folder, lambda: whole(folder))
    assert curves(folder) == expected
    assert sum(entry.attempts for entry in entries(folder)) <= len(expected) + 2, "none was begun without need"


@pytest.mark.skipif(bool(sshd.missing()), reason=f"not installed: {', '.join(sshd.missing())}")
def test_ssh_hosts(tmp_path: Path, by_local: Outcome) -> None:
    path = write_pos_enc(tmp_path / "elsewhere")
    folder = path.parent / "runs" / "pos_enc"
    with sshd.running(tmp_path):
        assert command.run([str(path), *SEEDS, "--on", f"ssh:{','.join(sshd.HOSTS)}", "--jobs", "1"]) == 0
        wait_for(folder, lambda: whole(folder))
    assert outcome(folder) == by_local
    assert sorted(log.name for log in folder.glob("workers/*.log")) == [f"{host}-1.log" for host in sshd.HOSTS]


@pytest.mark.skipif(bool(slurm.missing()), reason=f"not installed: {', '.join(slurm.missing())}")
def test_slurm_preempts_one_and_loses_a_node(tmp_path: Path, by_local: Outcome) -> None:
    path = write_pos_enc(tmp_path / "elsewhere")
    folder = path.parent / "runs" / "pos_enc"
    with slurm.cluster() as cluster:
        assert command.run([str(path), *SEEDS, "--on", "slurm", "--workers", "2", "--sbatch", "time=30:00"]) == 0
        assert "#SBATCH --time=30:00\n" in (folder / "workers" / FILE).read_text("utf-8")
        wait_for(folder, lambda: len(list(folder.glob("*/checkpoints/last"))) >= 2)
        cluster.signal("n2", signal.SIGSTOP)  # there is something left to lose, however fast the trials are
        cluster.ask("sbatch", "--partition=high", "--nodelist=n1", "--output=/dev/null", "--wrap=sleep 1")
        wait_for(folder, lambda: "PENDING" in cluster.ask("squeue", "-h", "-t", "all", "-p", "low", "-o", "%T"))
        cluster.lose("n2")
        assert not whole(folder), "there is something left to lose"

        def go_on() -> bool:
            for task in cluster.ask("squeue", "-h", "-r", "-t", "PD", "-p", "low", "-o", "%A").split():
                cluster.ask("scontrol", "update", f"JobId={task}", "StartTime=now")  # not in two minutes
            return whole(folder)

        wait_for(folder, go_on)
    assert outcome(folder) == by_local
    assert sum(entry.attempts for entry in entries(folder)) > len(by_local.curves), "they were disturbed"
    assert "resuming" in "".join(log.read_text("utf-8") for log in (folder / "logs").iterdir())


@pytest.mark.skipif(ray_nodes.PROGRAM is None, reason="not installed: ray")
def test_ray_loses_a_node(tmp_path: Path, capsys: pytest.CaptureFixture[str], by_local: Outcome) -> None:
    path = write_pos_enc(tmp_path / "elsewhere")
    folder = path.parent / "runs" / "pos_enc"
    with ray_nodes.cluster() as (address, node):
        start = [str(path), *SEEDS, "--on", f"ray:{address}", "--workers", "2"]
        with pytest.raises(LabError, match="none of the 2 nodes of Ray has num_cpus=1, blue=2"):
            command.run([*start, "--resource", "blue=2"])
        assert not folder.exists()
        assert command.run(start) == 0
        assert "keeps 2 tasks of Ray, num_cpus=1 each" in capsys.readouterr().out
        freeze_with_trials(folder, lambda number: ray_nodes.send(node, number))
        ray_nodes.lose(node)
        assert not whole(folder), "there is something left to lose"
        wait_for(folder, lambda: whole(folder))
        (driver,) = folder.glob("workers/ray-driver-*.log")
        wait_for(folder, lambda: driver.read_text("utf-8").count("ended with status 0") == 2)
    assert outcome(folder) == by_local
    assert sum(entry.attempts for entry in entries(folder)) > len(by_local.curves), "it was disturbed"
    assert "resuming" in "".join(log.read_text("utf-8") for log in (folder / "logs").iterdir())


@pytest.mark.usefixtures("one_server")
def test_the_commands_of_other_schedulers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What docs/clusters.md gives Kubernetes and SkyPilot are workers; what it gives W&B's agents is what W&B says."""
    page = (Path(__file__).parents[3] / "docs" / "clusters.md").read_text("utf-8")
    kubernetes, sky, agents = (yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL))
    (container,) = kubernetes["spec"]["template"]["spec"]["containers"]
    place, _, line = sky["run"].removeprefix("cd ").partition(" && ")
    assert place == container["workingDir"]
    (tmp_path / "sweeps").mkdir()
    write_sweep(tmp_path).rename(tmp_path / "sweeps" / "seeds.yaml")
    monkeypatch.chdir(tmp_path)
    for words in (container["command"], shlex.split(line)):
        assert words[0] == ".venv/bin/sweep"
        assert command.run(words[1:]) == 0
        assert len(curves(tmp_path / "runs" / "seeds")) == 4
    assert agents["run"] in COMMANDS
