"""Mirrors of the run folder: W&B, TensorBoard, or none. None of them can stop or slow training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpt_lab import registry
from gpt_lab.config.schema import RunConfig
from gpt_lab.store import Run
from gpt_lab.trackers.base import Tracker
from gpt_lab.trackers.replay import behind, lacking, replay, upload

__all__ = ["Tracker", "behind", "build_tracker", "check", "lacking", "replay", "upload"]


def check(settings: Mapping[str, Any]) -> None:
    """Refuses a tracker that cannot work on this machine, before anything is written.

    Raises:
        ConfigError: its package is missing, W&B online without a login, or an unknown WANDB_MODE.
    """
    part = registry.load("tracker", settings["name"])
    part.check(**{key: value for key, value in settings.items() if key != "name"})


def build_tracker(settings: Mapping[str, Any], run: Run, cfg: RunConfig) -> Tracker:
    """The tracker that `settings["name"]` selects, not yet started.

    Raises:
        ConfigError: as `check`.
    """
    check(settings)
    tracker: Tracker = registry.build("tracker", settings, run, cfg)
    return tracker
