"""What has been seen to run on a GPU, from the committed results of `doctor --cuda` and `doctor --mps`. No torch.

scripts/generate.py writes gpu_runs.json from benchmarks/results/device-*.json; nothing in it is typed.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping

from gpt_lab import project

PATH = project.PACKAGE / "devices" / "gpu_runs.json"
KINDS = ("kernel", "precision", "parallel")
"""Groups whose options a GPU runs by other code than a CPU."""
ONLY_THERE = ("kernel=flash_attn", "kernel=flex", "precision=tf32", "precision=fp8")
"""What runs on a GPU alone, so that no test on a CPU has run it."""
NEVER = "never run on a GPU"


@functools.cache
def read() -> Mapping[str, list[str]]:
    """What ran (a step of the check, such as kernel=sdpa) -> on which GPUs."""
    found: Mapping[str, list[str]] = json.loads(PATH.read_text(encoding="utf-8"))
    return found


def said(what: str) -> str:
    """Where it has run, as words behind a name."""
    gpus = read().get(what, [])
    return f"has run on {', '.join(gpus)}" if gpus else NEVER


def mark(kind: str, name: str) -> str:
    """What `components` says of a part that a GPU runs by code of its own; "" of any other."""
    return f"On a GPU: {said(f'{kind}={name}')}" if kind in KINDS and name not in ("auto", "none") else ""
