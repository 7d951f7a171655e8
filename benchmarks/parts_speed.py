"""What each attention, MLP and residual costs in training speed, at equal parameters.

    uv run python benchmarks/parts_speed.py                          # CPU: every part, contexts 256 and 512
    uv run python benchmarks/parts_speed.py --cuda                   # GPU: bf16, compiled, with peak memory
    uv run python benchmarks/parts_speed.py --only attention mlp=moe

Each arm changes one part of Llama's block (mha, swiglu, pre) and is matched to it in parameters that a token uses
(`match=params`: the MLP's hidden width, else depth or width). An arm is the lab's own trainer in a process of its own,
forward, backward and step; a few arms and the baseline take turns in rounds, and an arm's ratio is to the baseline of
its own company, medians over rounds.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from benchmarks.throughput import CLOCKS, RESULTS, slug, take_turns, this_machine
from gpt_lab import registry
from gpt_lab.errors import ConfigError, unknown
from gpt_lab.train.speed.stepwise import Stepwise, timed

BASELINE = {"attention": "mha", "mlp": "swiglu", "residual": "pre"}
QUICK = ("attention=gqa", "mlp=moe", "residual=parallel")
SIZES = {"depth": 4, "width": 256, "heads": 4}
SIZES_CUDA = {"depth": 12, "width": 768, "heads": 12}
SIZES_QUICK = {"depth": 2, "width": 64, "heads": 4}
CPU, CUDA = ("device=cpu", "precision=fp32", "compile=off"), ("device=cuda", "precision=bf16", "compile=on")
Settings = Sequence[str]


def arms(only: Sequence[str]) -> list[str]:
    """`kind=name` of every part, or of those that are asked for by kind or by kind=name; the baseline is none.

    Raises:
        ConfigError: there is no such kind or part.
    """
    every = [f"{kind}={name}" for kind in BASELINE for name in registry.index()[kind] if name != BASELINE[kind]]
    for asked in only:
        if asked not in (*BASELINE, *every):
            raise ConfigError(unknown("part", asked, [*BASELINE, *every]))
    return [arm for arm in every if not only or arm in only or arm.partition("=")[0] in only]


def settings(sizes: dict[str, int], context: int, tokens: int, arm: str) -> list[str]:
    """Overrides of one arm; of the baseline where the arm is "baseline"."""
    fixed = [f"scale.{key}={value}" for key, value in sizes.items()]
    fixed += [f"scale.context={context}", f"batch.tokens={tokens}", "budget.steps=20000"]
    fixed += ["data=synthetic", "data.symbols=255", "model=llama", "model.tied=true"]
    return fixed if arm == "baseline" else [*fixed, arm, "match=params"]


def serve(overrides: Settings, folder: Path, clock_name: str, pipe: Connection) -> None:
    """One arm in a process of its own: facts about it, then, for every number of seconds asked for, ms per step.

    A second None at the end asks for the peak of GPU memory in GB; a refusal is the only fact, and the end.
    """
    if clock_name == "cpu":
        torch.set_num_threads(1)
    try:
        lab = Stepwise(overrides, folder)
    except (ConfigError, torch.OutOfMemoryError) as error:
        pipe.send({"refused": str(error).splitlines()[0]})
        return
    cfg, cost, cuda = lab.trainer.cfg, lab.plan.cost, "device=cuda" in overrides
    pipe.send(
        {
            "parameters": cost.active,
            "train_flops_per_token": cost.train_flops_per_token,
            "sizes": {"d_ff": cfg.mlp.get("d_ff"), "depth": cfg.scale.depth, "width": cfg.scale.width},
            "kernel": lab.plan.resolved.get("kernel"),
            **({"compile_s": round(lab.compile_s, 1)} if lab.plan.compile else {}),
        }
    )
    wait = torch.cuda.synchronize if cuda else lambda: None
    while (seconds := pipe.recv()) is not None:
        pipe.send(timed(lab.step, seconds, CLOCKS[clock_name], wait))
    pipe.send(torch.cuda.max_memory_allocated() / 1e9 if cuda else None)


def company(
    chosen: Sequence[str], words: dict[str, list[str]], rounds: int, seconds: float, clock: str, folder: Path
) -> dict[str, dict[str, Any]]:
    """What a few arms and the baseline, which take turns, do: facts and milliseconds of a step of each."""
    spawn = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    processes = []
    found: dict[str, dict[str, Any]] = {}
    for arm in ("baseline", *chosen):  # one after the other: compiling takes all cores
        ours, theirs = spawn.Pipe()
        processes.append(spawn.Process(target=serve, args=(words[arm], folder / "runs", clock, theirs), daemon=True))
        processes[-1].start()
        theirs.close()
        found[arm] = ours.recv()
        if "refused" not in found[arm]:
            pipes[arm] = ours
    if "baseline" not in pipes:
        raise SystemExit(f"the baseline cannot be trained: {found['baseline']['refused']}")
    for arm, times in take_turns(pipes, rounds, seconds).items():
        found[arm]["ms_per_step"] = round(statistics.median(times), 3)
        found[arm]["ms_per_round"] = [round(ms, 3) for ms in times]
    for arm, pipe in pipes.items():
        pipe.send(None)
        peak = pipe.recv()
        if peak is not None:
            found[arm]["peak_memory_gb"] = round(peak, 3)
    for process in processes:
        process.join()
    return found


def measure(
    chosen: Sequence[str], words: dict[str, list[str]], together: int, tokens: int, **how: Any
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each arm with its speed as a share of the baseline's; the baseline last, with the median of all companies."""
    baselines = []
    for first in range(0, len(chosen), together):
        found = company(chosen[first : first + together], words, **how)
        baseline = found.pop("baseline")
        baselines.append(baseline)
        for arm, one in found.items():
            if "refused" not in one:
                one["tokens_per_s"] = round(tokens / one["ms_per_step"] * 1e3)
                one["speed"] = round(baseline["ms_per_step"] / one["ms_per_step"], 3)
            yield arm, one
    middle = statistics.median(each["ms_per_step"] for each in baselines)
    yield "baseline", baselines[0] | {"ms_per_step": middle, "tokens_per_s": round(tokens / middle * 1e3), "speed": 1.0}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints, writes JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[], help="kinds or parts, such as attention or mlp=moe")
    parser.add_argument("--contexts", type=int, nargs="+", default=None, help="256 512; with --cuda 1024 4096")
    parser.add_argument("--tokens", type=int, default=None, help="of a step: 2048; with --cuda 32768")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="least time of an arm in a round")
    parser.add_argument("--together", type=int, default=6, help="arms that take turns with a baseline of their own")
    clock_help = "cpu: one thread and its processor time, for a machine that is busy with other things"
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help=clock_help)
    parser.add_argument("--cuda", action="store_true", help="on the GPU, in bf16 and compiled, with peak memory")
    parser.add_argument(
        "--quick", action="store_true", help="seconds-long check that everything runs; numbers mean little"
    )
    parser.add_argument("--out", type=Path, default=None, help="where the JSON goes (default: results/)")
    asked = parser.parse_args(arguments)
    rounds, seconds = (1, 0.0) if asked.quick else (asked.rounds, asked.seconds)
    try:
        chosen = arms(asked.only or (QUICK if asked.quick else ()))
    except ConfigError as error:
        raise SystemExit(str(error)) from None
    contexts = asked.contexts or ((32,) if asked.quick else (1024, 4096) if asked.cuda else (256, 512))
    tokens = asked.tokens or (128 if asked.quick else 32768 if asked.cuda else 2048)
    sizes = SIZES_QUICK if asked.quick else SIZES_CUDA if asked.cuda else SIZES
    named = this_machine(asked.cuda)
    result: dict[str, Any] = {
        "machine": named,
        "clock": asked.clock,
        "rounds": rounds,
        "seconds_per_round": seconds,
        "sizes": sizes,
        "tokens_per_step": tokens,
        "baseline": BASELINE,
        "contexts": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GPT_LAB_CACHE"] = folder
        for context in contexts:
            kept = result["contexts"][str(context)] = {}
            device = CUDA if asked.cuda else CPU
            words = {arm: [*settings(sizes, context, tokens, arm), *device] for arm in ("baseline", *chosen)}
            how = {"rounds": rounds, "seconds": seconds, "clock": asked.clock, "folder": Path(folder)}
            for arm, found in measure(chosen, words, asked.together, tokens, **how):
                kept[arm] = found
                said = found.get("refused") or f"{found['tokens_per_s']:>9,} tokens/s  {found['speed']:6.3f} x baseline"
                memory = f"  {found['peak_memory_gb']:.2f} GB" if "peak_memory_gb" in found else ""
                print(f"context {context:5d}  {arm:26s} {said}{memory}", flush=True)
    named["load_after"] = round(os.getloadavg()[0], 2)
    ending = ("-cpu-time" if asked.clock == "cpu" else "") + ("-quick" if asked.quick else "")
    out = asked.out or RESULTS / f"parts_speed-{slug(named)}{ending}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"written: {out}")


if __name__ == "__main__":
    main()
