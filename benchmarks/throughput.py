"""Training speed: the lab's own training against a bare PyTorch loop over the same model.

    uv run python benchmarks/throughput.py            # CPU: shapes A and B, ratios to the bare loop
    uv run python benchmarks/throughput.py --cuda     # scale=gpt2: tokens/s and MFU of each kernel

The bare loop is nanoGPT's (model, data access, optimizer, eager fp32) in this file's own words; `bare_fused` is the
same with AdamW's fused kernel, which nanoGPT turns on for CUDA only. The lab's arms run its real trainer: keyed
batches, metrics, log lines, run folder. Each arm is a process; they take turns in rounds, in an order that rotates;
numbers are medians over rounds.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from benchmarks.trained.bare import CPU_SHAPE, Bare, ModelShape, write_corpus
from gpt_lab import kernels
from gpt_lab.errors import ConfigError
from gpt_lab.store.record import machine
from gpt_lab.train.speed.stepwise import Load, Stepwise, kernel_speed, timed

Timer = Callable[[], float]
CLOCKS: dict[str, Timer] = {"wall": time.perf_counter, "cpu": time.process_time}
RESULTS = Path(__file__).parent / "results"

SHAPES = {"A": CPU_SHAPE, "B": ModelShape(6, 6, 384, 256, 8)}
LIKE_FOR_LIKE = ("precision=fp32", "kernel=sdpa", "compile=off")
AUTO = ("precision=auto", "kernel=auto", "compile=auto")


def same_model(shape: ModelShape, text: Path, steps: int) -> list[str]:
    """Overrides that make the lab's model the bare loop's."""
    return [
        "model=gpt2",
        "mlp=gelu",
        "norm.bias=false",
        "model.bias=false",
        "tokenizer=char",
        "tokenizer.eot=false",
        "data=text",
        f"data.path={text}",
        f"scale.depth={shape.depth}",
        f"scale.heads={shape.heads}",
        f"scale.width={shape.width}",
        f"scale.context={shape.context}",
        f"batch.tokens={shape.rows * shape.context}",
        f"budget.steps={steps}",
        "optim=adamw",
        "device=cpu",
    ]


SHORT_STEPS = 500
"""Planned steps of `lab_auto_short`: too few for compiling to pay."""

LABS: dict[str, tuple[str, ...]] = {
    "lab": LIKE_FOR_LIKE,
    "lab_auto": AUTO,
    "lab_auto_short": AUTO,
}


def serve(
    name: str, shape: ModelShape, files: tuple[Path, Path], steps: int, clock_name: str, pipe: Connection
) -> None:
    """One arm in a process of its own: facts about it, then, for every number of seconds asked for, ms per step."""
    clock = CLOCKS[clock_name]
    if clock_name == "cpu":
        torch.set_num_threads(1)
    text, tokens = files
    arm: Bare | Stepwise
    if name in LABS:
        planned = SHORT_STEPS if name == "lab_auto_short" else steps
        arm = Stepwise([*same_model(shape, text, planned), *LABS[name]], text.parent / "runs")
        plan = arm.plan
        facts: dict[str, Any] = {
            "parameters": sum(p.numel() for p in arm.trainer.model.parameters()),
            "chosen": {**plan.resolved, "reasons": dict(plan.reasons)},
            **({"compile_s": round(arm.compile_s, 1)} if plan.compile else {}),
        }
    else:
        arm = Bare(shape, tokens, fused=name == "bare_fused")
        facts = {"parameters": sum(p.numel() for p in arm.model.parameters())}
    pipe.send(facts)
    while (seconds := pipe.recv()) is not None:
        pipe.send(timed(arm.step, seconds, clock))
    pipe.send(arm.loading_ms(200, clock) if isinstance(arm, Stepwise) else None)


def take_turns(pipes: Mapping[str, Connection], rounds: int, seconds: float) -> dict[str, list[float]]:
    """Milliseconds per step of each arm in each round; each round begins with another arm."""

    def turn(name: str, length: float) -> float:
        pipes[name].send(length)
        return float(pipes[name].recv())

    names = list(pipes)
    for name in names:
        turn(name, seconds / 4)
    found: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            found[name].append(turn(name, seconds))
    return found


def measure_cpu(
    name: str, rounds: int, seconds: float, steps: int, folder: Path, clock: str, characters: int
) -> dict[str, Any]:
    """All arms at one shape, each in its own process: what one does to memory or threads is not the others' gain."""
    shape = SHAPES[name]
    files = write_corpus(folder, characters)
    spawn = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    facts: dict[str, dict[str, Any]] = {}
    for arm in ("bare", "bare_fused", *LABS):  # one after the other: compiling takes both cores
        pipes[arm], theirs = spawn.Pipe()
        spawn.Process(target=serve, args=(arm, shape, files, steps, clock, theirs), daemon=True).start()
        theirs.close()
        facts[arm] = pipes[arm].recv()
    if len({fact["parameters"] for fact in facts.values()}) > 1:
        raise SystemExit(f"the models differ: {facts}")
    found = take_turns(pipes, rounds, seconds)
    for pipe in pipes.values():
        pipe.send(None)
    loading = {arm: pipe.recv() for arm, pipe in pipes.items()}
    middle = {arm: statistics.median(times) for arm, times in found.items()}
    return {
        "shape": vars(shape),
        "parameters": facts["bare"]["parameters"],
        "budget_steps": steps,
        "ms_per_step": {arm: round(ms, 3) for arm, ms in middle.items()},
        "ms_per_round": {arm: [round(ms, 3) for ms in times] for arm, times in found.items()},
        "tokens_per_s": {arm: round(shape.rows * shape.context / ms * 1e3) for arm, ms in middle.items()},
        "ratio_to_bare": {arm: round(middle["bare"] / middle[arm], 3) for arm in LABS},
        "ratio_of_best_rounds": {arm: round(min(found["bare"]) / min(found[arm]), 3) for arm in LABS},
        "ratio_to_bare_fused": {arm: round(middle["bare_fused"] / middle[arm], 3) for arm in LABS},
        "loading_share_of_step": {arm: round(loading[arm] / middle[arm], 5) for arm in LABS},
        "chosen": {arm: facts[arm]["chosen"] for arm in LABS},
        "compile_s": {arm: facts[arm]["compile_s"] for arm in LABS if "compile_s" in facts[arm]},
    }


