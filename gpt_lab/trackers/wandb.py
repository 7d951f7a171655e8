"""Weights & Biases, online or offline, through a process of its own."""

from __future__ import annotations

import json
import netrc
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from gpt_lab.errors import ConfigError, LabError, unknown
from gpt_lab.registry import register
from gpt_lab.schema import RunConfig
from gpt_lab.store import Run
from gpt_lab.trackers.base import Background, Event

Mode = Literal["online", "offline", "disabled"]
_MODES: dict[str, Mode] = {
    "online": "online",
    "run": "online",
    "shared": "online",
    "offline": "offline",
    "dryrun": "offline",
    "disabled": "disabled",
}
FACTS = (
    *("signature", "resolved", "parameters", "parameters_non_embedding", "train_flops_per_token"),
    *("git", "hardware", "packages", "command", "text"),
)
"""What of run.json joins the settings in W&B's config: to group by, and for reports to read back."""
_CLOUD = "https://api.forge.coreweave.com"
_UPSTREAM = {"api.forge.coreweave.com": "api.wandb.ai"}
"""The older name of W&B's own server: a login under it still counts."""
_LAUNCH = "import sys, os; sys.path[:] = sys.argv.pop(1).split(os.pathsep); from gpt_lab.trackers import wandb_process"


@register("tracker", "wandb")
class Wandb(Background):
    """Weights & Biases: online when logged in, otherwise offline in the run folder.

    Reference: https://docs.wandb.ai

    The run's config holds every setting twice: nested, and flat under its dotted key (optim.lr); a sweep overwrites
    nested entries of the groups that it chooses. A server that cannot be reached turns the run offline, with one
    warning. Under `wandb agent` the run, project and entity are the agent's.

    mode: online, offline, or auto: what WANDB_MODE says, else online if there is a login, else offline
    project: W&B project; null: WANDB_PROJECT, else gpt_lab
    entity: W&B user or team; null: the login's default
    group: group of runs in the W&B workspace; null: the study
    run_name: the run's name in W&B; null: that of the run folder
    tags: W&B tags
    """

    title = "W&B"
    probe_timeout = 10.0
    init_timeout = 30.0
    finish_timeout = 60.0

    def __init__(
        self,
        run: Run,
        cfg: RunConfig,
        *,
        mode: Literal["auto", "online", "offline"] = "auto",
        project: str | None = None,
        entity: str | None = None,
        group: str | None = None,
        run_name: str | None = None,
        tags: list[str] = [],  # noqa: B006 (the index reads literal defaults)
    ) -> None:
        super().__init__(run)
        self.mode = choose_mode(mode)
        self.patience = self.finish_timeout + 5
        sweep = bool(os.environ.get("WANDB_SWEEP_ID"))
        earlier = (run.record.get("wandb") or {}).get("id")
        facts = {key: run.record[key] for key in FACTS if key in run.record}
        self._header: dict[str, Any] = {
            "mode": self.mode,
            "pid": os.getpid(),
            "argv": sys.argv,
            "program": sys.argv[0],
            "stoppable": not sweep,
            "init": {
                "project": None if sweep else project or os.environ.get("WANDB_PROJECT") or "gpt_lab",
                "entity": None if sweep else entity,
                "group": group or cfg.study,
                "name": run_name or run.name,
                "tags": list(tags),
                "id": os.environ.get("WANDB_RUN_ID") or earlier or run.record.get("id"),
                "dir": str(run.path.resolve()),
                "config": {**cfg.to_dict(), **cfg.flat(), **facts},
            },
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None

    @classmethod
    def check(cls, *, mode: str = "auto", **_: Any) -> None:
        """Refuses an online mode without a login.

        Raises:
            ConfigError: no login, or WANDB_MODE is unknown.
        """
        if choose_mode(mode) == "online" and login() is None:
            raise ConfigError(
                "W&B online needs a login: run `uv run wandb login`, set WANDB_API_KEY, or use tracker.mode=offline"
            )

    def start(self) -> None:
        if self.mode != "disabled":
            super().start()

    def open(self) -> None:
        log = _log_file(self.run.path / "wandb")
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", f"{_LAUNCH}; wandb_process.main()", os.pathsep.join(sys.path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # Ctrl-C in the terminal is for training, which then says goodbye
                env=_environment(),
            )
        finally:
            if log != subprocess.DEVNULL:
                os.close(log)
        self._reader = threading.Thread(target=self._listen, args=(self._process,), name="W&B notices", daemon=True)
        self._reader.start()
        timeouts = {name: getattr(self, name) for name in ("probe_timeout", "init_timeout", "finish_timeout")}
        self._send({**self._header, **timeouts})

    def write(self, event: Event) -> None:
        self._send(event._asdict())

    def close(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            try:
                self._process.stdin.close()
            finally:
                self._process.wait()
                if self._reader is not None:
                    self._reader.join(5)

    def abandon(self) -> None:
        if self._process is not None:
            self._process.kill()

    def recovery(self) -> str:
        folder = (self.run.record.get("wandb") or {}).get("folder")
        return f"`wandb sync {self.run.path / folder}` uploads the rest" if folder else super().recovery()

    def _send(self, message: Mapping[str, Any]) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message, default=_plain).encode() + b"\n")
        self._process.stdin.flush()

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                message = json.loads(line)
                if message.pop("event") == "warning":
                    self._say(message["text"])
                    continue
                if message["url"]:
                    self._say(f"W&B: {message['url']}")
                try:
                    self.run.update(wandb=message)
                except LabError:  # training meets the same full or read-only disk and says so
                    continue


