"""What an engine is asked to start: workers of one sweep, each of them the command `sweep` on the same folder."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gpt_lab.errors import LabError
from gpt_lab.store.atomic_files import write_atomic, writing
from gpt_lab.sweep.ledger import ledger
from gpt_lab.sweep.ledger.database import SHARED, connect

WORKERS = "workers"
"""Folder of a study that holds what workers print."""


@dataclass(frozen=True)
class Request:
    """Workers to start.

    Fields:
        study, folder: of the sweep. words: file, settings and options of `sweep`, as they were given.
        workers: how many, on each host where there are several. jobs: trials at a time of each; None: as `sweep` does.
        threads: of each trial; None: as `sweep` does. place: the folder to start in. gpu: whether a trial may take one.
        per_gpu: trials at a time on each GPU, in place of jobs. ranks: processes of each trial.
    """

    study: str
    folder: Path
    words: tuple[str, ...]
    workers: int
    jobs: int | None
    threads: int | None
    place: Path
    gpu: bool = True
    per_gpu: int | str | None = None
    ranks: int = 1

    @property
    def logs(self) -> Path:
        return self.folder.absolute() / WORKERS

    def command(self) -> list[str]:
        """What a worker runs. It leaves at once if `--stop` comes before it begins."""
        options: list[str] = []
        if self.jobs is not None:
            options += ["--jobs", str(self.jobs)]
        if self.per_gpu is not None:
            options += ["--per-gpu", str(self.per_gpu)]
        if self.threads is not None:
            options += ["--threads", str(self.threads)]
        options += ["--stops", str(ledger.stops(self.folder))]
        return [sys.executable, "-m", "gpt_lab.cli.sweep", *self.words, *options]

    def shell(self) -> str:
        return shlex.join(self.command())

    def with_jobs(self, jobs: int) -> Request:
        """The same, each worker with so many trials at a time unless it was said."""
        return self if self.jobs is not None or self.per_gpu is not None else replace(self, jobs=jobs)

    @property
    def cores(self) -> int:
        """What a worker needs for the threads of its trials, on as many GPUs at most as one of them has."""
        at_once = self.per_gpu if isinstance(self.per_gpu, int) else self.jobs
        return (at_once or 1) * (self.threads or 1) * self.ranks

    def prepare(self, *, shared: bool) -> None:
        """Makes the folder of logs; `shared`: other machines will write the ledger.

        Raises:
            LabError: it cannot be made, or workers of this machine alone write the ledger now.
        """
        with writing(self.logs):
            self.logs.mkdir(parents=True, exist_ok=True)
        if not shared or (self.folder / SHARED).exists():
            return
        write_atomic(self.folder / SHARED, b"other machines write this study's ledger\n")
        if not (self.folder / ledger.FILE).exists():
            return
        try:  # leaves the write-ahead log, which sqlite cannot while others have it open
            connect(self.folder / ledger.FILE).close()
        except LabError:
            (self.folder / SHARED).unlink()
            raise LabError(
                f"workers of this machine write the ledger of {self.study}, for which other machines are none: --stop "
                "them first, then --on again"
            ) from None

    def fresh_logs(self, kind: str, count: int) -> Sequence[Path]:
        """Names of logs that are not there yet."""
        taken = {path.name for path in self.logs.glob("*.log")}
        names = (f"{kind}-{number}.log" for number in range(1, len(taken) + count + 1))
        return [self.logs / name for name in names if name not in taken][:count]
