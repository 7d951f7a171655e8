"""Which recipe for short runs lets a paired comparison see most: warm-up, rate, beta2, clipping, initial values.

    uv run python benchmarks/recipes.py
    uv run python benchmarks/recipes.py --runs-dir DIR micro-300

Every recipe trains the same arms (three position encodings, another norm, another feed-forward layer) with the same
seeds. The figure of merit is the deviation of a pair's difference, which decides how many seeds a verdict needs; then
come the baseline's bits per byte, and whether any arm is crippled. With --runs-dir a block that was stopped goes on.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from gpt_lab.store.find import all_runs
from gpt_lab.store.record import machine

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results" / "recipes.json"
SWEEP = [sys.executable, "-c", "from gpt_lab.cli.sweep import main; main()"]
BASELINE = {"position": "rope", "norm": "rmsnorm", "mlp": "swiglu"}
ARMS = {
    "baseline": {},
    "alibi": {"position": "alibi"},
    "learned": {"position": "learned"},
    "layernorm": {"norm": "layernorm"},
    "gelu": {"mlp": "gelu"},
    "learned and gelu": {"position": "learned", "mlp": "gelu"},
}
"""What each arm changes in the baseline."""
COMMON = [
    *("eval.tokens=16384", "sample.tokens=0", "tracker=none", "device=cpu", "compile=off"),
    *("schedule=cosine", "schedule.warmup=0.25", "init=normal", "init.std=0.02"),
    *("optim=adamw", "optim.lr=0.004", "optim.beta2=0.99", "optim.clip=1.0", "optim.weight_decay=0.1"),
]
"""Stated in full, so that no default can change what a recipe is. Each recipe changes some of it."""
QUICK = [
    *("scale.depth=1", "scale.width=32", "scale.heads=2", "scale.context=32", "batch.tokens=128", "eval.tokens=256"),
    *("data.val_fraction=0.01", "tokenizer=byte", "budget.steps=4", "eval.every=4"),
]


@dataclasses.dataclass(frozen=True)
class RecipeBlock:
    """Recipes that are compared with each other: one model, one length, the same arms and seeds."""

    scale: str
    steps: int
    seeds: int
    arms: tuple[str, ...]
    recipes: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.scale}-{self.steps}"

    def sweep(self) -> dict[str, Any]:
        """The block's grid, every cell that is no arm left out."""
        arms = [BASELINE | ARMS[arm] for arm in self.arms]
        values = {key: list(dict.fromkeys(arm[key] for arm in arms)) for key in BASELINE}
        grid: list[dict[str, str]] = [{}]
        for key, choices in values.items():
            grid = [cell | {key: choice} for cell in grid for choice in choices]
        left_out = [cell for cell in grid if cell not in arms]
        return {
            "method": "grid",
            "metric": {"name": "val/bpb", "goal": "minimize"},
            "parameters": {
                **{key: {"values": choices} for key, choices in values.items()},
                "seed": {"values": list(range(self.seeds))},
            },
            "gpt_lab": {"baseline": BASELINE, **({"exclude": left_out} if left_out else {})},
        }


RECIPES = {
    "w05": ["schedule.warmup=0.05"],
    "w25": [],
    "w50": ["schedule.warmup=0.5"],
    "lr6": ["optim.lr=0.006"],
    "b95": ["optim.beta2=0.95"],
    "lr6b95": ["optim.beta2=0.95", "optim.lr=0.006"],
    "std7b95": ["optim.beta2=0.95", "init.std=0.07"],
    "std5b95": ["optim.beta2=0.95", "init.std=0.05"],
}
"""What each changes in COMMON: w is the warm-up in %, lr the rate in thousandths, b beta2 in %, std that of the initial
values in hundredths."""
CHOSEN = "std5b95"
"""The recipe whose values are the defaults: at these widths initial values have a deviation of 0.049 and 0.05."""
BLOCKS = [
    RecipeBlock(
        *("micro", 300, 4, ("baseline", "alibi", "learned", "gelu")),
        ("w05", "w25", "w50", "lr6", "b95", "lr6b95", "std7b95", "std5b95"),
    ),
    RecipeBlock("tiny", 250, 3, ("baseline", "alibi", "learned", "gelu", "learned and gelu"), ("b95", "std5b95")),
    RecipeBlock("tiny", 1000, 1, ("baseline",), ("w05", "b95", "std5b95")),
]


