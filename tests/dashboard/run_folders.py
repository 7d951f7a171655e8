"""A small run store, written as training writes it."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

from gpt_lab.store import Run


def config(position: str = "rope", seed: int = 0, **more: Any) -> dict[str, Any]:
    """A few keys of a flat config, of every kind of value."""
    return {
        "position.name": position,
        "attention.qkv_bias": None,
        "norm.gain": True,
        "optim.lr": 0.002,
        "optim.eps": 1e-8,
        "seed": seed,
        "study": "pos_enc",
        "label": "",
        **more,
    }


def make(runs_dir: Path, study: str, name: str, steps: int = 0, **settings: Any) -> Run:
    """A run with `steps` lines, and a validation at the last of them."""
    flat = config(**settings)
    record = {"signature": f"sig-{study}-{name}", "config": flat, "parameters": 1000, "seed": flat["seed"]}
    run = Run.create(runs_dir, study, name, {"seed": flat["seed"]}, record)
    log(run, 1, steps)
    if steps:
        run.log(steps, {"val/bpb": 2.0 + flat["seed"] / 10}, tokens=steps * 64, seconds=steps / 10)
    return run


def log(run: Run, first: int, last: int) -> None:
    """Training lines of steps first to last."""
    for step in range(first, last + 1):
        values = {"train/loss": 5.0 - step / 100, "train/lr": 1e-3}
        run.log(step, values, tokens=step * 64, flops=step * 1e6, seconds=step / 10)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody has: tests that run at once would look for the same one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
