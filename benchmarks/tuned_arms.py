"""Muon against an AdamW whose learning rate is divided by 8: what an untuned comparison says, and a tuned one.

    uv run python benchmarks/tuned_arms.py

The first study gives each optimizer one rate by hand, AdamW's being planted too low: the report must not call Muon
better. The second begins AdamW's tuning at that same rate, tunes both arms equally hard, and compares fresh seeds at
the values found: the gap that is left is the honest one. Both are trained and judged by the lab's own commands.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from benchmarks.real_studies import RESULTS, told, trained
from gpt_lab.analysis.compare import compare
from gpt_lab.analysis.comparison import Comparison
from gpt_lab.analysis.sections import every
from gpt_lab.frame.study import Study
from gpt_lab.store.record import machine

PLANTED, DEFAULT = 5e-4, 4e-3
"""AdamW's learning rate divided by 8, and what conf/ has for both optimizers."""
SHARED: dict[str, Any] = {
    "method": "grid",
    "metric": {"name": "val/bpb", "goal": "minimize"},
}
PARAMETERS: dict[str, Any] = {
    "optim": {"values": ["adamw", "muon"]},
    "seed": {"values": [0, 1, 2, 3, 4]},
    "budget.steps": {"value": 200},
    "eval.every": {"value": 100},
}
UNTUNED = SHARED | {
    "parameters": PARAMETERS | {"optim.lr": {"values": [PLANTED, DEFAULT]}},
    "gpt_lab": {
        "study": "untuned",
        "question": "Is Muon better than AdamW? (AdamW's learning rate is divided by 8)",
        "baseline": {"optim": "adamw", "optim.lr": PLANTED},
        "zip": [["optim", "optim.lr"]],
        "sesoi": 0.02,  # bits per byte: 6 % more steps bring as much at this length
    },
}
TUNED = SHARED | {
    "parameters": PARAMETERS,
    "gpt_lab": {
        "study": "tuned",
        "question": "Is Muon better than AdamW once both are tuned alike?",
        "baseline": {"optim": "adamw"},
        "tune": {"optim.lr": {"start": {"optim=adamw": PLANTED, "optim=muon": DEFAULT}}, "seeds": 1},
        "sesoi": 0.02,
    },
}


def shown(comparison: Comparison, study: Study) -> dict[str, Any]:
    """The verdict on Muon, what forbids it, and what the tuning found."""
    row = next(row for row in comparison.rows if row.verdict != "baseline")
    tables = [section for section in every.sections(comparison, study) if section.title == "Tuning"]
    return {
        **told(comparison),
        "means": {str(row.arm): None if row.mean is None else round(row.mean, 5) for row in comparison.rows},
        "warnings": list(row.warnings),
        "tuning": [dict(zip(table.heads, cells, strict=True)) for table in tables for cells in table.rows],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains, judges, prints, writes JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs-dir", type=Path, default=None, help="where runs go, to go on later (default: nowhere)")
    parser.add_argument("--out", type=Path, default=RESULTS / "tuned_arms.json", help="where the JSON goes")
    parser.add_argument("overrides", nargs="*", help="of every run")
    chosen = parser.parse_args(arguments)
    result: dict[str, Any] = {"machine": {**machine(), "torch": version("torch")}}
    with tempfile.TemporaryDirectory() as folder:
        runs_dir = (chosen.runs_dir or Path(folder)).resolve()
        for name, content in (("untuned", UNTUNED), ("tuned", TUNED)):
            file = Path(folder) / f"{name}.yaml"
            file.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
            study = trained(file, runs_dir, chosen.overrides)
            result[name] = shown(compare(study), study)
            print(json.dumps(result[name], indent=1))
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"written: {chosen.out}")


if __name__ == "__main__":
    main()
