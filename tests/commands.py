"""The lab's commands in processes of their own, forked from one that has imported torch: seconds less for each.

A process that starts from nothing is for the tests that are about starting: what is imported, what a shell sees.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

PRELOADED = ["torch", "hydra", "rich.live", "gpt_lab.cli.train", "gpt_lab.train.start", "gpt_lab.sweep.runner"]
PRELOADED += ["gpt_lab.report.write", "gpt_lab.plan.dry_run", "pandas", "scipy.stats"]
"""What most commands import; nothing of it starts a thread."""


def run(
    words: Sequence[str],
    folder: Path,
    *,
    environment: dict[str, str] | None = None,
    before: Callable[[], None] | None = None,
    timeout: float = 300,
) -> subprocess.CompletedProcess[str]:
    """`uv run WORDS` in a folder; what it printed and its status.

    before: what the process does first, a function at the top level of a module.

    Raises:
        subprocess.TimeoutExpired: it ran too long, and was ended.
    """
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(PRELOADED)
    with tempfile.TemporaryDirectory() as place:
        out, error = (Path(place, name) for name in ("out", "error"))
        process = server.Process(
            target=_command, args=(list(words), folder, dict(environment or os.environ), before, out, error)
        )
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(list(words), timeout, *(file.read_text() for file in (out, error)))
        printed = [file.read_text(encoding="utf-8") if file.exists() else "" for file in (out, error)]
        return subprocess.CompletedProcess(list(words), process.exitcode, *printed)


def _command(
    words: list[str],
    folder: Path,
    environment: dict[str, str],
    before: Callable[[], None] | None,
    out: Path,
    error: Path,
) -> None:
    for number, file, mode in (
        (0, Path(os.devnull), os.O_RDONLY),
        (1, out, os.O_WRONLY | os.O_CREAT),
        (2, error, os.O_WRONLY | os.O_CREAT),
    ):
        opened = os.open(file, mode, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = list(words)
    if before is not None:
        before()
    import_module(f"gpt_lab.cli.{words[0]}").main()
