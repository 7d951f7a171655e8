"""What `probe=light` costs: one evaluation's look against the steps between two, in processor time.

    uv run python benchmarks/trained/probe_cost.py

The lab's trainer on two scales, at the default cadence (eval.every): plain steps, and then the step that is watched
with the line that is written, take turns in rounds; the share is the median of what a watched step takes more, over the
steps between two evaluations.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.throughput import RESULTS, slug, this_machine
from gpt_lab.train.probe.light_probe import LightProbe
from gpt_lab.train.speed.stepwise import Stepwise

SCALES = ("tiny", "small")


def measure(scale: str, rounds: int, folder: Path) -> dict[str, Any]:
    """Milliseconds of a plain step and of a watched one with its line, and the share of training time."""
    words = [f"scale={scale}", "data=synthetic", "data.symbols=255", "device=cpu", "precision=fp32", "compile=off"]
    lab = Stepwise([*words, "budget.steps=20000", "probe=light", f"study={scale}"], folder)
    trainer = lab.trainer
    probe, every = trainer.stepper.probe, trainer.cfg.eval.every
    assert isinstance(probe, LightProbe), "the config asks for it"
    lab.step()
    plain, watched = [], []
    for _ in range(rounds):
        trainer.stepper.probe = None
        start = time.process_time()
        for _ in range(4):
            trainer.step()
        plain.append((time.process_time() - start) / 4 * 1e3)
        trainer.stepper.probe, probe.every = probe, 1
        start = time.process_time()
        trainer.step()
        trainer.stepper.note(trainer.state.step)
        watched.append((time.process_time() - start) * 1e3)
    more = [b - a for a, b in zip(plain, watched, strict=True)]
    return {
        "every": every,
        "ms_per_step": round(statistics.median(plain), 2),
        "ms_watched": round(statistics.median(watched), 2),
        "share": round(statistics.median(more) / statistics.median(plain) / every, 5),
        "parameters": trainer.plan.cost.parameters,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints, writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one scale, a few rounds: does it run?")
    parser.add_argument("--out", type=Path, help="the JSON file")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    result: dict[str, Any] = {"machine": this_machine(False), "scales": {}}
    with tempfile.TemporaryDirectory() as folder:
        for scale in SCALES[: 1 if asked.quick else None]:
            found = result["scales"][scale] = measure(scale, 3 if asked.quick else 15, Path(folder))
            print(f"{scale}: a step {found['ms_per_step']} ms, watched {found['ms_watched']} ms: {found['share']:.2%}")
    out = asked.out or RESULTS / f"probe_cost-{slug(result['machine'])}.json"
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"written: {out}")


if __name__ == "__main__":
    main()
