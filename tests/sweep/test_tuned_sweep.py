"""Sweeps with `tune` for real: killed at any moment, with more at a time, with another file, and pruned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gpt_lab.analysis.compare import compare
from gpt_lab.frame import load
from gpt_lab.frame.places import StudyOptions
from gpt_lab.study import place, sweep_file
from gpt_lab.sweep import runner
from gpt_lab.sweep.ledger.ledger import entries
from tests.sweep.harness import KILLS, disturbed
from tests.sweep.sweep_helpers import curves, quiet, said, write_sweep

pytestmark = pytest.mark.slow
SWEPT = {"optim": ["adamw", "muon"], "seed": [0, 1, 2]}
START = {"optim=adamw": 0.01, "optim=muon": 0.05}
BLOCK: dict[str, Any] = {
    "baseline": {"optim": "adamw"},
    "tune": {"optim.lr": {"start": START, "points": 3, "factor": 3, "widen": 1}, "seeds": 1},
}


def write(folder: Path, **more: Any) -> Path:
    folder.mkdir(exist_ok=True)
    return write_sweep(folder, SWEPT, metric={"name": "val/bpb", "goal": "minimize"}, **{"gpt_lab": BLOCK, **more})


def test_killed_at_any_moment_it_makes_the_same_runs(tmp_path: Path) -> None:
    """The undisturbed one runs one at a time, the killed one as many as there are cores."""
    paths = {name: write(tmp_path / name) for name in ("undisturbed", "kill_runner")}
    done = disturbed(3, paths)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["kill_runner"]["kills"] == KILLS
    found = {name: curves(path.parent / "runs" / "tiny") for name, path in paths.items()}
    assert found["kill_runner"] == found["undisturbed"]
    assert 12 <= len(found["undisturbed"]) <= 14
    kept = entries(paths["undisturbed"].parent / "runs" / "tiny")
    assert [entry.index for entry in kept] == [e.index for e in entries(paths["kill_runner"].parent / "runs" / "tiny")]
    judged = compare(load.load([str(paths["undisturbed"])], StudyOptions()))
    for file in (paths["undisturbed"].parent / "runs" / "tiny").glob("sweep.sqlite*"):
        file.unlink()
    again = compare(load.load([str(paths["undisturbed"])], StudyOptions()))
    assert again.rows == judged.rows, "the runs alone tell what was chosen"


@pytest.mark.usefixtures("one_server")
def test_runs_dry_run_report_and_more_seeds(tmp_path: Path) -> None:
    path = write(tmp_path, early_terminate={"type": "hyperband", "min_iter": 2, "eta": 2})
    sweep = sweep_file.load(path)
    console = quiet()
    assert runner.dry_run(sweep, console, 2, 1) == 0
    text = said(console)
    assert "tuning: 6 to 8 runs, as many for each of 2 arms: 3 values of optim.lr" in text
    assert "comparison: 6 runs on fresh values of seed" in text and "in all 12 to 14 runs" in text
    assert "optim=adamw begins with optim.lr 0.00333, 0.01, 0.03" in text and " at most with 2 at a time" in text
    assert runner.run_sweep(sweep, quiet(), jobs=2, threads=1) == 0
    folder = place.runs_folder(sweep)
    states = {(e.arm, e.tuning, e.pair): (e.state, e.score) for e in entries(folder)}
    assert {state for (_, _, pair), (state, _) in states.items() if pair < 3} == {"finished"}, "never the comparison"
    assert "pruned" in {state for state, _ in states.values()}
    study = load.load([str(folder)], StudyOptions())
    comparison = compare(study)
    assert {row.n for row in comparison.rows} == {3} and all(row.tuning for row in comparison.rows)
    tuning = {e.arm: e.tuning for e in entries(folder) if e.pair == 0}
    assert {str(row.arm): str(row.tuning) for row in comparison.rows} == tuning
    assert set(study.runs["state"]) == {"finished", "pruned"}
    asked = write(tmp_path, gpt_lab=BLOCK | {"question": "Which?"}, early_terminate=sweep.content["early_terminate"])
    console = quiet()
    assert runner.run_sweep(sweep_file.load(asked), console, jobs=2, threads=1) == 0
    assert "already done: nothing to run" in said(console)
    assert {(e.arm, e.tuning, e.pair): (e.state, e.score) for e in entries(folder) if e.wanted} == states
    assert runner.run_sweep(sweep_file.with_seeds(sweep_file.load(asked), 4), quiet(), jobs=2, threads=1) == 0
    more = {(e.arm, e.tuning, e.pair): (e.state, e.score) for e in entries(folder) if e.wanted}
    assert states.items() <= more.items() and len(more) == len(states) + 2
