"""The runner on real, tiny trainings: what is trained, what is repeated, what is said of what goes wrong."""

from __future__ import annotations

import os
import resource
import shlex
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gpt_lab.config.schema import RunConfig
from gpt_lab.cost import memory
from gpt_lab.errors import ConfigError, LabError
from gpt_lab.store import Run
from gpt_lab.store.atomic_files import read_json
from gpt_lab.study import cells, sweep_file
from gpt_lab.study.design import Cell
from gpt_lab.sweep import runner, work
from gpt_lab.sweep.ledger.entry import LedgerEntry
from gpt_lab.sweep.ledger.ledger import FILE, Ledger, entries
from gpt_lab.sweep.workers import pinning
from gpt_lab.sweep.workers.client import ForkServer
from tests.helpers import flip
from tests.sweep.sweep_helpers import (
    children,
    curves,
    quiet,
    said,
    until,
    write_sweep,
)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_server")]


@pytest.fixture
def fork_server(one_server: None) -> Iterator[ForkServer]:
    """That of all sweeps of a test."""
    server = ForkServer()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server, "close", lambda patience=5.0: None)
        patch.setattr(runner, "ForkServer", lambda: server)
        yield server
    server.close()


def run(path: Path, jobs: int = 2, **settings: Any) -> tuple[int, str]:
    """Exit status and text of a sweep."""
    console = quiet()
    return runner.run_sweep(sweep_file.load(path), console, jobs=jobs, **settings), said(console)


def states(folder: Path) -> list[str]:
    return [entry.state for entry in entries(folder) if entry.wanted]


def broken(monkeypatch: pytest.MonkeyPatch, which: Callable[[Cell], bool]) -> None:
    """Trials that get other settings than were planned, which their process refuses."""
    configs = cells.configs

    def wrong(asked: list[Cell]) -> list[RunConfig]:
        return [
            replace(cfg, seed=cfg.seed + 100) if which(cell) else cfg
            for cell, cfg in zip(asked, configs(asked), strict=True)
        ]

    monkeypatch.setattr(cells, "configs", wrong)


def test_a_sweep_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_sweep(tmp_path)
    code, text = run(path, threads=1)
    folder = tmp_path / "runs" / "tiny"
    assert code == 0
    own = pinning.divided(pinning.numa_nodes(), 2, 1)
    which = f", on {len(own[0])} core{'s' * (len(own[0]) > 1)} of its own" if own else ""
    assert f"tiny: 4 of 4 runs are left, 2 at a time, 1 thread each{which}\n" in text
    assert "[1/4] started: position=rope, seed=0" in text
    assert text.count(" finished: position=") == 4
    assert "4 cells: 4 finished" in text
    assert text.rstrip().endswith(f"uv run report {path}")
    whole = curves(folder)
    assert len(whole) == 4
    for entry in entries(folder):
        record = read_json(folder / str(entry.run) / "run.json")
        assert entry.score == record["summary"]["val/bpb"]
        assert entry.attempts == 1
        assert record["hardware"]["threads"] == 1
        assert shlex.split(record["command"]) == ["train", *entry.overrides]
        assert "training" in (folder / "logs" / f"{entry.key}.log").read_text("utf-8")

    monkeypatch.setattr(runner, "ForkServer", lambda: pytest.fail("nothing is left to run"))
    before = {p: p.stat().st_mtime_ns for p in folder.glob("*/run.json")}
    code, text = run(path)
    assert code == 0
    assert "tiny is already done: nothing to run" in text
    assert {p: p.stat().st_mtime_ns for p in folder.glob("*/run.json")} == before


def test_finished_runs_are_found_without_the_ledger_and_lost_ones_repeated(tmp_path: Path) -> None:
    path = write_sweep(tmp_path)
    folder = tmp_path / "runs" / "tiny"
    run(path)
    whole = curves(folder)
    flip(folder, FILE, 0.0)
    lost = next(entry for entry in Path(folder).glob("*/run.json")).parent
    shutil.rmtree(lost)
    code, text = run(path)
    assert code == 0
    assert f"{folder / FILE} is damaged (file is not a database): kept as {FILE}.damaged; a new one is begun" in text
    assert text.count("as before") == 3
    assert curves(folder) == whole
    shutil.rmtree(lost if lost.exists() else next(folder.glob("*/run.json")).parent)
    code, text = run(path)
    assert code == 0
    assert "1 of 4 runs are left" in text
    assert curves(folder) == whole


