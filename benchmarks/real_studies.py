"""Real studies whose answer is known: the baseline against itself, and a learning rate that is divided by 8.

    uv run python benchmarks/real_studies.py

The first is sweeps/seeds.yaml: its pairs make null studies of three seeds each, in which every "better" is false. The
second must be found. Both are trained and judged by the lab's own commands; every number is in the JSON.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from gpt_lab.analysis.compare import compare
from gpt_lab.analysis.comparison import Comparison
from gpt_lab.frame import load
from gpt_lab.frame.places import StudyOptions
from gpt_lab.frame.study import Study
from gpt_lab.store.record import machine

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"
SWEEP = [sys.executable, "-c", "from gpt_lab.cli.sweep import main; main()"]
PLANTED = {
    "method": "grid",
    "metric": {"name": "val/bpb", "goal": "minimize"},
    "parameters": {
        "optim.lr": {"values": [4e-3, 5e-4]},
        "seed": {"values": [0, 1, 2]},
        "budget.steps": {"value": 200},
        "eval.every": {"value": 100},
    },
    "gpt_lab": {
        "study": "planted",
        "question": "Is a learning rate divided by 8 found?",
        "baseline": {"optim.lr": 4e-3},
    },
}


def trained(file: Path, runs_dir: Path, overrides: Sequence[str]) -> Study:
    """The study of a sweep file, after `sweep` has run it."""
    study = yaml.safe_load(file.read_text(encoding="utf-8"))["gpt_lab"]["study"]
    command = [*SWEEP, str(file), f"study={study}", f"runs_dir={runs_dir}", "tracker=none", *overrides]
    subprocess.run(command, check=True, cwd=ROOT)
    return load.load([str(runs_dir / study)], StudyOptions())


def split(study: Study, size: int) -> list[Study]:
    """Studies of so many pairs each, in the order of the pairs; a rest that is smaller is left out."""
    pairs = sorted(set(study.runs["pair"]), key=int)
    groups = [pairs[i : i + size] for i in range(0, len(pairs) - size + 1, size)]
    return [Study(study.design, study.runs[study.runs["pair"].isin(group)], []) for group in groups]


def told(comparison: Comparison) -> dict[str, Any]:
    """What a comparison of two arms says."""
    row = next(row for row in comparison.rows if row.verdict != "baseline")
    delta = row.delta
    return {
        "arm": str(row.arm),
        "verdict": row.verdict,
        "tier": row.tier,
        "pairs": row.n,
        "sesoi": comparison.sesoi,
        "rho": None if row.rho is None else round(row.rho, 3),
        **({key: round(value, 5) for key, value in dataclasses.asdict(delta).items()} if delta else {}),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains, judges, prints, writes JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny runs, to see that everything works")
    parser.add_argument("--runs-dir", type=Path, default=None, help="where runs go, to go on later (default: nowhere)")
    parser.add_argument("--out", type=Path, default=RESULTS / "real_studies.json", help="where the JSON goes")
    parser.add_argument("overrides", nargs="*", help="of every run")
    chosen = parser.parse_args(arguments)
    given, count = list(chosen.overrides), []
    if chosen.quick:
        given += ["scale.depth=1", "scale.width=32", "scale.heads=2", "scale.context=32", "batch.tokens=128"]
        given += ["eval.tokens=256", "data=synthetic", "compile=off"]
        given += ["budget.steps=6", "eval.every=3"]
        count = ["--seeds", "6"]
    metric = StudyOptions(metric="val/loss") if chosen.quick else StudyOptions()
    with tempfile.TemporaryDirectory() as folder:
        runs_dir = (chosen.runs_dir or Path(folder)).resolve()
        file = Path(folder) / "planted.yaml"
        content: dict[str, Any] = dict(PLANTED)
        if chosen.quick:
            content["metric"] = {"name": metric.metric, "goal": "minimize"}
        file.write_text(yaml.safe_dump(content), encoding="utf-8")
        found = compare(trained(file, runs_dir, given))
        null = ROOT / "sweeps" / "seeds.yaml"
        if chosen.quick:
            raw = yaml.safe_load(null.read_text(encoding="utf-8"))
            null = Path(folder) / "seeds.yaml"
            null.write_text(yaml.safe_dump(raw | {"metric": content["metric"]}), encoding="utf-8")
        nulls = trained(null, runs_dir, [*given, *count])
        studies = [compare(study) for study in split(nulls, 3)]
        whole = compare(nulls)
    result = {
        "machine": {**machine(), "torch": version("torch")},
        "null_studies": [told(comparison) for comparison in studies],
        "null_better": sum(told(comparison)["verdict"] == "better" for comparison in studies),
        "null_all_pairs": told(whole),
        "planted": told(found),
    }
    for comparison in (*studies, whole, found):
        print(told(comparison))
    print(f"better among {len(studies)} null studies: {result['null_better']}")
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"written: {chosen.out}")


if __name__ == "__main__":
    main()
