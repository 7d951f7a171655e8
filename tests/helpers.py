"""Small configs for tests, made without hydra, conf/ or torch; and damage to files."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt_lab.config import checked
from gpt_lab.config.schema import RunConfig

if TYPE_CHECKING:
    from gpt_lab.train.speed.pace import Pace

DEFAULTS: dict[str, Any] = {
    "attention": {"name": "mha"},
    "position": {"name": "rope"},
    "norm": {"name": "rmsnorm"},
    "mlp": {"name": "swiglu"},
    "residual": {"name": "pre"},
    "init": {"name": "normal"},
    "optim": {"name": "adamw"},
    "schedule": {"name": "cosine"},
    "precision": {"name": "fp32"},
    "kernel": {"name": "math"},
    "data": {"name": "shakespeare"},
    "tokenizer": {"name": "byte"},
    "objective": {"name": "ce"},
    "parallel": {"name": "none"},
    "tracker": {"name": "none"},
    "scale": {"name": "test", "depth": 2, "width": 32, "heads": 4, "context": 16},
    "model": {},
    "budget": {"steps": 20},
    "batch": {},
    "eval": {"every": 10},
    "checkpoint": {},
    "log": {"every": 1},
    "sample": {"tokens": 0},
}
"""What `tiny_config` says beside the defaults of the parts' classes and of config/sections.py."""
COMES_WITH = {
    "init=deepnorm": {"residual": {"name": "post", "alpha": None}},
    "objective=distill": {"objective.teacher": "nobody"},
}
"""What `tiny_config` chooses with a part that is refused without it, where an override does not choose otherwise."""


def tiny_config(**overrides: Any) -> RunConfig:
    """A RunConfig of a small model (2 layers, 32 wide, 4 heads, context 16), 4 rows a step, changed by overrides.

    Each part has the defaults of its class. An override names
    - a part: `attention="gqa"` (its defaults) or `attention={"name": "gqa", "kv_heads": 2}` (these options over them);
    - a dotted key, through a dict: `tiny_config(attention="gqa", **{"attention.kv_heads": 2, "scale.width": 64})`;
    - a fixed key: `seed=3`, `study="a"`.
    A budget other than steps replaces the default: `**{"budget.tokens": 1e5}`.

    Raises:
        ConfigError: as config.from_dict: unknown, missing, of the wrong type, out of range, impossible together.
    """
    tree = {key: dict(section) for key, section in DEFAULTS.items()}
    chosen = [f"{key}={value}" for key, value in overrides.items()]
    overrides = {key: value for one in chosen for key, value in COMES_WITH.get(one, {}).items()} | overrides
    flat = {key: value for key, value in overrides.items() if "." not in key}
    for key, value in flat.items():
        tree[key] = {"name": value} if key in tree and isinstance(value, str) else value
    if any(key.startswith("budget.") for key in overrides):
        tree["budget"] = {}
    for key, value in overrides.items():
        if "." in key:
            section, _, name = key.partition(".")
            tree.setdefault(section, {})[name] = value
    tree["batch"].setdefault("tokens", 4 * tree["scale"]["context"])
    return checked.from_dict(tree)


def pace(**changes: Any) -> Pace:
    """What timing a few steps might give, in seconds that are easy to tell apart."""
    from gpt_lab.train.speed.pace import Pace

    known = {
        "start": 1.0,
        "compile": 0.0,
        "step": 0.1,
        "save": 0.01,
        "sample": 0.5,
        "validation": {1: 1e-5},
        "share": 1,
    }
    return Pace(**{**known, **changes})


def stand_in(new: Iterable[tuple[str, RunConfig, Any]], machine: Any, known: dict[str, Any]) -> bool:
    """For gpt_lab.plan.paces._measure, which takes seconds and another process."""
    for key, _, plan in new:
        known[key] = (pace(validation={1: 1e-5} | dict.fromkeys(plan.longer, 2e-5)), 3.0)
    return False


def flip(folder: Path, name: str, where: float = 0.5, count: int = 64) -> None:
    """Flips a bit in each of `count` bytes of a file, from this share of its length on; its times stay as they were."""
    path = folder / name
    data, times = bytearray(path.read_bytes()), path.stat()
    start = round(where * max(0, len(data) - count))
    for at in range(start, min(start + count, len(data))):
        data[at] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
