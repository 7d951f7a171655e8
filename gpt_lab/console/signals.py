"""Termination signals: kept until the work can stop, and one however many processes pass them on.

Slurm, systemd and a closed terminal signal every process there is; `uv run`, `wandb agent` and a sweep's runner pass on
what they got themselves. So what comes within `SAME` seconds is the same request, and only a later one means "at once".
What this process was told to ignore, as by nohup, stays ignored.
"""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

SAME = 5.0
"""Seconds, counted from the first."""
NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGXCPU")
ASKING: tuple[int, ...] = tuple(getattr(signal, name) for name in NAMES if hasattr(signal, name))
"""All that batch systems and terminals send to a process before they kill it."""
Act = Callable[[int], object]
Handler = Callable[[int, FrameType | None], object]

_asked: tuple[int, float] | None = None
"""The first signal of the present work, and when it came."""
_waking: list[Callable[[], None]] = []


class Leave(KeyboardInterrupt):
    """Raised where a signal arrives while a command does nothing that needs an orderly end; `number` says which."""

    def __init__(self, number: int) -> None:
        super().__init__(name(number))
        self.number = number


class Signals:
    """While entered: the first signal is kept in `caught`, for the work to end where it can.

    Args:
        at_once: what a later one does; None: ends the process. Outside the main thread Python has no say in signals,
            and this does nothing.
    """

    def __init__(self, at_once: Act | None = None) -> None:
        self.caught: int | None = None
        self._at_once = at_once or leave_at_once
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            if _asked is not None:  # the exception was lost in code that catches all of them
                self._keep(_asked[0])
            self._before = _handle(lambda number, frame: _receive(number, self._keep, self._at_once))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _asked
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if _raise not in self._before.values():  # this process goes on, and may be asked anew
            _asked = None
        self._before = {}

    def _keep(self, number: int) -> None:
        self.caught = number


def listen() -> None:
    """For a command as a whole: the first signal raises Leave, a later one ends the process."""
    _handle(_raise)


def ignore_from_now_on() -> None:
    """Its work is done and its exit status known: what still comes changes nothing, unless the process hangs."""
    _handle(lambda number, frame: _receive(number, _nothing, leave_at_once))


def ignore() -> None:
    """Another process hears of these signals, and says when this one ends."""
    _handle(lambda number, frame: None)


def leave_at_once(number: int) -> None:
    """Ends the process here and now."""
    line = f"stopped at once by {name(number)}: the same command goes on from the last checkpoint\n"
    try:
        if select.select([], [2], [], 0)[1]:  # nobody may read it
            os.write(2, line.encode())
    finally:
        os._exit(128 + number)


def name(number: int) -> str:
    """SIGTERM of 15."""
    return signal.Signals(number).name


def when_asked(wake: Callable[[], None]) -> None:
    """Has something done at every such signal, before the work hears of it."""
    _waking.append(wake)


@contextmanager
def blocked() -> Iterator[None]:
    """Processes that are started in this block, and theirs, never hear of these signals: whoever started them says when
    they end. This thread hears of them after the block."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ASKING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def restore_defaults() -> None:
    """The system's own actions again, for a process that was forked from one that handles or shuts out signals."""
    for number in ASKING:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ASKING)


def _handle(handler: Handler) -> dict[int, Any]:
    """Sets the handler of all but what is ignored; returns those before."""
    left_alone = (signal.SIG_IGN, None)  # None: code outside Python handles it, as faulthandler does
    wanted = [number for number in ASKING if signal.getsignal(number) not in left_alone]
    return {number: signal.signal(number, handler) for number in wanted}


def _receive(number: int, first: Act, again: Act) -> None:
    global _asked
    for wake in _waking:
        wake()
    now = time.monotonic()
    if _asked is None:
        _asked = number, now
        first(number)
    elif now - _asked[1] >= SAME:
        again(number)


def _raise(number: int, frame: FrameType | None) -> None:
    _receive(number, _leave, leave_at_once)


def _leave(number: int) -> None:
    raise Leave(number)


def _nothing(number: int) -> None:
    """It is too late to do anything about it."""
