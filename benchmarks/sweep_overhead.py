"""What a sweep costs beyond its training: a grid of 24 runs of 5 seconds each, two at a time.

    uv run python benchmarks/sweep_overhead.py

The ratio is the wall time of the whole command (start of Python, import of torch, planning, checks, table) over the
sum of the runs' own training seconds divided by the jobs. The runs train a small model on a small text with one thread
each; validation takes milliseconds, and the tracker is off. The corpus's shards are warm: the calibration builds them.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from gpt_lab.store import Run
from gpt_lab.store.record import machine
from gpt_lab.sweep.ledger.ledger import entries

SWEEP = [sys.executable, "-c", "from gpt_lab.cli.sweep import main; main()"]
RESULTS = Path(__file__).parent / "results"
TARGET = 1.15
FIXED: dict[str, Any] = {
    "scale": "nano",
    "data": "text",
    "tokenizer": "byte",
    "sample.tokens": 0,
    "eval.tokens": None,
    "log.every": 10,
    "compile": "off",
    "device": "cpu",
    "tracker": "none",
}
GRID: dict[str, list[Any]] = {"position": ["rope", "learned", "sinusoidal", "none"], "seed": [0, 1, 2, 3, 4, 5]}
SMALL: dict[str, list[Any]] = {"position": ["rope", "none"], "seed": [0, 1]}
QUICK: dict[str, Any] = {"scale.depth": 1, "scale.width": 32, "batch.tokens": 128}


def write_sweep(folder: Path, study: str, grid: dict[str, list[Any]], steps: int, changes: Mapping[str, Any]) -> Path:
    """A sweep file of runs of so many steps, validated once at their end."""
    fixed = {**FIXED, "data.path": str(folder / "words.txt"), "runs_dir": str(folder / "runs")}
    fixed |= {"budget.steps": steps, "eval.every": steps, **changes}
    parameters = {name: {"values": values} for name, values in grid.items()}
    parameters |= {name: {"value": value} for name, value in fixed.items()}
    path = folder / f"{study}.yaml"
    path.write_text(yaml.safe_dump({"program": "train", "method": "grid", "parameters": parameters}), encoding="utf-8")
    return path


def write_corpus(folder: Path) -> None:
    """18 KB of words in random order, a tenth of it for validation."""
    draw = random.Random(0)
    words = ["to", "be", "or", "not", "that", "is", "the", "question", "whether", "tis", "nobler", "in", "mind"]
    lines = (" ".join(draw.choices(words, k=10)) for _ in range(400))
    (folder / "words.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def run(path: Path, jobs: int) -> tuple[float, list[Run]]:
    """Wall seconds of a whole sweep command, and its runs."""
    start = time.perf_counter()
    done = subprocess.run([*SWEEP, str(path), "--jobs", str(jobs)], capture_output=True, text=True, timeout=3600)
    wall = time.perf_counter() - start
    if done.returncode != 0:
        raise SystemExit(f"the sweep ended with {done.returncode}: {done.stderr[-2000:]}{done.stdout[-2000:]}")
    folder = path.parent / "runs" / path.stem
    return wall, [Run.open(folder / str(entry.run)) for entry in entries(folder)]


def moment(text: str) -> float:
    """Seconds since 1970 of a run's time stamp."""
    return datetime.fromisoformat(text).timestamp()


def measure(
    folder: Path, grid: dict[str, list[Any]], jobs: int, seconds: float, changes: Mapping[str, Any]
) -> dict[str, Any]:
    """Calibrates the number of steps, runs the grid, and takes the times apart."""
    write_corpus(folder)
    some = 20 if seconds < 1 else 100
    _, runs = run(write_sweep(folder, "calibration", {"seed": list(range(jobs))}, some, changes), jobs)
    rate = some / statistics.mean(found.summary["seconds"] for found in runs)
    steps = max(10, round(rate * seconds))
    began = time.time()
    wall, runs = run(write_sweep(folder, "overhead", grid, steps, changes), jobs)
    training = [found.summary["seconds"] for found in runs]
    first = min(moment(found.record["started"]) for found in runs)
    last = max(moment(found.record["finished"]) for found in runs)
    ideal = sum(training) / jobs
    return {
        "trials": len(runs),
        "jobs": jobs,
        "threads_per_trial": 1,
        "steps": steps,
        "training_seconds_median": round(statistics.median(training), 3),
        "training_seconds_sum": round(sum(training), 3),
        "wall_seconds": round(wall, 3),
        "ratio": round(wall / ideal, 4),
        "target": TARGET,
        "before_first_trial_seconds": round(first - began, 3),
        "after_last_trial_seconds": round(began + wall - last, 3),
        "beyond_training_per_trial_seconds": round(((last - first) * jobs - sum(training)) / len(runs), 3),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints, writes JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=5.0, help="training of each run")
    parser.add_argument("--quick", action="store_true", help="check that everything runs; numbers mean little")
    parser.add_argument("--out", type=Path, default=None, help="where the JSON goes (default: results/)")
    chosen = parser.parse_args(arguments)
    named: dict[str, Any] = {
        **machine(),
        "torch": version("torch"),
        "python": sys.version.split()[0],
        "load_before": round(os.getloadavg()[0], 2),
    }
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GPT_LAB_CACHE"] = str(Path(folder) / "cache")
        grid, seconds, changes = (SMALL, 0.1, QUICK) if chosen.quick else (GRID, chosen.seconds, {})
        found = measure(Path(folder), grid, chosen.jobs, seconds, changes)
    named["load_after"] = round(os.getloadavg()[0], 2)
    for name, value in found.items():
        print(f"{name:36s} {value}")
    slug = re.sub(r"[^a-z0-9]+", "-", f"{named['cpu']}-{named['cores']}-cores".lower()).strip("-")
    out = chosen.out or RESULTS / f"sweep_overhead-{slug}{'-quick' if chosen.quick else ''}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"machine": named, **found}, indent=1) + "\n", encoding="utf-8")
    print(f"written: {out}")


if __name__ == "__main__":
    main()
