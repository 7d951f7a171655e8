"""Start-up: from the start of the process to the first training step, against importing torch alone.

    uv run python benchmarks/startup.py

Everything is run in turn, in rounds; numbers are medians over rounds. The data's cache is warm; the tracker is off,
but where W&B is named: there it writes offline.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gpt_lab.store.record import machine

TRAIN = [sys.executable, "-c", "from gpt_lab.cli.train import main; main()"]
RESULTS = Path(__file__).parent / "results"
PATIENCE = 300.0
"""Seconds after which a process is given up."""


def whole(command: Sequence[str], status: int) -> Callable[[], float]:
    """Measures a command from start to exit; it must end with this status."""

    def measure() -> float:
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
        seconds = time.perf_counter() - start
        if done.returncode != status:
            raise SystemExit(f"{' '.join(command)} ended with {done.returncode}, not {status}: {done.stderr[-2000:]}")
        return seconds

    return measure


def first_step(overrides: Sequence[str], tracker: str, pause: float = 0.0) -> Callable[[], float]:
    """Measures from the start of `train` to the first line in metrics.jsonl, then ends it and waits."""

    def measure() -> float:
        with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as output:
            arguments = [*overrides, f"runs_dir={folder}", "log.every=1", f"tracker={tracker}"]
            start = time.perf_counter()
            process = subprocess.Popen([*TRAIN, *arguments], stdout=output, stderr=subprocess.STDOUT)
            try:
                while not any(path.stat().st_size for path in Path(folder).glob("*/*/metrics.jsonl")):
                    if process.poll() is not None or time.perf_counter() - start > PATIENCE:
                        output.seek(0)
                        raise SystemExit(f"train made no step: {output.read()[-2000:]}")
                    time.sleep(0.005)
                return time.perf_counter() - start
            finally:
                process.kill()
                process.wait()
                time.sleep(pause)

    return measure


def measure(rounds: int, overrides: Sequence[str], warm: bool = True) -> dict[str, Any]:
    """Seconds of each thing, per round and as a median."""
    things = {
        "import torch": whole([sys.executable, "-c", "import torch"], 0),
        "train, first step": first_step(overrides, "none"),
        "train, first step, W&B": first_step(overrides, "auto", 4.0 if warm else 0.0),  # W&B's process closes its run
        "train --help": whole([*TRAIN, "--help"], 0),
        "train optim=adamx (refused)": whole([*TRAIN, "optim=adamx"], 2),
    }
    for thing in things.values() if warm else ():
        thing()  # warms the caches of files and data
    found: dict[str, list[float]] = {name: [] for name in things}
    for _ in range(rounds):
        for name, thing in things.items():
            found[name].append(thing())
    middle = {name: statistics.median(times) for name, times in found.items()}
    return {
        "seconds": {name: round(seconds, 3) for name, seconds in middle.items()},
        "seconds_per_round": {name: [round(s, 3) for s in times] for name, times in found.items()},
        "first_step_share_of_wandb": round(middle["train, first step, W&B"] - middle["train, first step"], 3),
        "first_step_beyond_import_torch": round(middle["train, first step"] - middle["import torch"], 3),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints, writes JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="check that everything runs; numbers mean little")
    parser.add_argument("--out", type=Path, default=None, help="where the JSON goes (default: results/)")
    parser.add_argument("overrides", nargs="*", help="of the training, such as scale=nano")
    chosen = parser.parse_args(arguments)
    named: dict[str, Any] = {
        **machine(),
        "torch": version("torch"),
        "python": sys.version.split()[0],
        "load_before": round(os.getloadavg()[0], 2),
    }
    with tempfile.TemporaryDirectory() as cache:
        os.environ |= {"GPT_LAB_CACHE": cache, "WANDB_MODE": "offline"}
        found = measure(1 if chosen.quick else chosen.rounds, chosen.overrides, warm=not chosen.quick)
    named["load_after"] = round(os.getloadavg()[0], 2)
    for name, seconds in found["seconds"].items():
        print(f"{name:30s} {seconds:7.3f} s")
    print(f"{'first step beyond import torch':30s} {found['first_step_beyond_import_torch']:7.3f} s")
    print(f"{'share of W&B in it':30s} {found['first_step_share_of_wandb']:7.3f} s")
    slug = re.sub(r"[^a-z0-9]+", "-", f"{named['cpu']}-{named['cores']}-cores".lower()).strip("-")
    out = chosen.out or RESULTS / f"startup-{slug}{'-quick' if chosen.quick else ''}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"machine": named, **found}, indent=1) + "\n", encoding="utf-8")
    print(f"written: {out}")


if __name__ == "__main__":
    main()
