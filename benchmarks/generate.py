"""Speed of generation: the lab's against `generate` of Hugging Face's transformers with its cache, of the same weights.

    uv run python benchmarks/generate.py

Llama-shaped models of random weights at scale=nano and scale=small, exported to transformers' own class. Each continues
prompts of 32 tokens by 256, always the likeliest one: `scales` of the JSON on one thread each, `own_threads` on those
that each side takes by itself (`--threads own`; both take torch's, one a core, so that needs idle cores). Each side is
a process; they take turns, in an order that alternates. Batches are of different prompts. Ratios are of processor time
and of wall time, medians over rounds. `alike` is the share of tokens up to which both texts are the same: of random
weights two logits are near each other now and then, and sums in another order let the other one win.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from gpt_lab.store.record import machine

RESULTS = Path(__file__).parent / "results" / "generate.json"
PROMPT, NEW = 32, 256
MODELS = {"nano": 256, "small": 8192}
"""Scales, and the vocabulary at each."""
BATCHES = (1, 16)
THREADS: dict[str, tuple[str, int | None]] = {"one": ("scales", 1), "own": ("own_threads", None)}
"""What each word of `--threads` is in the JSON, and the number; None: what each side takes by itself."""
Write = Callable[[list[list[int]], int], list[list[int]]]


def lab(scale: str) -> Write:
    """The lab's generation."""
    import torch

    from gpt_lab.infer.generate import complete, gathered
    from gpt_lab.infer.light_layers import lighten
    from gpt_lab.infer.several import generate_several

    model, _ = models(scale)
    lighten(model)

    @torch.inference_mode()
    def write(prompts: list[list[int]], new: int) -> list[list[int]]:
        if len(prompts) == 1:
            return complete(model, prompts[0], max_tokens=new, temperature=0.0)
        return gathered(generate_several(model, prompts, max_tokens=new, temperature=0.0), len(prompts))

    return write


def transformers(scale: str) -> Write:
    """That of transformers, with its cache and its default attention."""
    import torch

    from gpt_lab.export import hugging_face
    from gpt_lab.interchange import convert

    hugging_face.quiet()
    ours, cfg = models(scale)
    theirs = convert.opened(*convert.to_hf(ours, cfg)).eval()

    def write(prompts: list[list[int]], new: int) -> list[list[int]]:
        tokens = torch.tensor(prompts)
        with torch.inference_mode():
            found = theirs.generate(
                tokens,
                attention_mask=torch.ones_like(tokens),
                max_new_tokens=new,
                min_new_tokens=new,
                do_sample=False,
                use_cache=True,
                pad_token_id=0,
            )
        return found[:, len(prompts[0]) :].tolist()

    return write


def models(scale: str) -> tuple[Any, Any]:
    """The lab's model of random weights, and its config."""
    from gpt_lab.config import composition
    from gpt_lab.model.gpt import GPT, initialize

    cfg = composition.compose(["model=llama", f"scale={scale}", "kernel=math"])
    model = GPT(cfg, MODELS[scale])
    initialize(model, cfg)
    model.choose_kernels("cpu", "fp32")
    return model.eval(), cfg


SIDES: dict[str, Callable[[str], Write]] = {"lab": lab, "transformers": transformers}


def serve(side: str, scale: str, threads: int | None, calls: Connection) -> None:
    """A process: for each prompts and number, the texts, seconds of processor and of wall. threads: None: its own."""
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    write = SIDES[side](scale)
    while (asked := calls.recv()) is not None:
        cpu, wall = time.process_time(), time.perf_counter()
        texts = write(*asked)
        calls.send((texts, time.process_time() - cpu, time.perf_counter() - wall))


def alike(one: list[int], other: list[int]) -> float:
    """The share of two texts, equally long, that comes before their first difference."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=True)) if a != b), len(one)) / len(one)


def measure(scale: str, batches: Sequence[int], new: int, rounds: int, threads: int | None) -> dict[str, Any]:
    """By batch: tokens/s of each side, and the ratios."""
    import random

    spawn, draw = multiprocessing.get_context("spawn"), random.Random(0)
    pipes, found = {}, {}
    for side in SIDES:
        here, there = spawn.Pipe()
        spawn.Process(target=serve, args=(side, scale, threads, there), daemon=True).start()
        pipes[side] = here
    for rows in batches:
        prompts = [[draw.randrange(MODELS[scale]) for _ in range(PROMPT)] for _ in range(rows)]
        cpu: dict[str, list[float]] = {side: [] for side in SIDES}
        wall: dict[str, list[float]] = {side: [] for side in SIDES}
        for turn in range(rounds + 1):
            texts = {}
            for side in list(SIDES)[:: 1 if turn % 2 else -1]:
                pipes[side].send((prompts, new))
                texts[side], *seconds = pipes[side].recv()
                if turn:  # the first is to warm up
                    cpu[side].append(seconds[0])
                    wall[side].append(seconds[1])
        spent = {"cpu": cpu, "wall": wall}
        ratio = {clock: [b / a for a, b in zip(*of.values(), strict=True)] for clock, of in spent.items()}
        found[str(rows)] = {
            "ratio_cpu": round(statistics.median(ratio["cpu"]), 2),
            "ratio_wall": round(statistics.median(ratio["wall"]), 2),
            "alike": round(statistics.mean(map(alike, *texts.values())), 2),
            "ratios_cpu": [round(one, 2) for one in ratio["cpu"]],
            "tokens_per_cpu_s": {side: round(rows * new / statistics.median(spent)) for side, spent in cpu.items()},
            "tokens_per_s": {side: round(rows * new / statistics.median(spent)) for side, spent in wall.items()},
        }
        print(f"{scale}, batch {rows}, threads {threads or 'own'}: {found[str(rows)]}", flush=True)
    for pipe in pipes.values():
        pipe.send(None)
    return found


def main() -> None:
    import importlib.metadata

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few tokens, one round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--scales", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--batches", nargs="+", type=int, default=list(BATCHES))
    parser.add_argument("--threads", nargs="+", default=["one"], choices=list(THREADS))
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    new, rounds = (8, 1) if args.quick else (NEW, args.rounds)
    load = os.getloadavg()[0]
    found = {
        name: {scale: measure(scale, args.batches, new, rounds, threads) for scale in args.scales}
        for name, threads in (THREADS[word] for word in args.threads)
    }
    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers")}
    result = {
        "machine": machine() | versions,
        "load_before": round(load, 1),
        "load_after": round(os.getloadavg()[0], 1),
        "prompt": PROMPT,
        "new": new,
        "rounds": rounds,
        "vocabulary": {scale: MODELS[scale] for scale in args.scales},
    } | found
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"written: {args.out}")


if __name__ == "__main__":
    main()