def measure_cuda(scale: str, rows: int, micro: int, rounds: int, seconds: float, folder: Path) -> dict[str, Any]:
    """Tokens/s and MFU of the lab's automatic choice with each kernel that this GPU has."""
    found: dict[str, Any] = {}
    load = Load(scale, rows, micro, rounds, seconds)
    for kernel in ("auto", *kernels.available()):
        try:
            found[kernel] = kernel_speed(kernel, "cuda", True, load, folder / "runs")
        except (ConfigError, torch.OutOfMemoryError) as error:
            found[kernel] = {"refused": str(error).splitlines()[0]}
    return {"scale": scale, "rows": rows, "micro": micro, "kernels": found}


def this_machine(cuda: bool) -> dict[str, Any]:
    """What the numbers belong to."""
    gpu = {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda} if cuda else {}
    load = round(os.getloadavg()[0], 2)
    return {**machine(), **gpu, "threads": torch.get_num_threads(), "torch": torch.__version__, "load_before": load}


def slug(named: dict[str, Any]) -> str:
    """The machine in a file name."""
    text = named.get("gpu") or f"{named['cpu']}-{named['cores']}-cores"
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def show(result: dict[str, Any]) -> None:
    """Ratios or rates, in a few lines."""
    for name, found in result.get("shapes", {}).items():
        for arm, ms in found["ms_per_step"].items():
            ratio = found["ratio_to_bare"].get(arm, 1.0)
            share = found["loading_share_of_step"].get(arm)
            loading = "" if share is None else f"  loading {share:.2%}"
            print(f"{name} {arm:15s} {ms:9.2f} ms/step  {ratio:5.2f} x bare{loading}")
    for kernel, found in result.get("cuda", {}).get("kernels", {}).items():
        shown = found.get("refused") or f"{found['tokens_per_s']:,} tokens/s, MFU {found['mfu']}"
        print(f"{kernel:12s} {shown}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints, writes JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shapes", default="A,B", help="which of A and B, with a comma between")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=3.0, help="least time of an arm in a round")
    clock_help = "cpu: one thread and its processor time, for a machine that is busy with other things"
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help=clock_help)
    parser.add_argument("--steps", type=int, default=20_000, help="budget that compile=auto is told (not run through)")
    parser.add_argument("--cuda", action="store_true", help="tokens/s and MFU on the GPU instead")
    parser.add_argument("--scale", default="gpt2", help="with --cuda: the size")
    parser.add_argument("--rows", type=int, default=64, help="with --cuda: sequences per step")
    parser.add_argument("--micro", type=int, default=32, help="with --cuda: sequences at a time")
    parser.add_argument(
        "--quick", action="store_true", help="seconds-long check that everything runs; numbers mean little"
    )
    parser.add_argument("--out", type=Path, default=None, help="where the JSON goes (default: results/)")
    chosen = parser.parse_args(arguments)
    rounds, seconds = (1, 0.0) if chosen.quick else (chosen.rounds, chosen.seconds)
    shapes = ["A"] if chosen.quick else chosen.shapes.split(",")
    steps, characters = (1000, 100_000) if chosen.quick else (chosen.steps, 1_000_000)
    if chosen.clock == "cpu":
        torch.set_num_threads(1)
    named = this_machine(chosen.cuda)
    result: dict[str, Any] = {"machine": named, "clock": chosen.clock, "rounds": rounds, "seconds_per_round": seconds}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GPT_LAB_CACHE"] = folder
        if chosen.cuda:
            result["cuda"] = measure_cuda(chosen.scale, chosen.rows, chosen.micro, rounds, seconds, Path(folder))
        else:
            result["shapes"] = {}
            for name in shapes:
                inner = Path(folder) / name
                inner.mkdir()
                result["shapes"][name] = measure_cpu(name, rounds, seconds, steps, inner, chosen.clock, characters)
    named["load_after"] = round(os.getloadavg()[0], 2)
    show(result)
    ending = ("-cpu-time" if chosen.clock == "cpu" else "") + ("-quick" if chosen.quick else "")
    out = chosen.out or RESULTS / f"throughput-{slug(named)}{ending}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"written: {out}")


if __name__ == "__main__":
    main()
