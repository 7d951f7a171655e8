"""Replay of ended runs to W&B from their folders: for an agent, or for what a server lacks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gpt_lab import registry
from gpt_lab.config import checked
from gpt_lab.config.schema import RunConfig
from gpt_lab.errors import DataError
from gpt_lab.store import Run
from gpt_lab.store.atomic_files import read_json
from gpt_lab.trackers.wandb import Wandb
from gpt_lab.trackers.wandb_env import agent

AGENT_PATIENCE, UPLOAD_PATIENCE = 60.0, 600.0
"""Seconds for all of a run: an agent waits with its next one, who asks for an upload has nothing else to do."""


def replay(settings: Mapping[str, Any], run: Run, cfg: RunConfig) -> list[str]:
    """Mirrors a run's stored numbers and its end into the W&B run that an agent made for it; what to tell the user.

    Nothing happens outside `wandb agent`, without a W&B tracker, and for the W&B run that the run was mirrored to.
    """
    asked = agent()
    if asked is None or (run.record.get("wandb") or {}).get("id") == asked:
        return []
    tracker = registry.build("tracker", settings, run, cfg)
    return _send(tracker, run, AGENT_PATIENCE) if isinstance(tracker, Wandb) else []


def behind(run: Run) -> bool:
    """Whether W&B may lack something of a run."""
    return not (run.record.get("wandb") or {}).get("uploaded")


def lacking(folders: Iterable[Path]) -> int:
    """How many of these runs were to be online and are not, or not whole."""
    count = 0
    for folder in folders:
        try:
            seen = read_json(folder / "run.json").get("wandb") or {}
        except DataError:  # removed meanwhile
            continue
        count += seen.get("asked") == "online" and not seen.get("uploaded")
    return count


def upload(run: Run, rows: Sequence[Sequence[Any]] = ()) -> list[str]:
    """Sends to the W&B server what it does not have of a run; what to tell the user. `behind` says whether it has all.

    The server says which step it had last, and what it has is left as it is: a second upload changes nothing.

    Args:
        rows: of the table that stands at the end of a finished run.

    Raises:
        ConfigError: nobody is logged in, or the run's config is none of this version.
        LabError: the run is being trained.
    """
    Wandb.check(mode="online")
    cfg = checked.from_dict(run.config)
    chosen = cfg.tracker if cfg.tracker["name"] in ("auto", "wandb") else {}
    settings = {**chosen, "name": "wandb", "mode": "online"}
    with run.lock():
        run = Run.open(run.path)
        tracker = registry.build("tracker", settings, run, cfg)
        return _send(tracker, run, UPLOAD_PATIENCE, rows)


def _send(tracker: Wandb, run: Run, patience: float, rows: Sequence[Sequence[Any]] = ()) -> list[str]:
    tracker.patience = patience
    tracker.resume()
    tracker.start()
    if rows:
        tracker.table("summary", ["metric", "value"], rows)
    tracker.finish(run.state, run.summary)
    return tracker.messages()
