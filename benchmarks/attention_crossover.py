"""At which context SDPA overtakes plain matrix products in attention on the CPU, forward and backward.

    uv run python benchmarks/attention_crossover.py           # writes results/attention_crossover.json

Both kernels as the lab calls them, from one fused (B, T, 3D) projection to its gradient. They take turns; each number
is the fastest of the rounds, in milliseconds: processor time on one thread, elapsed time on several (run those on an
idle machine: threads that wait for each other make any load look like a slow kernel). CPU_MATH_CONTEXT in
gpt_lab/kernels/choose.py follows from the results.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gpt_lab import kernels
from gpt_lab.parts.position.alibi import alibi_slopes
from gpt_lab.store.record import machine

OUT = Path(__file__).parent / "results" / "attention_crossover.json"
CONTEXTS = (32, 64, 128, 256, 512, 1024, 2048)
TOKENS = 1024
"""Tokens of a pass at every context, so that the rest of a model would cost the same."""
HEADS = ((4, 32), (6, 64))
"""(heads, head dimension): of shape A and of shape B in throughput.py."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
MASKS = ("causal", "window", "alibi")


def one_pass(x: Tensor, grad: Tensor, heads: int, kernel: str, options: dict[str, Any]) -> None:
    """Attention of a fused projection (B, T, 3D), and the gradient of that."""
    batch, length, width = grad.shape
    q, k, v = (t.view(batch, length, heads, -1).transpose(1, 2) for t in x.split(width, dim=-1))
    y = kernels.attention(q, k, v, kernel=kernel, scale=(width // heads) ** -0.5, **options)
    torch.autograd.grad(y.transpose(1, 2).reshape(batch, length, width), x, grad)


def measure(
    threads: int, dtype: str, heads: int, head_dim: int, context: int, mask: str, least: float
) -> dict[str, Any]:
    """Milliseconds of each kernel: the fastest of at least 5 rounds and `least` seconds."""
    torch.set_num_threads(threads)
    rows = max(1, TOKENS // context)
    x = torch.randn(rows, context, 3 * heads * head_dim, dtype=DTYPES[dtype], requires_grad=True)
    grad = torch.randn(rows, context, heads * head_dim, dtype=DTYPES[dtype])
    masks: dict[str, dict[str, Any]] = {
        "causal": {},
        "window": {"window": max(1, context // 4)},
        "alibi": {"slopes_H": torch.tensor(alibi_slopes(heads))},
    }
    best = dict.fromkeys(("math", "sdpa"), float("inf"))
    clock = time.process_time if threads == 1 else time.perf_counter
    start, rounds = time.perf_counter(), 0
    while rounds < 5 or time.perf_counter() - start < least:
        for kernel in best:
            before = clock()
            one_pass(x, grad, heads, kernel, masks[mask])
            best[kernel] = min(best[kernel], 1e3 * (clock() - before))
        rounds += 1
    return {
        "threads": threads,
        "dtype": dtype,
        "heads": heads,
        "head_dim": head_dim,
        "context": context,
        "mask": mask,
        **{f"{kernel}_ms": round(value, 3) for kernel, value in best.items()},
        "math_over_sdpa": round(best["math"] / best["sdpa"], 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--contexts", type=int, nargs="+", default=CONTEXTS)
    parser.add_argument("--seconds", type=float, default=1.0, help="per measurement, at least")
    parser.add_argument("--out", type=Path, default=OUT)
    chosen = parser.parse_args()
    load = round(os.getloadavg()[0], 1)
    rows = []
    for threads, dtype, (heads, head_dim), mask, context in itertools.product(
        chosen.threads, DTYPES, HEADS, MASKS, chosen.contexts
    ):
        row = measure(threads, dtype, heads, head_dim, context, mask, chosen.seconds)
        print(*(f"{key}={value}" for key, value in row.items()), flush=True)
        rows.append(row)
    found = {"machine": machine(), "torch": torch.__version__, "load_before": load, "tokens": TOKENS, "rows": rows}
    chosen.out.parent.mkdir(exist_ok=True)
    chosen.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
