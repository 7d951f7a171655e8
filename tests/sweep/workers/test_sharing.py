"""How many trials share a GPU: what pays by the measured rates, and no more than the memory holds. No GPU is needed."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from gpt_lab.cost import memory
from gpt_lab.errors import LabError
from gpt_lab.study import cells, sweep_file
from gpt_lab.sweep.workers import process, sharing
from tests.helpers import tiny_config
from tests.sweep.sweep_helpers import write_sweep


class Server:
    """A stand-in for the fork server: steps take as long as `seconds` says for so many at a time; -1: no memory."""

    def __init__(self, seconds: Mapping[int, float], taken: float, free: float) -> None:
        self.seconds, self.memory, self.ended = seconds, {"taken": taken, "free": free}, list[str]()

    def gather(self, jobs: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
        assert all(job["gpu"] == "3" and job["meet"]["count"] == len(jobs) for job in jobs.values())
        if self.seconds[len(jobs)] < 0:
            raise LabError("out of memory")
        return {name: {"pace": {"step": self.seconds[len(jobs)]}, "memory": self.memory} for name in jobs}

    def signal(self, job: str, number: int) -> None:
        self.ended.append(job)


@pytest.mark.parametrize(
    "seconds, taken, free, expected, rates",
    [
        ({1: 1.0, 2: 1.0, 4: 1.6, 8: 3.1}, 1e9, 80e9, 4, {1: 1.0, 2: 2.0, 4: 2.5, 8: 8 / 3.1}),
        ({1: 1.0, 2: 1.9}, 1e9, 80e9, 1, {1: 1.0, 2: 2 / 1.9}),
        ({1: 1.0, 2: 1.0}, 20e9, 60e9, 2, {1: 1.0, 2: 2.0}),
        ({1: 1.0}, 50e9, 80e9, 1, {1: 1.0}),
        ({1: 1.0, 2: 1.0, 4: -1.0}, 10e9, 80e9, 2, {1: 1.0, 2: 2.0}),
    ],
    ids=["no gain from eight", "no gain from two", "memory for two", "memory for one", "four failed"],
)
def test_what_pays(
    seconds: dict[int, float], taken: float, free: float, expected: int, rates: dict[int, float]
) -> None:
    server: Any = Server(seconds, taken, free)
    share = sharing.measure(server, tiny_config(), 1, "3")
    assert share.trials == expected
    assert share.rates == pytest.approx(rates)
    assert len(server.ended) == (4 if -1.0 in seconds.values() else 0), "what was begun in vain is ended"


def test_a_config_that_fails_alone_is_an_error() -> None:
    server: Any = Server({1: -1.0}, 1e9, 80e9)
    with pytest.raises(LabError, match="out of memory"):
        sharing.measure(server, tiny_config(), 1, "3")


def test_it_is_said_how_they_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(tmp_path))
    share = sharing.Share(2, {1: 10.0, 2: 15.0})
    assert share.line().startswith(
        "2 trials a GPU (steps a second of all, by their number: 1: 10, 2: 15); they compute in"
    )
    (tmp_path / "control").touch()
    assert share.line().endswith("they compute at once, through MPS")


def test_the_largest_run_is_measured(tmp_path: Path) -> None:
    path = write_sweep(tmp_path, {"scale.width": [16, 64, 32], "seed": [0]})
    found = cells.configs(cells.cells(sweep_file.load(path)))
    assert memory.largest(found).scale.width == 64


def test_processes_begin_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = threading.Thread(target=process.meet, args=(str(tmp_path), 3))
    one.start()
    (tmp_path / "second").touch()
    one.join(0.05)
    assert one.is_alive(), "the third is not there"
    (tmp_path / "third").touch()
    one.join(5)
    assert not one.is_alive()
    monkeypatch.setattr(process, "PATIENCE", 0.0)
    with pytest.raises(LabError, match="4 processes were to begin together, and not all"):
        process.meet(str(tmp_path), 4)
