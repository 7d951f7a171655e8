"""Whatever is killed, and whoever works beside: each trial once, complete, the same bit for bit, no process left."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from gpt_lab.store import Run
from gpt_lab.study import cells, sweep_file
from gpt_lab.sweep.ledger.ledger import entries
from tests.processes import commands
from tests.sweep.harness import KILLS, disturbed, whole
from tests.sweep.sweep_helpers import ROOT, children, command, curves, name_of, tree, until, write_sweep

pytestmark = pytest.mark.slow
SWEPT = {"position": ["rope", "none"], "seed": [0, 1]}
KILLED = -signal.SIGKILL
Played = dict[str, tuple[dict[str, Any], Path]]


TRUNK: dict[str, Any] = {
    "swept": {"budget.steps": [12, 24, 36], "seed": [0, 1]},
    "fixed": {"schedule": "wsd", "schedule.warmup": 4, "eval.every": 9},
    "gpt_lab": {"trunk": True},
}
"""A sweep whose shorter runs begin at a step of the longest."""


def play(tmp_path: Path, *scenarios: str, undisturbed: dict[str, Any] | None = None, **changes: Any) -> Played:
    """What happened in each scenario, and the folder of its study, after the same sweep was run undisturbed.

    The curves are compared here.

    Args:
        changes: of the sweep, as write_sweep takes them; of the undisturbed one where those are others.
    """
    usual: dict[str, Any] = {"swept": SWEPT, "fixed": {"budget.steps": 36, "eval.every": 9}}
    paths = {}
    for name in ("undisturbed", *scenarios):
        (tmp_path / name).mkdir()
        chosen = undisturbed if undisturbed is not None and name == "undisturbed" else changes
        settings = {**usual, **chosen}
        paths[name] = write_sweep(tmp_path / name, settings.pop("swept"), **settings)
    done = disturbed(7, paths)
    outputs = [path.with_suffix(".out") for path in paths.values()]
    assert done.returncode == 0, done.stderr + "".join(p.read_text("utf-8")[-3000:] for p in outputs if p.exists())
    facts = json.loads(done.stdout)
    folders = {name: path.parent / "runs" / "tiny" for name, path in paths.items()}
    assert facts["undisturbed"]["codes"] == [0]
    expected = curves(folders["undisturbed"])
    assert len(expected) == facts["undisturbed"]["finished"] >= 4
    assert max(rows[-1]["step"] for rows in expected.values()) == 36
    for name in scenarios:
        assert curves(folders[name]) == expected, name
    return {name: (facts[name], folders[name]) for name in scenarios}


def test_the_runner_is_killed_or_asked_to_leave(tmp_path: Path) -> None:
    played = play(tmp_path, "kill_runner", "interrupt")
    facts, folder = played["kill_runner"]
    assert facts["kills"] == KILLS
    assert facts["codes"] == [KILLED] * KILLS + [0]
    assert sum(entry.attempts for entry in entries(folder)) > 4, "some were begun more than once"
    assert facts["lost"] == [], "trials whose runner is gone write their checkpoints"
    facts, _ = played["interrupt"]
    assert facts["codes"] == [130, 143, 129, 0]
    assert facts["lost"] == []
    assert all("running" not in states and "failed" not in states for states in facts["states"])


def test_what_is_below_the_runner_is_killed_and_others_work_beside_it(tmp_path: Path) -> None:
    played = play(tmp_path, "kill_trials", "kill_server", "together")
    facts, folder = played["kill_trials"]
    assert facts["kills"] == KILLS
    assert facts["codes"] == [0]
    assert sum(entry.attempts for entry in entries(folder)) > 4
    said = (tmp_path / "kill_trials" / "tiny.out").read_text("utf-8")
    assert "killed by SIGKILL (out of memory, or killed by hand); trying again" in said
    facts, _ = played["kill_server"]
    assert facts["kills"] >= 2
    assert facts["codes"] == [0]
    facts, folder = played["together"]
    assert sorted(facts["codes"]) == [KILLED, 0, 0, 0]
    assert sum(entry.attempts for entry in entries(folder)) <= 4 + 2, "no trial twice but those of the dead"


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
    """With uv, in a terminal: Ctrl-C, a hang-up while every process is told to leave, kill -9 of the runner. Then one,
    forked, whose reader leaves. The same command each time; nothing is lost, nothing is left, and the numbers are the
    undisturbed."""
    fixed = {"budget.steps": 600, "eval.every": 120, "checkpoint.every": 400, "log.every": 10}
    (tmp_path / "undisturbed").mkdir()
    expected = undisturbed(write_sweep(tmp_path / "undisturbed", {"seed": [0, 1]}, fixed=fixed))
    path = write_sweep(tmp_path, {"seed": [0, 1]}, fixed=fixed)
    folder = tmp_path / "runs" / "tiny"

    leaving = Terminal(path, folder)
    os.write(leaving.terminal, b"\x03")
    text = leaving.end(130)
    assert "stopping: trials write their checkpoints" in text
    assert "stopped by SIGINT: finished runs and the checkpoints of the others are kept" in text
    assert "tokens/s" in text and text.count("\x1b[?25l") == text.count("\x1b[?25h"), "a live table, and the cursor"

    leaving = Terminal(path, folder)
    leaving.hang_up()
    for pid in (*leaving.processes, *leaving.processes):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    leaving.end(129, 143, -signal.SIGHUP, -signal.SIGTERM)

    leaving = Terminal(path, folder)
    server = next(pid for pid in leaving.processes if len(children(pid)) == 2)
    (runner,) = (pid for pid in leaving.processes if server in children(pid))
    os.kill(runner, signal.SIGKILL)
    leaving.end(137, KILLED)

    out, error = tmp_path / "out", tmp_path / "error"
    os.mkfifo(out)
    done = commands.begun(["sweep", str(path)], ROOT, out, error)
    with open(out, encoding="utf-8") as reader:
        reader.readline()
    done.join(120)
    assert (done.exitcode, error.read_text("utf-8")) == (0, "")
    assert curves(folder) == expected
    assert all(log.read_text("utf-8").count("resuming") == 3 for log in (folder / "logs").iterdir())


def undisturbed(path: Path) -> dict[str, Any]:
    """The curves of a sweep's cells, each trained by itself."""
    from tests.train.train_helpers import curve, train

    found = cells.cells(sweep_file.load(path))
    return {name_of(cell): curve(train(cfg).path) for cell, cfg in zip(found, cells.configs(found), strict=True)}


