"""Weights & Biases, online or offline, through a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from gpt_lab.config.schema import RunConfig
from gpt_lab.console import signals
from gpt_lab.console.invocation import prefix
from gpt_lab.errors import ConfigError, LabError
from gpt_lab.options import NonEmpty
from gpt_lab.registry import register
from gpt_lab.store import Run
from gpt_lab.trackers.base import Background, Event, logged
from gpt_lab.trackers.wandb_env import AGENT, Mode, agent, choose_mode, client, login, setting

FACTS = (
    *("signature", "resolved", "parameters", "parameters_non_embedding", "train_flops_per_token"),
    *("git", "hardware", "packages", "command", "code", "text"),
)
"""What of run.json joins the settings in W&B's config: to group by, and for reports to read back."""
_PLACE = ("WANDB_PROJECT", "WANDB_ENTITY")
"""Where an agent's sweep is, beside AGENT."""
RESTARTS = 3
"""Times that a run gets another such process."""
GONE = 3
"""Exit status of the process that speaks to W&B when W&B's own, which it starts, has left: others can tell the rest."""
_LAUNCH = "import sys, os; sys.path[:] = sys.argv.pop(1).split(os.pathsep); from gpt_lab.trackers import wandb_process"


@register("tracker", "wandb")
class Wandb(Background):
    """Weights & Biases: online when logged in, otherwise offline in the run folder.

    Reference: https://docs.wandb.ai

    The run's config holds every setting twice: nested, and flat under its dotted key (optim.lr); a sweep overwrites
    nested entries of the groups that it chooses. A server that cannot be reached turns the run offline, with one
    warning. Under `wandb agent` the run, project and entity are the agent's.

    mode: online, offline, or auto: what WANDB_MODE says, else online if there is a login, else offline
    project: W&B project; null: that of WANDB_PROJECT, else gpt_lab
    entity: W&B user or team; null: that of WANDB_ENTITY, else the login's default
    group: group of runs in the W&B workspace; null: that of WANDB_RUN_GROUP, else the study
    run_name: the run's name in W&B; null: that of WANDB_NAME, else of the run folder
    tags: W&B tags; none: those of WANDB_TAGS
    """

    title = "W&B"
    import_timeout = 30.0
    probe_timeout = 10.0
    init_timeout = 30.0
    transmit_interval = 5.0
    online_patience = 10.0
    """Seconds that a server may hold a run after its end. A healthy one takes 1 to 3; what is missing can follow."""
    offline_patience = 60.0
    """Seconds for the last rows to reach the disk: no server is waited for, only this machine can be slow."""

    def __init__(
        self,
        run: Run,
        cfg: RunConfig,
        *,
        mode: Literal["auto", "online", "offline"] = "auto",
        project: NonEmpty | None = None,
        entity: NonEmpty | None = None,
        group: NonEmpty | None = None,
        run_name: NonEmpty | None = None,
        tags: list[str] = [],  # noqa: B006 (the index reads literal defaults)
    ) -> None:
        super().__init__(run)
        self.mode: Mode = choose_mode(mode)
        self.patience = self.online_patience if self.mode == "online" else self.offline_patience
        earlier = run.record.get("wandb") or {}
        asked = agent()
        if asked is not None:
            self._sweep = {name: os.environ[name] for name in (*AGENT, *_PLACE) if name in os.environ}
            self._sweep["WANDB_SWEEP_PARAM_PATH"] = os.path.abspath(self._sweep["WANDB_SWEEP_PARAM_PATH"])
            earlier = {}
        else:
            self._sweep = dict(earlier.get("sweep") or {})
        self._id = str(asked or earlier.get("id") or run.record.get("id"))
        inside = bool(self._sweep)  # the client takes no project, entity or id beside a sweep's
        facts = {name: run.record[name] for name in FACTS if name in run.record}
        self._header = {
            "pid": os.getpid(),
            "argv": sys.argv,
            "program": sys.argv[0],
            "stoppable": asked is None,
            "gone": GONE,
            "missed": [] if earlier.get("uploaded", True) else [str(path) for path in self._earlier("files/media")],
            "init": {
                "project": None if inside else project or earlier.get("project") or setting("project") or "gpt_lab",
                "entity": None if inside else entity or earlier.get("entity") or setting("entity"),
                "group": group or os.environ.get("WANDB_RUN_GROUP") or cfg.study,
                "name": run_name or os.environ.get("WANDB_NAME") or run.name,
                "tags": tags or [tag for tag in os.environ.get("WANDB_TAGS", "").split(",") if tag],
                "id": self._id,
                "dir": str(run.path.resolve()),
                "config": {**cfg.to_dict(), **cfg.flat(), **facts},
            },
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None
        self._imported = threading.Event()
        self._restarts = RESTARTS
        self._told = 0
        self._ending: list[Event] = []
        """The final table and the end: what no row of the run tells."""

    @classmethod
    def check(cls, *, mode: str = "auto", **_: Any) -> None:
        """Refuses an online mode without a login.

        Raises:
            ConfigError: no login, or WANDB_MODE is unknown.
        """
        if choose_mode(mode) == "online" and login() is None:
            raise ConfigError(
                f"W&B online needs a login: run `{prefix()}wandb login`, set WANDB_API_KEY, or use tracker.mode=offline"
            )

    def start(self) -> None:
        if self.mode == "disabled":
            self._finished = True
        else:
            super().start()

    def finish(self, state: str, summary: Mapping[str, Any], open_step: int | None = None) -> None:
        if self._thread is not None and not self._finished:  # a run of seconds ends before its client is loaded
            self._imported.wait(self.import_timeout)
        super().finish(state, summary, open_step)

    def open(self) -> None:
        log = _log_file(self.run.path / "wandb")
        try:
            with signals.blocked():  # whoever tells every process to leave means training, which then says goodbye
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-c", f"{_LAUNCH}; wandb_process.main()", os.pathsep.join(sys.path)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    start_new_session=True,
                    env=client(self._sweep),
                )
        except BaseException:
            self._imported.set()
            raise
        finally:
            if log != subprocess.DEVNULL:
                os.close(log)
        self._reader = threading.Thread(target=self._listen, args=(self._process,), name="W&B notices", daemon=True)
        self._reader.start()
        limits = ("mode", "probe_timeout", "init_timeout", "transmit_interval", "patience")
        self._send({**self._header, **{name: getattr(self, name) for name in limits}})

    def write(self, event: Event) -> None:
        if event.step is None:
            self._ending.append(event)
        elif event.step < self._told:
            return
        try:
            self._send(event._asdict())
        except BrokenPipeError:
            self._again()

    def close(self) -> None:
        while self._shut() == GONE:
            self._again()

    def _again(self) -> None:
        """Has another process tell the server what it does not have, when a signal to every process has ended W&B's."""
        if self._shut() != GONE or self._restarts == 0:
            raise BrokenPipeError("its process has ended")
        self._restarts -= 1
        self.open()
        past = logged(self.run)
        self._told = past[-1].step or 0 if past else 0
        for event in (*past, *self._ending):
            self._send(event._asdict())

    def _shut(self) -> int | None:
        """Ends the process, and waits for that; its exit status, None without one."""
        if self._process is None or self._process.stdin is None:
            return None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()
        if self._reader is not None:
            self._reader.join(5)
        return self._process.returncode

    def abandon(self) -> None:
        if self._process is not None:
            self._process.kill()
        self._note()

    def recovery(self) -> str:
        return f"later: {prefix()}upload {shlex.quote(str(self.run.path))}"

    def _send(self, message: Mapping[str, Any]) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message, default=_plain).encode() + b"\n")
        self._process.stdin.flush()

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                self._hear(json.loads(line))
        self._imported.set()

    def _hear(self, message: dict[str, Any]) -> None:
        """One notice of the process."""
        kind = message.pop("event")
        self._imported.set()
        if kind == "warning":
            self._say(message["text"])
        elif kind == "behind":
            self._say(f"{message['text']}: all is in the run folder, {self.recovery()}")
            self._note()
        elif kind == "ready":
            if message["url"] and self._restarts == RESTARTS:
                self._say(f"W&B: {message['url']}")
            self._note(**message, sweep=self._sweep)
        elif kind == "uploaded" and not self._dropped:
            self._note(uploaded=True)

    def _note(self, **known: Any) -> None:
        """Keeps in run.json what is known of the run in W&B; without a word of an upload it lacks something."""
        seen = {**self.run.record.get("wandb", {}), "asked": self.mode, "uploaded": False, **known}
        try:
            self.run.update(wandb=seen)
            if "folder" in seen:
                self._settle(seen)
        except (LabError, OSError):  # training meets the same full or read-only disk and says so
            return

    def _earlier(self, pattern: str) -> list[Path]:
        """Files of this W&B run's folders: one for each process that has logged it. A run begun anew has another id."""
        return sorted(self.run.path.resolve().glob(f"wandb/*run-*-{self._id}/{pattern}"))

    def _settle(self, message: Mapping[str, Any]) -> None:
        """Keeps `wandb sync` from files whose rows are on the server or in a later file: it would double them."""
        current = self.run.path.resolve() / message["folder"]
        files = self._earlier("*.wandb")
        online = any(file.parent.name.startswith("run-") for file in files)
        for file in files:
            if file.parent != current or online or message["uploaded"]:
                file.with_name(f"{file.name}.synced").touch()


