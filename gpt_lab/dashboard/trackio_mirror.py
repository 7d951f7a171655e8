"""trackio mirror: one database per study, and trackio's own page over them.

Rows go in through trackio's bulk import, each under a key of its own that the database keeps unique, so that a row
which is written twice is there once.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import json
import os
import re
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from gpt_lab import metrics
from gpt_lab.console.invocation import prefix
from gpt_lab.dashboard.follow import CLOCKS, Seen, StepRow
from gpt_lab.dashboard.grouped import frontend
from gpt_lab.errors import ConfigError

LOOKS = {"TRACKIO_COLOR_PALETTE", "TRACKIO_PLOT_ORDER", "TRACKIO_TABLE_TRUNCATE_LENGTH", "TRACKIO_THEME"}
"""Variables of trackio that a user may keep; others would send data away or read another folder."""
ORDER = ",".join((*metrics.FIRST, "val/*", "train/*", "perf/*"))
"""Which charts come first, unless TRACKIO_PLOT_ORDER says otherwise."""
VIEW = {"smoothing": "0", "hide_empty_tabs": "true"}
"""How the page opens: trackio smooths curves by itself, and would show numbers that no run had."""
RESERVED = "_(system|configs|traces|artifact.*|.*_links|pending_uploads)$"
BEGIN = "begin"
"""Key of the empty row by which trackio knows a run that has no line yet."""
_CLOCK = {name: f"progress/{name}" for name in CLOCKS}
"""What curves can be drawn against gets a section of its own: by their plain names they would come first."""


def check(project: str | None) -> None:
    """Refuses what cannot work, before anything is written or imported.

    Raises:
        ConfigError: trackio is not installed, or the name cannot be a project's.
    """
    if importlib.util.find_spec("trackio") is None:
        raise ConfigError("the dashboard needs its package: run `uv sync --extra dashboard`, or add --tensorboard")
    if project is not None and project_name(project) != project:
        raise ConfigError(
            f"project {project!r} cannot be trackio's name of a file: use letters, digits, - and _ "
            f"(it would become {project_name(project)})"
        )


def project_name(study: str) -> str:
    """The study's name where trackio can take it; otherwise one that no other study has.

    trackio drops all but letters, digits, - and _, and keeps some endings for itself: two studies could share a file.
    """
    if re.fullmatch(r"[A-Za-z0-9_-]+", study) and not re.search(RESERVED, study) and not study.startswith("registry-"):
        return study
    clean = re.sub(r"[^A-Za-z0-9_-]+", "-", study).strip("-")
    return f"study-{clean}-{hashlib.sha256(study.encode()).hexdigest()[:6]}"


class TrackioMirror:
    """Rows into trackio's databases in `folder`; `project` joins all studies into one.

    The process must not have imported trackio for another folder.
    """

    def __init__(self, folder: Path, project: str | None = None) -> None:
        for name in [name for name in os.environ if name.startswith(("TRACKIO_", "GRADIO_")) and name not in LOOKS]:
            del os.environ[name]
        os.environ.update(TRACKIO_DIR=str(folder), HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1")
        os.environ.setdefault("TRACKIO_PLOT_ORDER", ORDER)
        import trackio
        from trackio import sqlite_storage

        self.folder = folder
        self.project = project
        self._trackio = trackio
        self._storage = sqlite_storage.SQLiteStorage
        self._server: Any = None
        self._keys: dict[str, str] = {}
        self._databases: dict[str, sqlite3.Connection] = {}

    def replace(self, run: Seen, rows: Sequence[StepRow]) -> None:
        wanted = {self._key(run, row.key): row for row in rows} or {self._key(run, BEGIN): StepRow(BEGIN, 0, {})}
        there, config = self._there(run)
        self._delete(run, [key for key, name in there.items() if key not in wanted or name != self._name(run)])
        missing = [row for key, row in wanted.items() if there.get(key) != self._name(run)]
        first = next(iter(wanted.values()))
        self._keys[run.id] = first.key
        if missing or config != run.settings:
            self._write(run, missing or [first])

    def append(self, run: Seen, rows: Sequence[StepRow]) -> None:
        self._write(run, rows)
        self._delete(run, [self._key(run, row.replaces) for row in rows if row.replaces])

    def describe(self, run: Seen) -> None:
        # The import takes a config only beside a row: this one is there already and is passed over.
        self._write(run, [StepRow(self._keys.get(run.id, BEGIN), 0, {})])

    def keep(self, runs: Iterable[Seen]) -> None:
        kept: dict[str, set[str]] = {}
        for run in runs:
            kept.setdefault(self._project(run), set()).add(run.id)
        for project in self._storage.get_projects():
            if project not in kept:
                if project in self._databases:
                    self._databases.pop(project).close()
                with contextlib.redirect_stdout(io.StringIO()):
                    self._trackio.delete_project(project, force=True)
                continue
            for record in self._storage.get_run_records(project):
                if record["id"] not in kept[project]:
                    self._storage.delete_run(project, str(record["name"]), run_id=record["id"])

    def serve(self, port: int | None, runs: Iterable[Seen] = ()) -> str:
        """Starts the page in a thread of this process, on 127.0.0.1 alone, and gives its address.

        Raises:
            ConfigError: the port is taken.
        """
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                self._server, url, *_ = self._trackio.show(
                    host="127.0.0.1",
                    server_port=port,
                    open_browser=False,
                    block_thread=False,
                    share=False,
                    mcp_server=False,
                    frontend_dir=frontend(self.folder.parent),
                )
        except OSError as error:
            which = "all ports from 7860 to 7959 are" if port is None else f"port {port} is"
            raise ConfigError(f"{which} taken: choose another with --port") from error
        projects = {self._project(run) for run in runs}
        one = {"project": projects.pop()} if len(projects) == 1 else {}
        return f"{url}metrics?{urlencode({**one, **VIEW})}"  # without a page's name, it would be that of the runs

    def close(self) -> None:
        """Stops the page and lets go of the databases."""
        if self._server is not None:
            self._server.close(verbose=False)
        while self._databases:
            self._databases.popitem()[1].close()

    def how_to_look(self) -> str:
        """The command that shows the mirror without us."""
        return f"TRACKIO_DIR={self.folder} {prefix()}trackio show --frontend {frontend(self.folder.parent)}"

    def _project(self, run: Seen) -> str:
        return self.project or project_name(run.study)

    def _name(self, run: Seen) -> str:
        return run.name if self.project is None else f"{run.study}/{run.name}"

    def _key(self, run: Seen, key: str) -> str:
        return f"{run.id}:{key}"

    def _write(self, run: Seen, rows: Sequence[StepRow]) -> None:
        self._keys[run.id] = rows[-1].key
        self._storage.bulk_log(
            project=self._project(run),
            run=self._name(run),
            run_id=run.id,
            metrics_list=[{_CLOCK.get(name, name): value for name, value in row.values.items()} for row in rows],
            steps=[row.step for row in rows],
            timestamps=[_when(run, row) for row in rows],
            log_ids=[self._key(run, row.key) for row in rows],
            config=run.settings,
        )

    def _database(self, run: Seen) -> sqlite3.Connection:
        """A connection that stays open: while one does, the others that trackio opens and closes wait for no disk."""
        project = self._project(run)
        if project not in self._databases:
            self._databases[project] = sqlite3.connect(self._storage.init_db(project), timeout=30)
        return self._databases[project]

    def _there(self, run: Seen) -> tuple[dict[str, str], Any]:
        """Key of each row that trackio has of the run, with the name that it is under; and its config."""
        database = self._database(run)
        rows = database.execute("SELECT log_id, run_name FROM metrics WHERE run_id = ?", (run.id,)).fetchall()
        config = database.execute("SELECT config FROM configs WHERE run_id = ?", (run.id,)).fetchone()
        return {str(key): str(name) for key, name in rows}, None if config is None else json.loads(config[0])

    def _delete(self, run: Seen, keys: Sequence[str]) -> None:
        """trackio itself can only delete whole runs, which would let their curves vanish for a moment."""
        if keys:
            with self._database(run) as database:
                database.executemany("DELETE FROM metrics WHERE log_id = ?", [(key,) for key in keys])


def _when(run: Seen, row: StepRow) -> str:
    """The start of the run and the seconds that it had trained: the axis "time" shows training time."""
    return run.when(row.values.get("seconds", 0.0)).isoformat()