def trained(block: RecipeBlock, recipe: str, runs_dir: Path, jobs: str, quick: bool) -> dict[str, Any]:
    """Trains one recipe of a block and reads what came out."""
    study = f"{block.name}-{recipe}"
    words = [f"study={study}", f"runs_dir={runs_dir}", *COMMON, f"scale={block.scale}"]
    words += [f"budget.steps={block.steps}", f"eval.every={block.steps // 2}", *RECIPES[recipe]]
    words = list({word.partition("=")[0]: word for word in [*words, *(QUICK if quick else [])]}.values())
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "recipes.yaml"
        file.write_text(yaml.safe_dump(block.sweep()), encoding="utf-8")
        command = [*SWEEP, str(file), "--jobs", jobs, *words]
        if subprocess.run(command, cwd=ROOT).returncode not in (0, 1):  # 1: some diverged
            raise SystemExit(f"{study} did not end: the same command goes on")
    return {"settings": RECIPES[recipe], **summary(scores(block, runs_dir, study))}


def scores(block: RecipeBlock, runs_dir: Path, study: str) -> dict[str, np.ndarray]:
    """Arm -> bits per byte by seed; not a number for a run that diverged."""
    found = {arm: np.full(block.seeds, math.nan) for arm in block.arms}
    for run in all_runs(runs_dir, study):
        settings = {key: run.record["config"][f"{key}.name"] for key in BASELINE}
        for arm in block.arms:
            if settings == BASELINE | ARMS[arm] and run.state == "finished":
                found[arm][run.record["seed"]] = run.summary["val/bpb"]
    return found


def summary(found: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """What pairs of a recipe show.

    Returns:
        baseline: mean bits per byte. run_sd: deviation of a run within its arm, pair_sd: of a pair's difference, both
        pooled over arms. rho: 1 - pair_sd^2 / (2 run_sd^2), the share of the noise that pairing takes away. worst: the
        largest deviation of a pair's difference of one arm. arms: each one's mean difference and its deviation.
    """
    base = found["baseline"]
    differences = {arm: values - base for arm, values in found.items() if arm != "baseline"}
    mean = {"baseline": round(float(base.mean()), 4)}
    if len(base) < 2:
        return mean
    noise = math.sqrt(np.mean([values.var(ddof=1) for values in found.values()]))
    if not differences:
        return {**mean, "run_sd": round(noise, 4)}
    pairs = {arm: values.std(ddof=1) for arm, values in differences.items()}
    one_pair = math.sqrt(np.mean(np.square(list(pairs.values()))))
    rhos = [1 - pairs[arm] ** 2 / (found[arm].var(ddof=1) + base.var(ddof=1)) for arm in differences]
    return {
        **mean,
        "run_sd": round(noise, 4),
        "pair_sd": round(one_pair, 4),
        "worst": round(float(max(pairs.values())), 4),
        "rho": round(float(np.mean(rhos)), 2),
        "arms": {arm: [round(float(d.mean()), 4), round(float(pairs[arm]), 4)] for arm, d in differences.items()},
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains, compares, prints, writes JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("blocks", nargs="*", help=f"of {', '.join(one.name for one in BLOCKS)} (all)")
    parser.add_argument("--quick", action="store_true", help="tiny runs, to see that everything works")
    parser.add_argument("--runs-dir", type=Path, default=None, help="where runs go, to go on later (default: nowhere)")
    parser.add_argument("--jobs", default="2", help="trials at a time (2)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the JSON goes")
    chosen = parser.parse_args(arguments)
    blocks = {one.name: one for one in BLOCKS}
    if unknown := sorted(set(chosen.blocks) - set(blocks)):
        parser.error(f"no block {unknown[0]}: {', '.join(blocks)}")
    result: dict[str, Any] = json.loads(chosen.out.read_text(encoding="utf-8")) if chosen.out.is_file() else {}
    result |= {"machine": {**machine(), "torch": version("torch")}}
    result.setdefault("blocks", {})
    with tempfile.TemporaryDirectory() as folder:
        for name in chosen.blocks or list(blocks)[: 1 if chosen.quick else None]:
            block = blocks[name]
            if chosen.quick:
                block = dataclasses.replace(block, seeds=2, arms=block.arms[:2], recipes=block.recipes[:1])
            recipes = {}
            for recipe in block.recipes:
                runs_dir = (chosen.runs_dir or Path(folder)).resolve()
                recipes[recipe] = trained(block, recipe, runs_dir, chosen.jobs, chosen.quick)
                print(name, recipe, recipes[recipe], flush=True)
            result["blocks"][name] = {"seeds": block.seeds, "arms": list(block.arms), "recipes": recipes}
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"written: {chosen.out}")


if __name__ == "__main__":
    main()
