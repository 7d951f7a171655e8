"""Whatever is killed, and whoever works beside: each trial once, complete, the same bit for bit, no process left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gpt_lab.sweep.ledger import entries
from tests.sweep.helpers import ROOT, children, command, curves, until, write_sweep

pytestmark = pytest.mark.slow
SWEPT = {"position": ["rope", "none", "alibi"], "seed": [0, 1]}
KILLED = -signal.SIGKILL
Played = dict[str, tuple[dict[str, Any], Path]]
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


TRUNK: dict[str, Any] = {
    "swept": {"budget.steps": [20, 36, 60], "seed": [0, 1]},
    "fixed": {"schedule": "wsd", "schedule.warmup": 4, "eval.every": 15},
    "gpt_lab": {"trunk": True},
}
"""A sweep whose shorter runs begin at a step of the longest."""


def play(tmp_path: Path, *scenarios: str, undisturbed: dict[str, Any] | None = None, **changes: Any) -> Played:
    """What happened in each scenario, and the folder of its study, after the same sweep was run undisturbed.

    The curves are compared here.

    Args:
        changes: of the sweep, as write_sweep takes them; of the undisturbed one where those are others.
    """
    usual: dict[str, Any] = {"swept": SWEPT, "fixed": {"budget.steps": 60, "eval.every": 15}}
    paths = {}
    for name in ("undisturbed", *scenarios):
        (tmp_path / name).mkdir()
        chosen = undisturbed if undisturbed is not None and name == "undisturbed" else changes
        settings = {**usual, **chosen}
        paths[name] = write_sweep(tmp_path / name, settings.pop("swept"), **settings)
    words = [str(word) for pair in paths.items() for word in pair]
    done = subprocess.run(
        [sys.executable, "-m", "tests.sweep.harness", "7", *words],
        cwd=ROOT,
        env={**os.environ, **ENVIRONMENT},
        capture_output=True,
        text=True,
        timeout=500,
    )
    outputs = [path.with_suffix(".out") for path in paths.values()]
    assert done.returncode == 0, done.stderr + "".join(p.read_text("utf-8")[-3000:] for p in outputs if p.exists())
    facts = json.loads(done.stdout)
    folders = {name: path.parent / "runs" / "tiny" for name, path in paths.items()}
    assert facts["undisturbed"]["codes"] == [0]
    expected = curves(folders["undisturbed"])
    assert len(expected) == 6
    assert max(rows[-1]["step"] for rows in expected.values()) == 60
    for name in scenarios:
        assert curves(folders[name]) == expected, name
    return {name: (facts[name], folders[name]) for name in scenarios}


def test_the_runner_is_killed_or_asked_to_leave(tmp_path: Path) -> None:
    played = play(tmp_path, "kill_runner", "interrupt")
    facts, folder = played["kill_runner"]
    assert facts["kills"] == 10
    assert facts["codes"] == [KILLED] * 10 + [0]
    assert sum(entry.attempts for entry in entries(folder)) > 6, "some were begun more than once"
    assert facts["lost"] == [], "trials whose runner is gone write their checkpoints"
    facts, _ = played["interrupt"]
    assert facts["codes"] == [130, 143, 129, 0]
    assert facts["lost"] == []
    assert all("running" not in states and "failed" not in states for states in facts["states"])


def test_what_is_below_the_runner_is_killed_and_others_work_beside_it(tmp_path: Path) -> None:
    played = play(tmp_path, "kill_trials", "kill_server", "together")
    facts, folder = played["kill_trials"]
    assert facts["kills"] == 10
    assert facts["codes"] == [0]
    assert sum(entry.attempts for entry in entries(folder)) > 6
    said = (tmp_path / "kill_trials" / "tiny.out").read_text("utf-8")
    assert "killed by SIGKILL (out of memory, or killed by hand); trying again" in said
    facts, _ = played["kill_server"]
    assert facts["kills"] >= 2
    assert facts["codes"] == [0]
    facts, folder = played["together"]
    assert sorted(facts["codes"]) == [KILLED, 0, 0, 0]
    assert sum(entry.attempts for entry in entries(folder)) <= 6 + 2, "no trial twice but those of the dead"


def test_trunk_and_branches_are_killed(tmp_path: Path) -> None:
    """Runners, trials, servers; and the numbers are those of straight runs."""
    straight = {key: value for key, value in TRUNK.items() if key != "gpt_lab"}
    played = play(tmp_path, "kill_runner", "kill_trials", "together", undisturbed=straight, **TRUNK)
    for facts, folder in played.values():
        assert facts["kills"] >= 1
        assert not list(folder.glob("*/forks/*")) and not list(folder.glob(".*/checkpoints/step-*"))
        records = [json.loads(path.read_text("utf-8")) for path in folder.glob("[!.]*/run.json")]
        assert sum("forked" in record for record in records) == 4, "what is killed is not trained from the start"


def test_the_real_command(tmp_path: Path) -> None:
    """The same with interpreters of their own: kill -9 while trials run, nothing left, the command goes on."""
    path = write_sweep(tmp_path, {"seed": [0, 1]}, fixed={"budget.steps": 200, "eval.every": 50})
    folder = tmp_path / "runs" / "tiny"
    with open(tmp_path / "out", "wb") as out:
        runner = subprocess.Popen(command(path, "--jobs", "2"), cwd=ROOT, stdout=out, stderr=out)
        until(lambda: any(p.stat().st_size > 2000 for p in folder.glob("*/metrics.jsonl")) or runner.poll() is not None)
        (server,) = children(runner.pid)
        trials = children(server)
        assert trials
        os.kill(runner.pid, signal.SIGKILL)
        runner.wait()
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in (server, *trials)), 5)
    assert {entry.state for entry in entries(folder)} <= {"running", "finished"}
    done = subprocess.run(command(path), cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "2 cells: 2 finished" in done.stdout
    assert all(rows[-1]["step"] == 200 for rows in curves(folder).values())
    assert any("resuming" in log.read_text("utf-8") for log in (folder / "logs").iterdir())