@register("tracker", "auto")
class Auto(Wandb):
    """Weights & Biases online when logged in, otherwise offline; WANDB_MODE decides where it is set.

    Reference: https://docs.wandb.ai

    project: W&B project; null: WANDB_PROJECT, else gpt_lab
    entity: W&B user or team; null: the login's default
    group: group of runs in the W&B workspace; null: the study
    run_name: the run's name in W&B; null: that of the run folder
    tags: W&B tags
    """

    def __init__(
        self,
        run: Run,
        cfg: RunConfig,
        *,
        project: str | None = None,
        entity: str | None = None,
        group: str | None = None,
        run_name: str | None = None,
        tags: list[str] = [],  # noqa: B006 (the index reads literal defaults)
    ) -> None:
        super().__init__(run, cfg, project=project, entity=entity, group=group, run_name=run_name, tags=tags)


def choose_mode(mode: str) -> Mode:
    """What a `mode` option comes to on this machine, by WANDB_MODE and login.

    Raises:
        ConfigError: WANDB_MODE is none of W&B's modes.
    """
    if mode != "auto":
        return _MODES[mode]
    variable = os.environ.get("WANDB_MODE")
    if variable:
        if variable not in _MODES:
            raise ConfigError(unknown("WANDB_MODE", variable, _MODES))
        return _MODES[variable]
    return "online" if login() else "offline"


def login() -> str | None:
    """Where the W&B login is: a variable's name or a file; None without one. Reads no network, imports no wandb."""
    for variable in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        if os.environ.get(variable):
            return variable
    path = Path(os.environ.get("NETRC") or "~/.netrc").expanduser()
    if not path.exists() and "NETRC" not in os.environ:
        path = Path("~/_netrc").expanduser()
    try:
        known, host = netrc.netrc(path), urlsplit(base_url()).netloc
        entry = known.authenticators(host) or known.authenticators(_UPSTREAM.get(host, host))
    except (OSError, netrc.NetrcParseError):
        return None
    return str(path) if entry and entry[2] else None


def base_url() -> str:
    """Address of the W&B server: of WANDB_BASE_URL, else of W&B's settings file, else W&B's own."""
    if url := os.environ.get("WANDB_BASE_URL"):
        return url
    folder = Path(os.environ.get("WANDB_CONFIG_DIR") or "~/.config/wandb").expanduser()
    try:
        lines = (folder / "settings").read_text(encoding="utf-8").splitlines()
    except OSError:
        return _CLOUD
    found = [line.partition("=")[2].strip() for line in lines if line.split("=")[0].strip() == "base_url"]
    return found[-1] if found else _CLOUD


def _environment() -> dict[str, str]:
    """This process's, without another wandb service's address; without error reports no telemetry, no DNS look-up."""
    kept = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
    return {**kept, "WANDB_ERROR_REPORTING": "false", "WANDB_SILENT": "true"}


def _log_file(folder: Path) -> int:
    try:
        folder.mkdir(exist_ok=True)
        return os.open(folder / "tracker.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    except OSError:
        return subprocess.DEVNULL


def _plain(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, os.PathLike) else float(value)
