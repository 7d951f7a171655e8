"""A grid as a whole: 4 position encodings x 3 seeds at nanoGPT's CPU shape, against twelve processes of its loop.

    uv run python benchmarks/grid.py

Start of Python, import of torch, evaluation and checkpoints are in both. The lab runs one `sweep` command, two runs at
a time; the bare loop (trained/bare.py) runs as a shell's loop would, one process after the other with torch's threads,
and, because that is not the most a shell can do, also two at a time with a thread each. The three take turns in rounds;
ratios are medians over rounds. Random text of 65 characters, as long as tiny Shakespeare; the lab begins each round
with an empty cache, the bare loop's tokens are there. Both evaluate on as many tokens each time, 40 batches: the loop
on random ones of both parts, before the first step too; the lab on its validation split, which is made as large.
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
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from benchmarks.sweep_overhead import RESULTS, run
from benchmarks.trained import bare
from gpt_lab.store.record import machine

LENGTH = 1_115_394
EVALUATED = 2 * bare.EVAL_BATCHES * bare.CPU_SHAPE.rows * bare.CPU_SHAPE.context
POSITIONS, SEEDS = ("learned", "rope", "sinusoidal", "none"), (0, 1, 2)
SETTINGS: dict[str, Any] = {
    "model": "gpt2",
    "mlp": "gelu",
    "norm.bias": False,
    "model.bias": False,
    "tokenizer": "char",
    "tokenizer.eot": False,
    "data": "text",
    "scale.depth": bare.CPU_SHAPE.depth,
    "scale.heads": bare.CPU_SHAPE.heads,
    "scale.width": bare.CPU_SHAPE.width,
    "scale.context": bare.CPU_SHAPE.context,
    "batch.tokens": bare.CPU_SHAPE.rows * bare.CPU_SHAPE.context,
    "eval.every": bare.EVAL_EVERY,
    "eval.tokens": EVALUATED,
    "log.every": bare.LOG_EVERY,
    "sample.tokens": 0,
    "optim": "adamw",
    "device": "cpu",
    "tracker": "none",
}


def lab(
    text: Path, steps: int, positions: Sequence[str], seeds: Sequence[int], folder: Path
) -> tuple[dict[str, float], str]:
    """The sweep: wall seconds, and what a trial costs beyond its steps; and what precision=auto became."""
    fixed = {
        **SETTINGS,
        "data.path": str(text),
        "data.val_fraction": EVALUATED / LENGTH,
        "runs_dir": str(folder / "runs"),
        "budget.steps": steps,
    }
    parameters = {name: {"value": value} for name, value in fixed.items()}
    parameters |= {"position": {"values": list(positions)}, "seed": {"values": list(seeds)}}
    path = folder / "grid.yaml"
    path.write_text(yaml.safe_dump({"program": "train", "method": "grid", "parameters": parameters}), encoding="utf-8")
    os.environ["GPT_LAB_CACHE"] = str(folder / "cache")
    wall, runs = run(path, jobs=2)
    training = [found.summary["seconds"] for found in runs]
    taken = {
        "seconds": wall,
        "training_seconds_of_a_trial": statistics.mean(training),
        "beyond_training_of_a_trial": (2 * wall - sum(training)) / len(runs),
    }
    return taken, runs[0].record["resolved"]["precision"]


def loop(tokens: Path, steps: int, count: int, folder: Path, at_a_time: int) -> float:
    """Wall seconds of as many processes of the bare loop."""
    threads = 0 if at_a_time == 1 else 1
    environment = {key: value for key, value in os.environ.items() if key not in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}

    def one(seed: int) -> None:
        words = [sys.executable, bare.__file__, str(tokens), str(steps), str(seed), str(threads)]
        done = subprocess.run([*words, str(folder / f"{seed}.pt")], env=environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr[-2000:])

    start = time.perf_counter()
    with ThreadPoolExecutor(at_a_time) as pool:
        list(pool.map(one, range(count)))
    return time.perf_counter() - start


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints, writes JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--quick", action="store_true", help="check that everything runs; numbers mean little")
    parser.add_argument("--out", type=Path, default=None, help="where the JSON goes (default: results/)")
    chosen = parser.parse_args(arguments)
    rounds, steps, length = (1, 4, 100_000) if chosen.quick else (chosen.rounds, chosen.steps, LENGTH)
    positions, seeds = (POSITIONS[:1], SEEDS[:1]) if chosen.quick else (POSITIONS, SEEDS)
    count = len(positions) * len(seeds)
    named: dict[str, Any] = {
        **machine(),
        "torch": version("torch"),
        "python": sys.version.split()[0],
        "load_before": round(os.getloadavg()[0], 2),
    }
    ours: list[dict[str, float]] = []
    theirs: dict[str, list[float]] = {"one_after_the_other": [], "two_at_a_time": []}
    with tempfile.TemporaryDirectory() as name:
        text, tokens = bare.write_corpus(Path(name), length)

        def turn_of_lab(folder: Path) -> None:
            taken, named["precision"] = lab(text, steps, positions, seeds, folder)
            ours.append(taken)

        def turn_of_loop(kind: str) -> Callable[[Path], None]:
            at_a_time = 1 + (kind == "two_at_a_time")
            return lambda folder: theirs[kind].append(loop(tokens, steps, count, folder, at_a_time))

        turns = [turn_of_lab, *(turn_of_loop(kind) for kind in theirs)]
        for number in range(rounds):
            for place in range(len(turns)):
                with tempfile.TemporaryDirectory() as folder:
                    turns[(number + place) % len(turns)](Path(folder))
    named["load_after"] = round(os.getloadavg()[0], 2)
    middle = {key: round(statistics.median(one[key] for one in ours), 2) for key in ours[0]}
    found: dict[str, Any] = {
        "trials": count,
        "steps": steps,
        "lab": middle | {"rounds": [round(one["seconds"], 2) for one in ours]},
        "bare": {
            kind: {"seconds": round(statistics.median(times), 2), "rounds": [round(one, 2) for one in times]}
            for kind, times in theirs.items()
        },
        "ratio": {
            kind: round(statistics.median(b / a["seconds"] for a, b in zip(ours, times, strict=True)), 2)
            for kind, times in theirs.items()
        },
    }
    print(json.dumps(found, indent=1))
    slug = re.sub(r"[^a-z0-9]+", "-", f"{named['cpu']}-{named['cores']}-cores".lower()).strip("-")
    out = chosen.out or RESULTS / f"grid-{slug}{'-quick' if chosen.quick else ''}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"machine": named, **found}, indent=1) + "\n", encoding="utf-8")
    print(f"written: {out}")


if __name__ == "__main__":
    main()
