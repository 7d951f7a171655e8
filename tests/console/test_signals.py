"""Signals that ask a process to leave: the first is kept, its copies are the same, a later one is another."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gpt_lab.console import signals

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What time it is, in seconds."""
    now = [10.0]
    monkeypatch.setattr(signals.time, "monotonic", lambda: now[0])
    return now


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", signals.ASKING)
def test_what_comes_within_five_seconds_is_one(clock: list[float], number: int) -> None:
    before = signal.getsignal(number)
    later: list[int] = []
    with signals.Signals(at_once=later.append) as asked:
        for seconds, again in ((0.0, number), (0.1, signal.SIGTERM), (4.8, number)):
            clock[0] += seconds
            send(again)
        assert (asked.caught, later) == (number, [])
        clock[0] += 0.2
        send(signal.SIGINT)
        assert (asked.caught, later) == (number, [signal.SIGINT])
    assert signal.getsignal(number) == before
    with signals.Signals(at_once=later.append) as anew:
        assert anew.caught is None
        send(number)
    assert (anew.caught, later) == (number, [signal.SIGINT]), "what comes to other work is another request"


def test_what_is_ignored_stays_ignored() -> None:
    """As nohup has it."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with signals.Signals() as asked:
        send(signal.SIGHUP)
        assert asked.caught is None
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    signals.restore_defaults()
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


def test_sheltered_processes_hear_nothing() -> None:
    with signals.blocked():
        child = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    try:
        shut_out = Path(f"/proc/{child.pid}/status").read_text("ascii").split("SigBlk:")[1].split()[0]
        assert int(shut_out, 16) == sum(1 << (number - 1) for number in signals.ASKING)
        for number in signals.ASKING:
            child.send_signal(number)
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(0.1)
    finally:
        child.kill()
        child.communicate()
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())


COMMAND = """
import os, signal, sys, time
from gpt_lab.console import signals
from gpt_lab.cli.common.console_script import entry
me = os.getpid()
def later():
    real = time.monotonic
    signals.time.monotonic = lambda: real() + 6
def run(argv):
    {body}
    return 0
entry(run)()
"""
CASES: dict[str, tuple[str, int, str]] = {
    "nothing to keep": ("os.kill(me, 15); time.sleep(60)", 143, "stopped by SIGTERM: the same command begins anew"),
    "as Ctrl-C": ("signal.raise_signal(2); time.sleep(60)", 130, "stopped by SIGINT: the same command begins anew"),
    "hang-up": ("os.kill(me, 1); time.sleep(60)", 129, "stopped by SIGHUP: the same command begins anew"),
    "copies in an end that takes time": (
        "\n    try: os.kill(me, 15); time.sleep(60)\n    finally: os.kill(me, 1); os.kill(me, 15)",
        143,
        "stopped by SIGTERM: the same command begins anew",
    ),
    "work": (
        "\n    with signals.Signals() as asked: os.kill(me, 15); os.kill(me, 1)\n    return asked.caught",
        15,
        "",
    ),
    "copies after work": (
        "\n    with signals.Signals() as asked: os.kill(me, 15)\n    os.kill(me, 15); return asked.caught",
        15,
        "",
    ),
    "at once": (
        "\n    with signals.Signals(): os.kill(me, 15); later(); os.kill(me, 1); time.sleep(60)",
        129,
        "stopped at once by SIGHUP: the same command goes on from the last checkpoint",
    ),
    "lost in a library": (
        "\n    try: os.kill(me, 15)\n    except BaseException: pass\n    with signals.Signals() as s: return s.caught",
        15,
        "",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_command_is_told_to_leave(case: str) -> None:
    body, status, line = CASES[case]
    done: Any = subprocess.run(
        [sys.executable, "-c", COMMAND.format(body=body)], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr.strip()) == (status, line)
