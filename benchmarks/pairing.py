"""What makes pairing pay: LayerNorm against RMSNorm, 5 seeds at scale tiny, at several recipes.

    uv run python benchmarks/pairing.py

Two runs of a pair start with the same values in every tensor that both have, and see the same batches. How long they
stay alike is a matter of the recipe. `--runs-dir` keeps the runs: the same command then goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from gpt_lab.analysis.compare import compare
from gpt_lab.frame import load
from gpt_lab.frame.places import StudyOptions
from gpt_lab.frame.study import Study
from gpt_lab.stats.paired import correlation
from gpt_lab.stats.pairing_gain import of_arm
from gpt_lab.store.record import machine
from gpt_lab.study.design import Settings

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"
SWEEP = [sys.executable, "-c", "from gpt_lab.cli.sweep import main; main()"]
NORMS = {
    "method": "grid",
    "metric": {"name": "val/bpb", "goal": "minimize"},
    "parameters": {"norm": {"values": ["rmsnorm", "layernorm"]}, "seed": {"values": [0, 1, 2, 3, 4]}},
    "gpt_lab": {"baseline": {"norm": "rmsnorm"}},
}
RECIPES = {
    "warmup": ["budget.steps=120", "eval.every=40", "schedule.warmup=0.5"],
    "low_rate": ["budget.steps=120", "eval.every=40", "schedule.warmup=0.05", "optim.lr=1.0e-3"],
    "low_rate_held": [
        *("budget.steps=160", "eval.every=20", "schedule=constant", "schedule.warmup=0.05"),
        "optim.lr=1.0e-3",
    ],
    "default_held": ["budget.steps=160", "eval.every=20", "schedule=constant", "schedule.warmup=0.05"],
}
"""Half of the budget a warm-up; 5 % at a quarter of the rate; that rate and the
default one held, so that each evaluation is the end of a shorter run."""
COMMON = ["tracker=none", "eval.tokens=32768", "optim.beta2=0.99", "init.std=0.02"]
QUICK = [
    *("scale.depth=1", "scale.width=32", "scale.heads=2", "scale.context=32", "batch.tokens=128", "eval.tokens=256"),
    *("data.val_fraction=0.01", "tokenizer=byte", "compile=off", "budget.steps=6", "eval.every=3"),
]


def measured(runs_dir: Path, name: str) -> dict[str, Any]:
    """What the runs of one recipe say: at the end, and at the evaluations on the way."""
    study = load.load([str(runs_dir / name)], StudyOptions())
    comparison = compare(study)
    row = next(row for row in comparison.rows if row.verdict != "baseline")
    base = next(row for row in comparison.rows if row.verdict == "baseline")
    worth = of_arm(scores(study, row.arm), scores(study, base.arm), comparison.design.alpha)
    assert row.delta is not None and row.rho is not None and worth is not None
    return {
        "settings": RECIPES[name],
        "pairs": row.n,
        "rho": round(row.rho, 3),
        "rho_on_the_way": on_the_way(study, row.arm, base.arm),
        "noise_taken_away": round(worth.rho, 3),
        "unpaired_runs_of_each_arm": round(worth.unpaired, 1),
        "runs_saved": worth.saved,
        "run_sd": [round(one.sd or 0.0, 5) for one in (base, row)],
        "mean_bpb": [round(one.mean or 0.0, 4) for one in (base, row)],
        "layernorm_minus_rmsnorm": [round(v, 5) for v in (row.delta.estimate, row.delta.low, row.delta.high)],
        "verdict": row.verdict,
    }


def scores(study: Study, arm: Settings, values: Mapping[str, float] | None = None) -> Any:
    """Of the runs of an arm, in the order of their pairs: their scores, or other values of each run."""
    runs = study.runs[study.runs["arm"] == arm].sort_values("pair")
    return np.array(runs["score"] if values is None else [values[run] for run in runs["run"]], float)


def on_the_way(study: Study, arm: Settings, baseline: Settings) -> dict[str, float]:
    """Step -> correlation at the evaluations that all runs have."""
    curves = study.curves(study.runs["run"].tolist())
    lines = {run: table.dropna(subset="val/bpb").set_index("step")["val/bpb"] for run, table in curves.items()}
    steps = sorted(set.intersection(*(set(line.index) for line in lines.values())))
    found = {}
    for step in steps:
        values = {run: float(line[step]) for run, line in lines.items()}
        found[str(int(step))] = round(correlation(scores(study, arm, values), scores(study, baseline, values)), 3)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains, compares, prints, writes JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny runs, to see that everything works")
    parser.add_argument("--runs-dir", type=Path, default=None, help="where runs go, to go on later (default: nowhere)")
    parser.add_argument("--jobs", default="2", help="trials at a time (2)")
    parser.add_argument("--out", type=Path, default=RESULTS / "pairing.json", help="where the JSON goes")
    chosen = parser.parse_args(arguments)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        runs_dir = (chosen.runs_dir or Path(folder)).resolve()
        file = Path(folder) / "norms.yaml"
        file.write_text(yaml.safe_dump(NORMS), encoding="utf-8")
        for name, settings in list(RECIPES.items())[: 1 if chosen.quick else None]:
            words = [f"study={name}", f"runs_dir={runs_dir}", *COMMON, *settings]
            words = [*words[:3], *settings[2:], *QUICK] if chosen.quick else words
            command = [*SWEEP, str(file), "--jobs", chosen.jobs, *words]
            subprocess.run(command, check=True, cwd=ROOT)
            found[name] = measured(runs_dir, name)
            print(name, found[name])
    result = {"machine": {**machine(), "torch": version("torch")}, "recipes": found}
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"written: {chosen.out}")


if __name__ == "__main__":
    main()
