"""Run folders made by hand, through the store: what a report reads, without training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpt_lab.config.schema import RunConfig
from gpt_lab.store import Run
from tests.helpers import tiny_config

TOKENS = 20 * 64


def summary(bpb: float, **changes: Any) -> dict[str, Any]:
    """What a finished run of `tiny_config` leaves."""
    return {
        "val/bpb": bpb,
        "val/loss": bpb * 1.2,
        "steps": 20,
        "tokens": TOKENS,
        "flops": TOKENS * 6000.0,
        "seconds": 2.5,
        "parameters": 1000,
        "parameters_non_embedding": 800,
        "perf/tokens_per_s": TOKENS / 2.5,
        "perf/peak_memory_gb": 0.5,
        "floor/unigram": 3.9,
        "floor/bigram": 2.7,
        "floor/trigram": 2.1,
        **changes,
    }


def save(root: Path, cfg: RunConfig, **fields: Any) -> Run:
    """The folder of a run that has just begun, in root/<study>, named by its settings."""
    record = {
        "signature": cfg.identity(),
        "config": cfg.flat(),
        "git": {"commit": "a" * 40, "dirty": False},
        "hardware": {"cpu": "a CPU", "cores": 2, "threads": 1, "system": "Linux"},
        "packages": {"python": "3.11.7", "torch": "2.11.0"},
        "resolved": {"device": "cpu", "precision": "fp32", "kernel": "math", "compile": "off", "data": "fingerprint"},
        "command": f"train position={cfg.position['name']} seed={cfg.seed}",
        "parameters": 1000,
        "parameters_non_embedding": 800,
        "train_flops_per_token": 6000.0,
        **fields,
    }
    name = f"{cfg.position['name']}-{cfg.optim['name']}-lr{cfg.optim['lr']}-seed{cfg.seed}"
    return Run.create(root, cfg.study, name, cfg.to_dict(), record)


def finished(root: Path, bpb: float, *, fields: Mapping[str, Any] | None = None, **settings: Any) -> Run:
    """A finished run with two lines of metrics and this final result."""
    run = save(root, tiny_config(**{"study": "pos", **settings}), **(fields or {}))
    for step, extra in ((10, 0.5), (20, 0.0)):
        run.log(step, {"val/bpb": bpb + extra}, tokens=64.0 * step, flops=64.0 * step * 6000, seconds=step / 8)
    run.finish("finished", summary(bpb))
    return run


def study(root: Path, arms: Mapping[str, float], seeds: int = 3, **settings: Any) -> Path:
    """A study `pos` of position encodings: bits per byte are 2.5 + the arm's effect + the seed's."""
    for position, effect in arms.items():
        for seed in range(seeds):
            wobble = 0.002 * math.sin(7 * seed + 3 * len(position))
            finished(root, 2.5 + effect + 0.01 * seed + wobble, position=position, seed=seed, **settings)
    return root / "pos"
