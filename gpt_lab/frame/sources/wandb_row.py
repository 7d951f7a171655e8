"""A run as a W&B server keeps it, as a row of the table of runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from gpt_lab.frame.sources.source import row
from gpt_lab.options import is_number
from gpt_lab.trackers.wandb import FACTS

STATES = {
    "running": "running",
    "preempting": "running",
    "pending": "missing",
    "finished": "finished",
    "failed": "failed",
    "killed": "stopped",
    "preempted": "stopped",
    "crashed": "stopped",
}
"""W&B's words for a run's state, and the lab's."""
KILLED = "killed while running: the same command resumes it"
HARDWARE = ("cpu", "gpu", "gpus", "cores", "threads", "system")
AXES = ("step", "tokens", "flops", "seconds")


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The flat settings in a W&B config, which holds each setting nested and flat.

    A swept group's choice stands under the group's own name and hides the nested entry; `GROUP.name` says the same. A
    swept null arrives as text.
    """
    groups = {key.partition(".")[0] for key in config if "." in key}
    return {
        key: None if value == "null" else value
        for key, value in config.items()
        if not (isinstance(value, Mapping) or key in groups or key in FACTS or key.startswith("_"))
    }


def state_of(state: str, config: Mapping[str, Any], summary: Mapping[str, Any]) -> tuple[str, str]:
    """The lab's state and what went wrong. What the lab itself wrote into the summary says more than W&B's word.

    Args:
        state: W&B's word.
    """
    said = summary.get("state")
    found = STATES.get(state, "running")
    if said in ("finished", "diverged", "failed", "stopped") and found not in ("running", "missing"):
        found = str(said)  # of a run that goes on it is the word of its last ending
    elif found in ("stopped", "failed") and "signature" in config:  # one of ours that could not say goodbye
        return "stopped", KILLED
    if found == "diverged":
        return found, f"diverged at step {summary.get('diverged/step', '?')}"
    if found == "stopped":
        return found, f"stopped at step {summary.get('steps', '?')}: the same command resumes it"
    if found == "failed":
        return found, f"failed (W&B says: {state})"
    return found, ""


def wandb_row(
    run: str,
    name: str,
    group: str | None,
    state: str,
    config: Mapping[str, Any],
    summary: Mapping[str, Any],
    started: str | None,
    finished: str | None,
) -> dict[str, Any]:
    """One run as a row.

    Args:
        run, name: as in frame.sources.source.row.
        state: W&B's word.
        config: W&B's, settings nested and flat and what the tracker adds (FACTS), without W&B's own `value` level.
        summary: W&B's: last values of the history, final values of the lab; non-finite floats as such.
        started, finished: ISO times in UTC.
    """
    flat = settings(config)
    known, error = state_of(state, config, summary)
    hardware, git = _mapping(config.get("hardware")), _mapping(config.get("git"))
    env = {
        **{key: hardware.get(key) for key in HARDWARE},
        **_mapping(config.get("resolved")),
        **_mapping(config.get("text")),
        "command": config.get("command"),
        "commit": git.get("commit"),
        "dirty": git.get("dirty"),
        "changes": git.get("changes"),
        "code": config.get("code"),
        "started": started,
        "finished": finished if known != "running" else None,
        "packages": ", ".join(f"{name} {version}" for name, version in _mapping(config.get("packages")).items()),
    }
    own = {
        key: value
        for key, value in summary.items()
        if not (isinstance(value, Mapping) or key in ("state", "step") or key.startswith("_"))
    }
    study = str(flat.get("study") or group or "")
    return row(run, "wandb", study, name, known, flat, own, error=error, costs=config, env=env)


def merged(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Numbers of history rows, one line per step, in order: the last value of each key; no media, none of W&B's own."""
    found: dict[int, dict[str, Any]] = {}
    for line in rows:
        step = line.get("step")
        if is_number(step):
            kept = {key: value for key, value in line.items() if not key.startswith("_") and is_number(value)}
            found.setdefault(int(step), {}).update(kept)
    return [{"step": step, **{k: v for k, v in found[step].items() if k != "step"}} for step in sorted(found)]


def table(lines: list[dict[str, Any]]) -> Any:
    """A run's curve as a pandas table: step, tokens, flops, seconds first."""
    import pandas as pd

    frame = pd.DataFrame(lines)
    first = [name for name in AXES if name in frame.columns]
    return frame[first + [name for name in frame.columns if name not in AXES]]


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
