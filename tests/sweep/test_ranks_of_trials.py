"""Trials that several devices share: the numbers of one device, and another rank that dies or fails."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any, NoReturn

import pytest

from gpt_lab.cli import sweep as command
from gpt_lab.cost import memory
from gpt_lab.errors import ConfigError
from gpt_lab.study import sweep_file
from gpt_lab.sweep import runner
from gpt_lab.sweep.ledger.ledger import entries
from gpt_lab.sweep.search import trunk
from gpt_lab.sweep.workers import trial_ranks
from gpt_lab.sweep.workers.client import ForkServer
from gpt_lab.train.parallel.process_group import RankLost
from tests.helpers import tiny_config
from tests.sweep.sweep_helpers import children, curves, quiet, said, tree, until, write_sweep
from tests.train.train_helpers import fork, status

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_server")]
SHARED = {"parallel": "ddp", "gpus_per_trial": 2}


def run(path: Path, **settings: Any) -> tuple[int, str]:
    """Exit status and text of a sweep."""
    console = quiet()
    return runner.run_sweep(sweep_file.load(path), console, **settings), said(console)


def losses(folder: Path) -> dict[str, list[float]]:
    return {name: [row["val/loss"] for row in rows if "val/loss" in row] for name, rows in curves(folder).items()}


def test_a_rank_is_killed_and_the_numbers_are_those_of_one_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second rank of a trial dies in its midst."""
    for name in ("alone", "shared"):
        (tmp_path / name).mkdir()
    fixed = {"budget.steps": 250, "eval.every": 50, "checkpoint.every": 20}  # time enough to disturb it
    alone = write_sweep(tmp_path / "alone", {"seed": [0]}, fixed=fixed)
    assert run(alone)[0] == 0
    path = write_sweep(tmp_path / "shared", {"seed": [0]}, fixed={**fixed, **SHARED})
    folder = path.parent / "runs" / "tiny"
    servers: list[ForkServer] = []

    def opened() -> ForkServer:
        servers.append(ForkServer())
        return servers[-1]

    monkeypatch.setattr(runner, "ForkServer", opened)
    killed: list[int] = []

    def kill() -> None:
        until(lambda: any(folder.glob("*/checkpoints/last")))
        trials = children(servers[0].process.pid)
        killed.extend(children(trials[0])[:1])
        os.kill(killed[0], signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    code, text = run(path, jobs=1)
    thread.join()
    assert (code, len(killed)) == (0, 1)
    assert "1 at a time, 1 thread of 2 ranks each" in text
    assert "killed by SIGKILL (out of memory, or killed by hand); trying again" in text
    assert [entry.attempts for entry in entries(folder)] == [2]
    assert "rank 1 was killed by SIGKILL" in "".join(log.read_text("utf-8") for log in (folder / "logs").iterdir())
    expected, found = losses(alone.parent / "runs" / "tiny"), losses(folder)
    assert found.keys() == expected.keys() and len(found) == 1
    for name, values in expected.items():
        assert found[name] == pytest.approx(values, abs=1e-5)
    assert not tree(servers[0].process.pid)[1:], "no rank is left"


@pytest.mark.forks
def test_another_rank_fails(tmp_path: Path) -> None:
    """Its own error ends the trial with a line that names it; nothing waits for it."""
    said = tmp_path / "said"

    def lost(how: str) -> NoReturn:
        said.write_text(how, encoding="utf-8")
        os._exit(7)

    def first() -> None:
        os.dup2(os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT), 2)
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115  # pytest's own is another file
        with trial_ranks.sharing(tiny_config(**SHARED), lost) as ranks:
            ranks.announce("begin")  # without what the others need to begin
            signal.pause()

    assert status(fork(first)) == 7
    assert said.read_text("utf-8") == "rank 1 ended with status 1: its log says why"
    assert "ValueError: not enough values to unpack" in (tmp_path / "log").read_text("utf-8")


@pytest.mark.forks
def test_who_has_ended_counts_and_not_who_is_told_of_it() -> None:
    """A rank whose connection breaks knows that at once, and must not leave as if it had failed itself."""

    def first() -> None:
        with trial_ranks.sharing(tiny_config(**{**SHARED, "gpus_per_trial": 3}), lambda how: os._exit(7)):
            os.kill(children(os.getpid())[0], signal.SIGKILL)
            raise RankLost

    assert status(fork(first)) == -signal.SIGKILL


def test_devices_are_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert runner._gpus(5, 2) == ["0,1", "2,3"]
    assert runner._gpus(1, 2) == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7,3,5,1")
    assert runner._gpus(4, 2) == ["7,3", "5,1"]
    assert runner._gpus(4) == ["7", "3", "5", "1"]


def test_memory_is_that_of_all_ranks() -> None:
    one, two = tiny_config(), tiny_config(**SHARED)
    room = memory.Room(100 * memory._need(one))
    assert memory.at_once([one], room, 1000) == 100
    assert memory.at_once([two], room, 1000) == pytest.approx(50, abs=5)


def test_what_is_for_one_device(tmp_path: Path) -> None:
    path = write_sweep(tmp_path, {"seed": [0]}, fixed=SHARED)
    refused = "--per-gpu: each trial has 2 devices of its own: leave it out"
    with pytest.raises(ConfigError, match=refused):
        run(path, per_gpu=2)
    for words in (["--dry-run"], ["--on", "slurm", "--dry-run"]):
        with pytest.raises(ConfigError, match=refused):
            command.run([str(path), "--per-gpu", "2", *words])
    cfg = tiny_config(**SHARED)
    lengths = [trunk.Length(steps, 1.0, {}) for steps in (10, 20)]
    why = trunk._branch(None, None, cfg, *lengths)  # type: ignore[arg-type]
    assert isinstance(why, str) and "leave no fork points" in why
