"""The command `sweep`: what it takes, what it refuses, how it ends."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
from pathlib import Path

import pytest

from gpt_lab.cli import sweep
from gpt_lab.errors import ConfigError
from gpt_lab.sweep.ledger import entries
from tests.sweep.helpers import ROOT, command, curves, until, write_sweep
from tests.test_imports import heavy_after


def test_help_is_light() -> None:
    heavy, printed = heavy_after("sys.argv = ['sweep', '--help']\nfrom gpt_lab.cli.sweep import main; main()")
    assert heavy == []
    for word in (
        "--jobs N",
        "--threads N",
        "--seeds N",
        "--dry-run",
        "--report",
        "--fail-fast",
        "--retries N",
        "exit status:",
    ):
        assert word in printed


@pytest.mark.parametrize(
    "words, expected",
    [
        (["nosuch"], "nosuch"),
        (["{file}", "--jobs", "0"], "a whole number from 1 to 1,000 is expected, not '0'"),
        (["{file}", "--jobs", "two"], "a whole number from 1 to 1,000 is expected, not 'two'"),
        (["{file}", "--retries", "-1"], "--retries"),
        (["{file}", "--job", "2", "--nosuch"], "unrecognized arguments: --nosuch"),
        (["{file}", "scale.depth"], "is no setting"),
        (["{file}", "scale.dept=2"], "did you mean 'depth'"),
        (["{file}", "seed=3"], "--seeds N"),
        (["{file}", "force=true"], "force cannot be set in a sweep"),
        (["{file}", "position=rope"], "position is what the file sweeps"),
        (["{file}", "--seeds", "0"], "a whole number from 1 to 100,000"),
        (["{file}", "--report", "--dry-run"], "--report is about runs and --dry-run makes none"),
        ([], "the following arguments are required: file"),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, words: list[str], expected: str) -> None:
    path = write_sweep(tmp_path)
    with pytest.raises(ConfigError) as caught:
        sweep.run([word.format(file=path) for word in words])
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("word, expected", [("scale.depth=0", "depth"), ("scale.dept=2", "did you mean 'depth'")])
def test_bad_input_comes_before_anything_heavy(tmp_path: Path, word: str, expected: str) -> None:
    path = write_sweep(tmp_path)
    heavy, printed = heavy_after(
        f"sys.argv = ['sweep', {str(path)!r}, {word!r}]\nfrom gpt_lab.cli.sweep import main\n"
        "try:\n    main()\nexcept SystemExit as error:\n    assert error.code == 2"
    )
    assert printed.startswith("error: ")
    assert expected in printed
    assert len(printed.splitlines()) == 1
    assert heavy == []
    assert not (tmp_path / "runs").exists()


def test_options_may_stand_anywhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from gpt_lab.sweep import runner

    path = write_sweep(tmp_path)
    seen = {}

    def run_sweep(asked: object, console: object, jobs: object, threads: object, **settings: object) -> int:
        seen.update(asked=asked, jobs=jobs, threads=threads, **settings)
        return 7

    monkeypatch.setattr(runner, "run_sweep", run_sweep)
    words = ["budget.steps=5", "--jobs", "3", "log.every=1", "--seeds", "4", "--fail-fast", "--retries", "2"]
    assert sweep.run([str(path), *words]) == 7
    asked = seen.pop("asked")
    assert asked.overrides == ("budget.steps=5", "log.every=1")  # type: ignore[attr-defined]
    assert asked.design.values["seed"] == (0, 1, 2, 3)  # type: ignore[attr-defined]
    assert seen == {"jobs": 3, "threads": None, "fail_fast": True, "retries": 2}


@pytest.mark.parametrize(
    "words, left, reported, expected",
    [
        (["--report"], 0, True, 0),
        (["--report"], 1, True, 1),
        (["--report", "log.every=1"], 0, True, 0),
        (["--report"], 130, False, 130),
        ([], 0, False, 0),
    ],
)
def test_a_report_follows(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: list[str], left: int, reported: bool, expected: int
) -> None:
    """Of the file, or of the folder where settings were added; what the sweep left with stays; a signal ends both."""
    from gpt_lab.cli import report
    from gpt_lab.sweep import runner

    path = write_sweep(tmp_path)
    asked: list[list[str]] = []
    monkeypatch.setattr(runner, "run_sweep", lambda *args, **settings: left)
    monkeypatch.setattr(report, "run", lambda arguments: asked.append(arguments) or 0)
    assert sweep.run([str(path), *words]) == expected
    place = str(tmp_path / "runs" / "tiny") if "log.every=1" in words else str(path)
    assert asked == ([[place]] if reported else [])


def test_a_report_of_nothing_is_a_failed_sweep(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from gpt_lab.sweep import runner

    monkeypatch.setattr(runner, "run_sweep", lambda *args, **settings: 1)
    assert sweep.run([str(write_sweep(tmp_path)), "--report"]) == 1
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.slow
def test_the_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_sweep(tmp_path)
    assert sweep.run([str(path), "--dry-run", "--jobs", "2"]) == 0
    assert "position=rope" in capsys.readouterr().out
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_ctrl_c_on_a_terminal_leaves_cleanly(tmp_path: Path) -> None:
    """In a terminal of its own: a live table, Ctrl-C, status 130, and the same command goes on."""
    path = write_sweep(tmp_path, {"seed": [0, 1]}, fixed={"budget.steps": 250, "eval.every": 100})
    folder = tmp_path / "runs" / "tiny"
    mine, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "110", "LINES": "30"}
    runner = subprocess.Popen(
        command(path, "--jobs", "2"), cwd=ROOT, env=environment, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    shown = bytearray()

    def training() -> bool:
        shown.extend(read(mine))
        return len([p for p in folder.glob("*/metrics.jsonl") if p.stat().st_size]) == 2 and b"2 running" in shown

    os.set_blocking(mine, False)
    until(training)
    os.kill(runner.pid, signal.SIGINT)
    until(lambda: shown.extend(read(mine)) or runner.poll() is not None)
    shown.extend(read(mine))
    os.close(mine)
    text = shown.decode()
    assert runner.returncode == 130, text
    assert "stopping: trials write their checkpoints" in text
    assert "the same command goes on from here" in text
    assert "tokens/s" in text
    assert [entry.state for entry in entries(folder)] == ["stopped", "stopped"]
    done = subprocess.run(command(path), cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert "2 cells: 2 finished" in done.stdout
    assert [rows[-1]["step"] for rows in curves(folder).values()] == [250, 250]
    (last,) = {int(p.resolve().name.removeprefix("step-")) for p in folder.glob("*/checkpoints/last")}
    assert last == 250


def read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1 << 16)
    except (BlockingIOError, OSError):
        return b""
