"""Whether sequential seeds keep their promise, and what they save, over simulated studies whose truth is known.

    uv run python benchmarks/sequential.py

Every condition is a kind of study with an arm or four, looked at after each pair from the third to the tenth. `null`:
arms equal the baseline and every difference matters. `edge`: they lie on the edge of the band, where a false claim of
either kind is likeliest. `beyond`, `inside`: they lie a distance from the nearest edge, outside the band or in its
middle. What each number means: benchmarks/simulated/looks.py.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

from benchmarks.simulated.looks import Looked, beyond, calibrate_looks
from benchmarks.simulated.studies import Condition, Distribution, NoiseModel
from gpt_lab.stats.alpha_spending import SHAPE
from gpt_lab.store.record import machine, packages

RESULTS = Path(__file__).parent / "results"
STUDIES = 20_000
FIRST, LAST = 3, 10
DISTANCES = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0)
"""In units of the deviation of a pair's difference."""
BAND = 0.5
"""Smallest effect size of interest of the conditions beyond the band, in the same units: the lab's default."""
DECIDABLE = 2.0
"""Distances from which on the fixed design decides nearly every arm: what is saved is averaged over these."""
Kind = tuple[str, float, float, Condition, int]
"""Name, distance from the nearest edge, smallest effect size of interest, studies, pairs of the first look."""


def conditions() -> Iterator[Kind]:
    """Nulls of every noise, edges, then arms outside and inside the band."""
    for arms in (1, 4):
        for shape in get_args(Distribution):
            for rho in (0.0, 0.5):
                yield "null", 0.0, 0.0, Condition(arms, LAST, rho=rho, shape=shape), FIRST
    for noise in get_args(NoiseModel)[1:]:
        yield "null", 0.0, 0.0, Condition(4, LAST, noise=noise), FIRST
    yield "null", 0.0, 0.0, Condition(4, 6), FIRST
    yield "null", 0.0, 0.0, Condition(4, 20), 5
    for arms in (1, 4):
        yield "edge", 0.0, 1.0, Condition(arms, LAST, effects=(1.0,) * arms), FIRST
    for arms in (1, 4):
        for distance in DISTANCES:
            yield "beyond", distance, BAND, beyond(arms, LAST, distance, BAND), FIRST
            yield "inside", distance, distance, Condition(arms, LAST), FIRST


def line(kind: Kind, found: Looked) -> str:
    """One line of the table on the screen."""
    name, distance, _, condition, first = kind
    numbers = (
        *(found.false_differences, found.false_equivalences, found.coverage, found.runs),
        *(found.decided, found.decided_fixed, math.nan if found.same is None else found.same),
    )
    shown = " ".join("    –" if math.isnan(number) else f"{100 * number:5.1f}" for number in numbers)
    what = f"{condition.arms} arms, {first}-{condition.seeds} seeds, rho {condition.rho:g}, {condition.shape}"
    return f"{name:6s} {distance:2g}  {shown}  {what}, {condition.noise}"


def main() -> None:
    """Command line: --quick for a short run, --out for another file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="200 studies a condition")
    parser.add_argument("--out", type=Path, default=RESULTS / "sequential.json")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    print("kind    D  false equiv cover  runs decid fixed  same (%)")
    for kind in conditions():
        name, distance, sesoi, condition, first = kind
        found = calibrate_looks(condition, first, sesoi, studies=200 if options.quick else STUDIES)
        print(line(kind, found))
        numbers = {key: round(value, 4) if isinstance(value, float) else value for key, value in asdict(found).items()}
        rows.append(
            {
                "kind": name,
                "distance": distance,
                "sesoi": sesoi,
                "first": first,
                "condition": asdict(condition),
                **numbers,
            }
        )
    known = [row for row in rows if row["distance"] >= DECIDABLE]
    mix = {key: round(statistics.fmean(row[key] for row in known), 4) for key in ("runs", "same", "decided_fixed")}
    print(f"over the {len(known)} conditions from distance {DECIDABLE:g} on: {mix}")
    kept = {name: version for name, version in packages().items() if name in ("python", "numpy", "gpt_lab")}
    where = {**machine(), "packages": kept}
    result = {"machine": where, "alpha": 0.05, "shape": SHAPE, "mix": {"from": DECIDABLE, **mix}, "rows": rows}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"written: {options.out}")


if __name__ == "__main__":
    main()