class Terminal:
    """The command in a terminal of its own, once both of its trials train; the first one until its table says so."""

    def __init__(self, path: Path, folder: Path) -> None:
        self.folder, self.shown = folder, bytearray()
        self.terminal, theirs = pty.openpty()
        tty = os.ttyname(theirs)
        uv = [shutil.which("uv") or "", "run", "--no-project", "--"] if shutil.which("uv") else []
        self.process = subprocess.Popen(
            ["sh", "-c", f'exec <{tty} >{tty} 2>&1; exec "$@"', "sh", *uv, *command(path, "--jobs", "2")],
            cwd=ROOT,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "110", "LINES": "30"},
            start_new_session=True,
        )
        os.close(theirs)
        os.set_blocking(self.terminal, False)
        sizes = {path: path.stat().st_size for path in folder.glob("*/metrics.jsonl")}
        until(lambda: self.read() or self.trains(sizes) or self.process.poll() is not None, every=0.02)
        self.processes = tree(self.process.pid)

    def read(self) -> None:
        with contextlib.suppress(OSError):
            self.shown += os.read(self.terminal, 1 << 16)

    def hang_up(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self.terminal)
        self.terminal = -1

    def trains(self, sizes: dict[Path, int]) -> bool:
        now = {path: path.stat().st_size for path in self.folder.glob("*/metrics.jsonl")}
        grown = sum(size > sizes.get(path, 0) for path, size in now.items())
        return grown == 2 and (bool(sizes) or b"2 running" in self.shown)

    def end(self, *statuses: int) -> str:
        """What it has shown. It has ended with one of these statuses, no process is left, and both runs are whole."""
        until(lambda: self.read() or self.process.poll() is not None, every=0.02)
        self.read()
        text = self.shown.decode()
        assert self.process.returncode in statuses, text
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in self.processes), 30)
        self.hang_up()
        runs = [Run.open(path.parent) for path in self.folder.glob("*/run.json")]
        assert [run.state for run in runs] == ["stopped", "stopped"]
        assert all(whole(run) for run in runs)
        return text
