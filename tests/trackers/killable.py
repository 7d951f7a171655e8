"""Stands in for training in a process that a test may kill: `killable.py RUN FIRST LAST SECONDS`.

Logs steps FIRST to LAST, says each on standard output after a pause, then waits for the end.
"""

from __future__ import annotations

import signal
import sys
import time
from types import FrameType

from gpt_lab.store import Run
from gpt_lab.trackers.wandb import Wandb
from tests.trackers.plain import plain_config


def stopped(signum: int, frame: FrameType | None) -> None:
    print("stopped", flush=True)
    sys.exit(0)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, stopped)
    run = Run.open(sys.argv[1])
    first, last, pause = int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
    Wandb.online_patience = 60.0  # a busy machine has time
    tracker = Wandb(run, plain_config())
    tracker.start()
    while not run.record.get("wandb"):
        time.sleep(0.02)
    for step in range(first, last + 1):
        run.log(step, {"train/loss": 100.0 - step})  # as training does: to the run folder first
        tracker.log({"train/loss": 100.0 - step}, step)
        time.sleep(pause)
        print(step, flush=True)
    time.sleep(600)
