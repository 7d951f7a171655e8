"""No mirror: the run folder alone."""

from __future__ import annotations

from gpt_lab.config.schema import RunConfig
from gpt_lab.registry import register
from gpt_lab.store import Run
from gpt_lab.trackers.base import Tracker


@register("tracker", "none")
class NoTracker(Tracker):
    """No mirror: metrics stay in the run folder.

    Reference: metrics.jsonl and run.json of the run folder (gpt_lab/store)
    """

    def __init__(self, run: Run, cfg: RunConfig) -> None:
        """Keeps nothing of either."""

    @classmethod
    def check(cls) -> None:
        """Works everywhere."""
