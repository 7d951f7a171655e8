"""Output that is gone: work goes on and its exit status stays; a command that only shows something fails in a line."""

from __future__ import annotations

import fcntl
import importlib
import os
import pty
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
COMMAND = """
import signal, sys, time
from pathlib import Path
from gpt_lab.console import signals, streams
streams.STALLED = 0.2
from gpt_lab.cli.common.console_script import entry
def run(argv):
    print("first", flush=True)
    while not Path(argv[0]).exists():
        time.sleep(0.01)
    with signals.Signals() as asked:
        print("second", flush=True)
        Path(argv[0] + ".begun").touch()
        print("third" * 50_000 if "much" in argv else "third \\N{GREEK SMALL LETTER ALPHA}")
        Path(argv[0] + ".done").touch()
    return 0 if asked.caught is None else 128 + asked.caught
entry(run, works=lambda argv: "shows" not in argv)()
"""
WARNING = "warning: standard output was lost ({}): the work went on without it\n"
ERROR = "error: cannot write standard output: {}\n"


class Started:
    """The command under way. It goes on after its first line when it is told to."""

    def __init__(self, tmp_path: Path, *words: str, shell: str = 'exec "$@"', **settings: object) -> None:
        self.told = tmp_path / "told"
        self.done = tmp_path / "told.done"
        command = ["sh", "-c", shell, "sh", sys.executable, "-c", COMMAND, str(self.told), *words]
        self.process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, **settings)  # type: ignore[call-overload]

    def end(self) -> tuple[int, str]:
        """Exit status and standard error; the work was done."""
        self.told.touch()
        _, said = self.process.communicate(timeout=60)
        assert self.done.exists()
        return self.process.returncode, said


@pytest.mark.parametrize(
    "shell, reason",
    [('exec "$@" >/dev/full', "No space left on device"), ('exec "$@" >&- <&-', "it is closed")],
    ids=["full", "closed"],
)
def test_output_that_is_gone(tmp_path: Path, shell: str, reason: str) -> None:
    assert Started(tmp_path, shell=shell).end() == (0, WARNING.format(reason))
    assert Started(tmp_path, "shows", shell=shell).end() == (2, ERROR.format(reason))
    both = shell.replace(">&-", ">&- 2>&-").replace("full", "full 2>/dev/full")
    assert Started(tmp_path, shell=both).end() == (0, "")
    assert Started(tmp_path, "shows", shell=both).end() == (2, "")


def test_a_reader_that_has_seen_enough(tmp_path: Path) -> None:
    for words in ((), ("shows",)):
        started = Started(tmp_path, *words, stdout=subprocess.PIPE)
        assert started.process.stdout is not None
        assert started.process.stdout.readline() == "first\n"
        started.process.stdout.close()
        started.process.stdout = None
        assert started.end() == (0, "")
        started.told.unlink()


@pytest.mark.parametrize("nohup", [True, False])
def test_a_terminal_that_hangs_up(tmp_path: Path, nohup: bool) -> None:
    """The kernel sends SIGHUP, and what is written fails."""
    mine, theirs = pty.openpty()
    tty = os.ttyname(theirs)
    shell = ("trap '' HUP; " if nohup else "") + f'exec <{tty} >{tty}; exec "$@"'
    started = Started(tmp_path, shell=shell, start_new_session=True)  # what it opens first becomes its terminal
    assert os.read(mine, 100) == b"first\r\n"
    os.close(mine)
    os.close(theirs)
    if nohup:
        assert started.end() == (0, WARNING.format("Input/output error"))
    else:
        _, said = started.process.communicate(timeout=60)
        assert (started.process.returncode, said) == (129, "stopped by SIGHUP: the same command begins anew\n")


def test_a_reader_that_does_not_read(tmp_path: Path) -> None:
    """It is waited for; told to leave, the process waits no longer."""
    started = Started(tmp_path, "much", stdout=subprocess.PIPE)
    started.told.touch()
    while not Path(f"{started.told}.begun").exists():
        time.sleep(0.01)
    assert not started.done.exists()
    while started.process.poll() is None:
        started.process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
    assert (started.process.returncode, started.done.exists()) == (143, True)
    assert started.process.communicate()[0].startswith("first\nsecond\nthird")


def test_a_pipe_that_others_made_non_blocking(tmp_path: Path) -> None:
    """As some programs leave the descriptor that they share: all arrives, however slow its reader is."""
    mine, theirs = os.pipe()
    fcntl.fcntl(theirs, fcntl.F_SETFL, os.O_NONBLOCK)
    started = Started(tmp_path, "much", stdout=theirs)
    os.close(theirs)
    started.told.touch()
    with open(mine, encoding="utf-8") as file:
        time.sleep(0.3)
        assert file.read() == f"first\nsecond\n{'third' * 50_000}\n"
    assert started.end() == (0, "")


def test_what_the_encoding_lacks(tmp_path: Path) -> None:
    done = Started(tmp_path, stdout=subprocess.PIPE, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    done.told.touch()
    said, errors = done.process.communicate(timeout=60)
    assert (done.process.returncode, said, errors) == (0, "first\nsecond\nthird ?\n", "")


def test_every_command_has_it() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["scripts"]
    for script in scripts.values():
        module, _, name = script.partition(":")
        assert getattr(importlib.import_module(module), name).__qualname__ == "entry.<locals>.main", script