def test_a_failing_trial_is_shown_retried_and_sinks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_sweep(tmp_path)
    folder = tmp_path / "runs" / "tiny"
    with monkeypatch.context() as patch:
        broken(patch, lambda cell: cell.index == 1)
        patch.setattr(runner.cells_, "configs", cells.configs)
        patch.setattr(ForkServer, "ask", lambda self, job, **settings: {"gpus": 0, "warnings": []})
        code, text = run(path)
    assert code == 1
    assert sorted(states(folder)) == ["failed", "finished", "finished", "finished"]
    reason = "the settings of this trial are not those that were planned"
    assert f"FAILED: position=none, seed=0: {reason}" in text
    assert text.count("FAILED") == 2
    assert text.count("; trying again") == 1
    failed = next(entry for entry in entries(folder) if entry.state == "failed")
    assert failed.attempts == 2
    assert str(folder / "logs" / f"{failed.key}.log") in text
    assert f"failed: position=none, seed=0: {reason}" in text, "again below the table"
    code, text = run(path)
    assert code == 0
    assert "1 of 4 runs are left" in text
    assert states(folder) == ["finished"] * 4


def test_fail_fast_stops_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_sweep(tmp_path, {"seed": [0, 1, 2]}, fixed={"budget.steps": 3000, "eval.every": 1000})
    folder = tmp_path / "runs" / "tiny"
    with monkeypatch.context() as patch:
        broken(patch, lambda cell: cell.index == 1)
        patch.setattr(ForkServer, "ask", lambda self, job, **settings: {"gpus": 0, "warnings": []})
        code, text = run(path, fail_fast=True)
    assert code == 1
    assert "stopping the other trials (--fail-fast)" in text
    assert text.count("FAILED") == 1
    assert states(folder) == ["stopped", "failed", "waiting"]


def test_divergence_is_a_result(tmp_path: Path) -> None:
    path = write_sweep(tmp_path, {"optim.lr": [1.0e-3, 1.0e30]}, fixed={"schedule.warmup": 0.0, "optim.clip": 0.0})
    folder = tmp_path / "runs" / "tiny"
    code, text = run(path)
    assert code == 1
    assert states(folder) == ["finished", "diverged"]
    assert "diverged: optim.lr=1e+30" in text
    assert [entry.attempts for entry in entries(folder)] == [1, 1]
    code, text = run(path)
    assert code == 1
    assert "already done" in text


def test_a_run_that_another_process_trains_is_waited_for(tmp_path: Path) -> None:
    path = write_sweep(tmp_path, {"seed": [0]})
    folder = tmp_path / "runs" / "tiny"
    run(path)
    (found,) = folder.glob("*/run.json")
    (folder / FILE).unlink()
    lock, console = Run.open(found.parent).lock(), quiet()

    def let_go() -> None:
        until(lambda: "waiting: another process trains seed=0" in said(console))
        lock.release()

    thread = threading.Thread(target=let_go)
    thread.start()
    assert runner.run_sweep(sweep_file.load(path), console) == 0
    thread.join()
    assert states(folder) == ["finished"]
    assert entries(folder)[0].attempts > 1


def test_a_trial_stopped_from_outside_stays_stopped(tmp_path: Path, fork_server: ForkServer) -> None:
    path = write_sweep(tmp_path, {"seed": [0]}, fixed={"budget.steps": 400, "eval.every": 100, "checkpoint.every": 100})
    folder = tmp_path / "runs" / "tiny"

    def stop() -> None:
        until(lambda: any(p.stat().st_size for p in folder.glob("*/metrics.jsonl")))
        for pid in children(fork_server.process.pid):
            os.kill(pid, signal.SIGTERM)

    thread = threading.Thread(target=stop)
    thread.start()
    code, text = run(path)
    thread.join()
    assert code == 1
    assert states(folder) == ["stopped"]
    assert "the same command goes on from here" in text
    code, text = run(path)
    assert code == 0
    assert curves(folder)["seed=0"][-1]["step"] == 400


def test_a_full_disk_ends_the_sweep_with_one_line(tmp_path: Path, fork_server: ForkServer) -> None:
    path = write_sweep(tmp_path)
    run(write_sweep(tmp_path, {"seed": [9]}))  # the corpus is prepared: nothing else is large
    hard = resource.prlimit(fork_server.process.pid, resource.RLIMIT_FSIZE)[1]
    path = write_sweep(tmp_path)
    resource.prlimit(fork_server.process.pid, resource.RLIMIT_FSIZE, (4000, hard))
    try:
        with pytest.raises(LabError, match="no space left: free some and repeat the command") as caught:
            run(path)
    finally:
        resource.prlimit(fork_server.process.pid, resource.RLIMIT_FSIZE, (hard, hard))
    assert "\n" not in str(caught.value)
    assert "failed" not in states(tmp_path / "runs" / "tiny")
    assert run(path)[0] == 0