@register("tracker", "auto")
class AutoTracker(Wandb):
    """Weights & Biases online when logged in, otherwise offline; WANDB_MODE decides where it is set.

    Reference: https://docs.wandb.ai

    project: W&B project; null: that of WANDB_PROJECT, else gpt_lab
    entity: W&B user or team; null: that of WANDB_ENTITY, else the login's default
    group: group of runs in the W&B workspace; null: that of WANDB_RUN_GROUP, else the study
    run_name: the run's name in W&B; null: that of WANDB_NAME, else of the run folder
    tags: W&B tags; none: those of WANDB_TAGS
    """

    def __init__(
        self,
        run: Run,
        cfg: RunConfig,
        *,
        project: NonEmpty | None = None,
        entity: NonEmpty | None = None,
        group: NonEmpty | None = None,
        run_name: NonEmpty | None = None,
        tags: list[str] = [],  # noqa: B006 (the index reads literal defaults)
    ) -> None:
        super().__init__(run, cfg, project=project, entity=entity, group=group, run_name=run_name, tags=tags)


def _log_file(folder: Path) -> int:
    try:
        folder.mkdir(exist_ok=True)
        return os.open(folder / "tracker.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    except OSError:
        return subprocess.DEVNULL


def _plain(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, os.PathLike) else float(value)
