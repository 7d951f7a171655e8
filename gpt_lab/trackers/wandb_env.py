"""W&B settings of the environment: variables, settings files, login. Imports no wandb, asks no server."""

from __future__ import annotations

import configparser
import netrc
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from gpt_lab.errors import ConfigError, unknown

Mode = Literal["online", "offline", "disabled"]
_MODES: dict[str, Mode] = {
    "online": "online",
    "run": "online",
    "shared": "online",
    "offline": "offline",
    "dryrun": "offline",
    "disabled": "disabled",
}
AGENT = ("WANDB_SWEEP_ID", "WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH")
"""What `wandb agent` sets for each of its runs. Any less is a leftover, which would join several runs in one."""
ONE_RUN = (*AGENT, "WANDB_NAME")
"""What speaks of one run, and so of no trial of a local sweep."""
_OURS = frozenset(
    {
        *ONE_RUN,
        *(f"WANDB_{name}" for name in ("MODE", "DISABLED", "PROJECT", "ENTITY")),
        *(f"WANDB_{name}" for name in ("RUN_NAME", "RUN_GROUP", "TAGS", "RUN_TAGS")),
        *(f"WANDB_{name}" for name in ("RESUME", "RESUME_FROM", "FORK_FROM", "JOB_TYPE", "RUN_JOB_TYPE")),
        *(f"WANDB_{name}" for name in ("LAUNCH", "SERVICE", "CONFIG_PATHS", "X_SKIP_TRANSACTION_LOG")),
    }
)
"""What the lab answers for: the client gets it as arguments or not at all. Of the rest it is told as it stands."""
_CLOUD = "https://api.forge.coreweave.com"
_UPSTREAM = {"api.forge.coreweave.com": "api.wandb.ai"}
"""The older name of W&B's own server: a login under it still counts."""
_TRUE = ("1", "true", "yes", "on")


def choose_mode(mode: str) -> Mode:
    """What a `mode` option comes to on this machine: WANDB_MODE and W&B's settings files decide on auto, else a login.

    Raises:
        ConfigError: WANDB_MODE is none of W&B's modes.
    """
    if mode != "auto":
        return _MODES[mode]
    if os.environ.get("WANDB_DISABLED", "").lower() in _TRUE:
        return "disabled"
    stated = setting("mode")
    if stated is not None:
        if stated not in _MODES:
            raise ConfigError(unknown("WANDB_MODE", stated, _MODES))
        return _MODES[stated]
    return "online" if login() else "offline"


def setting(name: str) -> str | None:
    """A setting of W&B's: of its variable WANDB_<NAME>, else of ./wandb/settings, where `wandb offline` and `wandb
    init` write, else of the user's settings file; None where nobody states it."""
    if value := os.environ.get(f"WANDB_{name.upper()}"):
        return value
    here = Path(os.environ.get("WANDB_DIR") or ".").expanduser()
    home = Path(os.environ.get("WANDB_CONFIG_DIR") or "~/.config/wandb").expanduser()
    for path in (here / "wandb" / "settings", here / ".wandb" / "settings", home / "settings"):
        parser = configparser.ConfigParser(interpolation=None)
        try:
            parser.read_string(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, configparser.Error):
            continue
        if value := parser.get("default", name, fallback="").strip():
            return value
    return None


def login() -> str | None:
    """Where the W&B login is: a variable's name or a file; None without one."""
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
    """Address of the W&B server: W&B's own where no setting names one."""
    return setting("base_url") or _CLOUD


def agent() -> str | None:
    """The id that `wandb agent` gave this process's run; None where no agent started it."""
    given = [os.environ.get(name) for name in AGENT]
    return given[1] if all(given) else None


@contextmanager
def as_client(**more: str) -> Iterator[None]:
    """While entered, this process's environment is that of `client`, and `more`."""
    before = dict(os.environ)
    new = {**client(), **more}
    for name in before.keys() - new.keys():
        del os.environ[name]
    os.environ.update(new)
    try:
        yield
    finally:
        for name in new.keys() - before.keys():
            os.environ.pop(name, None)
        os.environ.update(before)


def client(place: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a process that speaks to W&B: this one's without what the lab answers for.

    Args:
        place: the sweep of a run that an agent has made, as variables.
    """
    place = dict(place or {})
    if not os.path.exists(place.get("WANDB_SWEEP_PARAM_PATH", "")):  # the client would refuse to begin
        place.pop("WANDB_SWEEP_PARAM_PATH", None)
    kept = {name: value for name, value in os.environ.items() if name not in _OURS}
    quiet = {"WANDB_ERROR_REPORTING": "false", "WANDB_SILENT": "true"}  # no telemetry, no DNS look-up
    server = {"WANDB_BASE_URL": url} if (url := setting("base_url")) else {}
    return {**kept, **quiet, **server, **place}
