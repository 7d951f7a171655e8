"""`dashboard` from the command line: bad input, missing packages, several at once, kill -9, Ctrl-C."""

from __future__ import annotations

import contextlib
import importlib.util
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gpt_lab.cli import dashboard
from gpt_lab.errors import LabError
from gpt_lab.store import Run
from tests.dashboard.run_folders import free_port, log, make


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    make(tmp_path / "runs", "pos_enc", "a", 3)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GPT_LAB_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.mark.parametrize(
    "arguments, said",
    [
        ("rums", "no folder 'rums': did you mean runs?"),
        ("runs/pos_en", "did you mean runs/pos_enc"),
        ("--port 0", "a whole number from 1 to 65,535 is expected, not '0'"),
        ("--port web", "a whole number from 1 to 65,535 is expected, not 'web'"),
        ("--metric val/bbp", "unknown metric 'val/bbp'; did you mean 'val/bpb'?"),
        ("--project my.lab", "letters, digits, - and _"),
        ("--project x --tensorboard", "--project is trackio's"),
        ("--once --port 8000", "leave out --port"),
        ("--tensorbord", "dashboard: unrecognized arguments: --tensorbord"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(folder: Path, arguments: str, said: str) -> None:
    with pytest.raises(LabError) as caught:
        dashboard.run(arguments.split())
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert not (folder / "cache").exists()


@pytest.mark.parametrize("option, extra", [("", "dashboard"), ("--tensorboard", "tensorboard")])
def test_a_missing_extra_is_one_line(folder: Path, option: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name in ("trackio", "tensorboard") else there(name, *rest),
    )
    with pytest.raises(LabError, match=f"uv sync --extra {extra}"):
        dashboard.run(option.split())
    assert not (folder / "cache").exists()


def command(folder: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "gpt_lab.cli.dashboard", str(folder / "runs"), *arguments]


def once(folder: Path, *arguments: str) -> str:
    done = subprocess.run(command(folder, "--once", *arguments), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextlib.contextmanager
def serving(folder: Path, *arguments: str) -> Iterator[Any]:
    """A dashboard that has said its address; killed at the end if it still runs."""
    with subprocess.Popen(
        command(folder, "--no-browser", *arguments), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("http://127.0.0.1:"), line
            yield process
        finally:
            process.kill()


def steps(folder: Path) -> list[int]:
    """The steps of study pos_enc in trackio's database."""
    found = sorted((folder / "cache" / "dashboard").glob("trackio-*/pos_enc.db"))
    if not found:
        return []
    with contextlib.closing(sqlite3.connect(found[0], timeout=30)) as database:
        try:
            return [step for (step,) in database.execute("SELECT step FROM metrics ORDER BY step")]
        except sqlite3.OperationalError:  # its tables are being made
            return []


def wait_for_steps(folder: Path, expected: list[int]) -> None:
    deadline = time.monotonic() + 30
    while steps(folder) != expected:
        assert time.monotonic() < deadline, steps(folder)
        time.sleep(0.1)


@pytest.mark.slow
def test_once_mirrors_says_where_and_repeats_nothing(folder: Path) -> None:
    for _ in range(2):
        said = once(folder)
        assert "mirrored 1 run of 1 study into" in said and "trackio show" in said
        assert steps(folder) == [1, 2, 3]
    said = once(folder, "--tensorboard")
    logs = Path(said.split("--logdir ")[1].strip())
    assert [path.parent.name for path in logs.rglob("events.*")] == ["a"]
    assert not (folder / "runs" / ".dashboard").exists(), "the store is only read"
    assert not list(Path.home().glob(".cache/huggingface")), "nor is the user's trackio touched"


@pytest.mark.slow
def test_several_dashboards_share_one_mirror_and_survive_each_other(folder: Path) -> None:
    """The first writes; when it is killed, the second goes on; nothing is lost or doubled."""
    run = Run.open(folder / "runs" / "pos_enc" / "a")
    with serving(folder, "--port", str(free_port())) as first:
        wait_for_steps(folder, [1, 2, 3])
        with serving(folder, "--port", str(free_port())) as second:
            assert f"process {first.pid} keeps this mirror up to date" in second.stdout.readline()
            log(run, 4, 6)
            wait_for_steps(folder, [1, 2, 3, 4, 5, 6])
            assert f"process {first.pid} keeps this mirror up to date" in once(folder)
            first.send_signal(signal.SIGKILL)
            first.wait(10)
            log(run, 7, 8)
            wait_for_steps(folder, [1, 2, 3, 4, 5, 6, 7, 8])
            run.truncate_after(2)
            wait_for_steps(folder, [1, 2])
            second.send_signal(signal.SIGTERM)
            assert second.wait(60) == 0


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [(), ("--tensorboard",)])
def test_ctrl_c_leaves_no_server(folder: Path, arguments: tuple[str, ...]) -> None:
    port = free_port()
    with serving(folder, "--port", str(port), *arguments) as process:
        socket.create_connection(("127.0.0.1", port)).close()
        with pytest.raises(OSError), socket.create_connection((socket.gethostbyname("127.0.0.2"), port), timeout=1):
            pass
        taken = subprocess.run(
            command(folder, "--no-browser", "--port", str(port), *arguments),
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (taken.returncode, taken.stdout) == (2, "")
        assert taken.stderr == f"error: port {port} is taken: choose another with --port\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert process.stdout.read().count("\n") == 1, "no traceback"
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", port))
    assert not _children(process.pid)


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [(), ("--tensorboard",)])
def test_the_interpreter_is_not_taken_apart_beneath_the_page(folder: Path, arguments: tuple[str, ...]) -> None:
    """It would end with a segmentation fault now and then: threads of the page are C."""
    code = "import atexit; atexit.register(print, 'taken apart'); from gpt_lab.cli import dashboard; dashboard.main()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(folder / "runs"), "--no-browser", "--port", str(free_port()), *arguments],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None and process.stdout.readline().startswith("http")
        process.send_signal(signal.SIGINT)
        said = process.stdout.read()
        assert process.wait(60) == 0
    assert "taken apart" not in said


def _children(pid: int) -> list[int]:
    """Processes in the group of `pid`."""
    found = subprocess.run(["ps", "-eo", "pid,ppid"], capture_output=True, text=True).stdout.split("\n")[1:]
    return [int(line.split()[0]) for line in found if line.split() and int(line.split()[1]) == pid]


def test_a_cache_that_cannot_be_written_is_one_line(folder: Path) -> None:
    (folder / "cache").write_text("a file")
    with pytest.raises(LabError, match="GPT_LAB_CACHE"):
        dashboard.run(["--once"])