def test_poor_curves_are_pruned_within_their_arm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "LOOK_EVERY", 0.02)  # short runs are looked at in time
    path = write_sweep(
        tmp_path,
        {"position": ["rope", "none"], "optim.lr": [3.0e-3, 1.0e-6, 1.0e-7], "seed": [0]},
        metric={"name": "val/bpb", "goal": "minimize"},
        early_terminate={"type": "hyperband", "min_iter": 2, "eta": 3},
        gpt_lab={"nuisance": ["optim.lr"]},
        fixed={"budget.steps": 100, "eval.every": 10, "checkpoint.every": 50, "schedule": "constant"},
    )
    folder = tmp_path / "runs" / "tiny"
    code, text = run(path, jobs=1)
    assert code == 0
    found = {(entry.arm, entry.values["optim.lr"]): entry for entry in entries(folder)}
    for arm in ("position=rope", "position=none"):
        assert found[arm, 3.0e-3].state == "finished"
        assert {found[arm, 1.0e-6].state, found[arm, 1.0e-7].state} <= {"pruned", "finished"}
    pruned = [entry for entry in found.values() if entry.state == "pruned"]
    assert pruned
    assert all(Run.open(folder / str(entry.run)).state == "stopped" and entry.score for entry in pruned)
    assert "pruned: " in text
    assert "already done" in run(path)[1]


def test_drawn_cells(tmp_path: Path) -> None:
    swept = {"optim.lr": {"distribution": "log_uniform_values", "min": 1.0e-4, "max": 1.0e-2}}
    settings: dict[str, Any] = {"metric": {"name": "val/bpb", "goal": "minimize"}, "run_cap": 3}
    for method in ("random", "bayes"):
        path = write_sweep(tmp_path, swept, name=method, method=method, **settings)
        folder = tmp_path / "runs" / method
        code, text = run(path)
        assert code == 0, text
        found = entries(folder)
        assert [entry.state for entry in found] == ["finished"] * 3
        assert sorted(entry.index for entry in found) == [0, 1, 2]
        assert len({entry.values["optim.lr"] for entry in found}) == 3
        assert len(list(folder.glob("*/run.json"))) == 3
        assert "already done" in run(path)[1]


def test_the_target_of_the_metric_ends_a_sweep(tmp_path: Path) -> None:
    path = write_sweep(tmp_path, metric={"name": "val/bpb", "goal": "minimize", "target": 1000.0})
    code, text = run(path, jobs=1)
    assert code == 0
    assert states(tmp_path / "runs" / "tiny") == ["finished", "waiting", "waiting", "waiting"]
    assert "target is reached" in text


def test_what_cannot_be_built_is_named_before_anything_is_written(tmp_path: Path) -> None:
    path = write_sweep(tmp_path, fixed={"data.path": str(tmp_path / "missing.txt")})
    with pytest.raises(ConfigError, match="cell 0 .*missing.txt"):
        run(path)
    assert not (tmp_path / "runs").exists()


def test_threads_are_kept(tmp_path: Path) -> None:
    path = write_sweep(tmp_path, {"seed": [0]}, fixed={"budget.steps": 4})
    run(path, threads=2)
    folder = tmp_path / "runs" / "tiny"
    ledger = Ledger.open(folder)
    ledger.repeat([entry.key for entry in ledger.entries()][:1])
    ledger.close()
    with pytest.raises(ConfigError, match="begun with --threads 2"):
        run(path, threads=1)
    code, text = run(path)
    assert code == 0
    assert "2 threads each" in text


def test_no_more_at_a_time_than_the_memory_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free", lambda: memory.Room(1))
    code, text = run(write_sweep(tmp_path, {"seed": [0, 1]}, fixed={"budget.steps": 4}), jobs=2)
    assert code == 0
    assert "the memory holds 1 at a time" in text and "2 runs are left, 1 at a time" in text


def test_a_terminal_gets_a_live_table(tmp_path: Path) -> None:
    import io

    from rich.console import Console

    path = write_sweep(tmp_path, {"seed": [0, 1]}, fixed={"budget.steps": 150, "eval.every": 50})
    console = Console(file=io.StringIO(), width=120, height=30, force_terminal=True, _environ={})
    assert runner.run_sweep(sweep_file.load(path), console, jobs=2) == 0
    text = said(console)
    assert "tokens/s" in text
    assert "tiny: 2 running" in text
    assert text.count("tiny: 2 running") < 60, "not more than four times a second"
    assert "\N{BOX DRAWINGS HEAVY HORIZONTAL}" in text


def test_entries_are_cells(tmp_path: Path) -> None:
    path = write_sweep(tmp_path, {"seed": [0]})
    run(path)
    (entry,) = entries(tmp_path / "runs" / "tiny")
    assert isinstance(entry, LedgerEntry)
    (planned,) = cells.cells(sweep_file.load(path))
    assert (entry.cell.index, entry.cell.overrides, str(entry.cell.arm)) == (
        planned.index,
        planned.overrides,
        str(planned.arm),
    )
