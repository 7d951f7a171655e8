"""Numbers that a run has and its mirror has not: of a run that had ended before `wandb agent` asked for it, or of the
trunk that it was forked from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from gpt_lab import registry
from gpt_lab.schema import RunConfig
from gpt_lab.store import Run
from gpt_lab.trackers.base import Background, Tracker

BACKLOG = 1000
"""Events that may wait: training drops what its tracker cannot take in time, a replay waits."""


def replay(settings: Mapping[str, Any], run: Run, cfg: RunConfig) -> list[str]:
    """Mirrors a run's stored numbers and its end into the W&B run that an agent made for it; what to tell the user.

    Nothing happens outside `wandb agent`, without a W&B tracker, and for the W&B run that the run was mirrored to.
    """
    asked = os.environ.get("WANDB_RUN_ID") if os.environ.get("WANDB_SWEEP_ID") else None
    if asked is None or (run.record.get("wandb") or {}).get("id") == asked:
        return []
    tracker = registry.build("tracker", settings, run, cfg)
    if not (isinstance(tracker, Background) and tracker.title == "W&B"):
        return []
    catch_up(tracker, run)
    tracker.finish(run.state, run.summary)
    return tracker.messages()


def catch_up(tracker: Tracker, run: Run) -> None:
    """Starts a tracker and mirrors what the run has logged so far."""
    tracker.start()
    for row in run.metrics():
        if isinstance(tracker, Background):
            tracker.wait(BACKLOG)
        tracker.log({key: value for key, value in row.items() if key != "step"}, row["step"])
