"""The lab's commands in processes of their own, forked from one that has imported torch: seconds less for each.

A process that starts from nothing is for the tests that are about starting: what is imported, what a shell sees.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import re
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib import import_module
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal
from unittest import mock

from tests.processes.scripts import MODULES

ROOT = Path(__file__).parent.parent.parent
PRELOADED = "tests.processes.warm"


def run(
    words: Sequence[str],
    folder: Path,
    *,
    environment: dict[str, str] | None = None,
    before: Callable[[], None] | None = None,
    package: Path | None = None,
    timeout: float = 300,
) -> subprocess.CompletedProcess[str]:
    """`uv run WORDS` in a folder; what it printed and its status. The fork server of a sweep is forked, too.

    before: what the process does first, a function at the top level of a module.
    package: the folder that gpt_lab is imported from, if not this checkout: all of it anew, what it needs not.

    Raises:
        subprocess.TimeoutExpired: it ran too long, and was ended.
    """
    return call(functools.partial(_command, list(words), before, package), folder, environment, timeout)


def begun(
    words: Sequence[str], folder: Path, out: Path, error: Path, before: Callable[[], None] | None = None
) -> BaseProcess:
    """`uv run WORDS` in a folder, under way in a session of its own; as `run`. `out` and `error` may be pipes."""
    return started(functools.partial(_apart, list(words), before, folder, dict(os.environ), out, error))


def script(path: Path, words: Sequence[str], folder: Path, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """`uv run python PATH WORDS` in a folder; as `run`. The lab's commands that it starts are forked from it."""
    return call(functools.partial(_script, path, list(words)), folder, timeout=timeout)


def pytest(words: Sequence[str], folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """`uv run pytest WORDS` in a folder; as `run`."""
    return call(functools.partial(_pytest, list(words)), folder, environment)


def call(
    work: Callable[[], None],
    folder: Path,
    environment: dict[str, str] | None = None,
    timeout: float = 300,
    method: Literal["forkserver", "fork"] = "forkserver",
) -> subprocess.CompletedProcess[str]:
    """What `work` printed in a process of its own, and the status with which it left.

    Args:
        work: can be pickled.
        method: fork: from this process, which must run one thread.

    Raises:
        subprocess.TimeoutExpired: it ran too long, and was ended.
    """
    with tempfile.TemporaryDirectory() as place:
        out, error = (Path(place, name) for name in ("out", "error"))
        process = started(functools.partial(_work, work, folder, dict(environment or os.environ), out, error), method)
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(repr(work), timeout, *(file.read_text() for file in (out, error)))
        printed = [file.read_text(encoding="utf-8") if file.exists() else "" for file in (out, error)]
        return subprocess.CompletedProcess(repr(work), process.exitcode, *printed)


def started(work: Callable[[], None], method: Literal["forkserver", "fork"] = "forkserver") -> BaseProcess:
    """A process that does `work`, as of `call`."""
    multiprocessing.set_forkserver_preload([PRELOADED])
    process = multiprocessing.get_context(method).Process(target=work)
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    with mock.patch.dict(os.environ, {"PYTHONPATH": path}):  # the server imports this checkout, wherever it begins
        process.start()
    return process


def _work(work: Callable[[], None], folder: Path, environment: dict[str, str], out: Path, error: Path) -> None:
    for number, file, mode in (
        (0, Path(os.devnull), os.O_RDONLY),
        (1, out, os.O_WRONLY | os.O_CREAT),
        (2, error, os.O_WRONLY | os.O_CREAT),
    ):
        opened = os.open(file, mode | os.O_APPEND, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    work()


def _apart(words: list[str], before: Callable[[], None] | None, *place: Any) -> None:
    os.setsid()
    _work(functools.partial(_command, words, before), *place)


def _command(words: list[str], before: Callable[[], None] | None, package: Path | None = None) -> None:
    if package is not None:
        for name in [name for name in sys.modules if name.partition(".")[0] == "gpt_lab"]:
            del sys.modules[name]
        sys.path.insert(0, str(package))
    from tests.sweep import forked

    forked.use()
    sys.argv = list(words)
    if before is not None:
        before()
    import_module(MODULES[words[0]]).main()


def _script(path: Path, words: list[str]) -> None:
    sys.argv = [str(path), *words]
    fork, real = multiprocessing.get_context("fork"), subprocess.run
    with (
        mock.patch.object(multiprocessing, "get_context", return_value=fork),
        mock.patch.object(subprocess, "run", functools.partial(_started, real)),
    ):
        runpy.run_path(str(path), run_name="__main__")


def _started(real: Callable[..., Any], command: Sequence[str], **settings: Any) -> Any:
    """subprocess.run, which forks this process where the command is one of the lab's."""
    program = " ".join(command[1:3])
    found = re.fullmatch(r"-c from gpt_lab\.cli\.(\w+) import main; main\(\)", program)
    if found is None:
        return real(command, **settings)
    folder, environment = Path(settings.get("cwd", ".")), settings.get("env")
    work = functools.partial(_command, [found[1], *command[3:]], None)
    done = call(work, folder, environment, settings.get("timeout", 300), method="fork")
    if not settings.get("capture_output"):
        print(done.stdout, end="")
        print(done.stderr, end="", file=sys.stderr)
    if settings.get("check"):
        done.check_returncode()
    return done


def _pytest(words: list[str]) -> None:
    import pytest

    sys.exit(pytest.main(["-W", "ignore:Module already imported:pytest.PytestAssertRewriteWarning", *words]))
