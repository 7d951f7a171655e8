"""Memory and time of the loss at GPT-2's vocabulary: all logits at once, and some tokens at a time.

    uv run python benchmarks/trained/loss_memory.py

Forward and backward pass of head and cross-entropy alone, in fp32 on the CPU: hidden states and a head of random
numbers. Each arm is a process of its own, whose peak is what the system says of its resident memory, less what it had
before the pass; times are processor time on one thread, medians over rounds. `torch` is
torch.nn.functional.linear_cross_entropy (torch 2.13 and later) as it chunks by itself.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.throughput import RESULTS, slug, this_machine
from gpt_lab.cost.loss_chunks import CHUNK
from gpt_lab.parts.objective.base import Projection
from gpt_lab.parts.objective.ce import CrossEntropy
from gpt_lab.parts.objective.chunked import LossRule, chunked_sums
from gpt_lab.train.speed.freed_memory import keep_freed_memory

VOCAB = 50304
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def whole(x_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
    """As chunked_loss=off computes it."""
    return CrossEntropy()(F.linear(x_ND, weight_VD), targets_N).loss


def in_chunks(numbers: int) -> Loss:
    """The lab's, so many logits at a time."""

    def loss(x_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
        vocab = len(weight_VD)
        rule = LossRule(0.0, 0.0, max(1, numbers // vocab))
        return chunked_sums(Projection(x_ND, weight_VD, vocab, None), targets_N, rule)[0] / len(targets_N)

    return loss


def torchs(x_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
    """torch's own."""
    asked: Any = torch.nn
    found: Any = F
    loss: Tensor = found.linear_cross_entropy(x_ND, weight_VD, targets_N, options=asked.LinearCrossEntropyOptions())
    return loss


def arms() -> dict[str, Loss]:
    """By name; `chunked` is what the lab takes on a CPU."""
    there = {"torch": torchs} if hasattr(F, "linear_cross_entropy") else {}
    sizes = {f"chunked 2^{power}": in_chunks(2**power) for power in (22, 26)}
    return {"whole": whole, "chunked": in_chunks(CHUNK["cpu"]), **sizes, **there}


def peak_bytes() -> int:
    """The most resident memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def serve(name: str, tokens: int, width: int, vocab: int, rounds: int, pipe: Connection) -> None:
    """One arm in a process of its own: its peak, its times, its loss and its gradients' sizes."""
    torch.set_num_threads(1)
    keep_freed_memory()  # as training does
    torch.manual_seed(0)
    x_ND = torch.randn(tokens, width, requires_grad=True)
    weight_VD = (torch.randn(vocab, width) / width**0.5).requires_grad_()
    targets_N = torch.randint(vocab, (tokens,))
    loss, times, before = arms()[name], [], peak_bytes()
    for _ in range(rounds):
        x_ND.grad = weight_VD.grad = None
        start = time.process_time()
        value = loss(x_ND, weight_VD, targets_N)
        value.backward()
        times.append(time.process_time() - start)
    assert x_ND.grad is not None and weight_VD.grad is not None
    pipe.send(
        {
            "peak_mb": round((peak_bytes() - before) / 1e6),
            "seconds": round(statistics.median(times), 3),
            "loss": value.item(),
            "grad_norms": [x_ND.grad.norm().item(), weight_VD.grad.norm().item()],
        }
    )


def measure(tokens: int, width: int, vocab: int, rounds: int) -> dict[str, Any]:
    """Every arm, one after the other."""
    spawn = multiprocessing.get_context("spawn")
    found = {}
    for name in arms():
        ours, theirs = spawn.Pipe()
        process = spawn.Process(target=serve, args=(name, tokens, width, vocab, rounds, theirs))
        process.start()
        found[name] = ours.recv()
        process.join()
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints, writes JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="seconds-long check that everything runs")
    parser.add_argument("--out", type=Path, default=None, help="where the JSON goes (default: results/)")
    chosen = parser.parse_args(arguments)
    tokens, width, vocab, rounds = chosen.tokens, chosen.width, VOCAB, chosen.rounds
    if chosen.quick:
        tokens, width, vocab, rounds = 256, 16, 30000, 1
    named = this_machine(False)
    found = measure(tokens, width, vocab, rounds)
    for name, one in found.items():
        print(f"{name:14s} {one['peak_mb']:6,d} MB above the start  {one['seconds']:7.3f} s")
    result = {"machine": named, "tokens": tokens, "width": width, "vocabulary": vocab, "rounds": rounds, "arms": found}
    out = chosen.out or RESULTS / f"loss_memory-{slug(named)}{'-quick' if chosen.quick else ''}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"written: {out}")


if __name__ == "__main__":
    main()
