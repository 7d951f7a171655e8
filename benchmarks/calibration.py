"""Whether verdicts keep their promise: false verdicts and coverage over simulated studies whose truth is known.

    uv run python benchmarks/calibration.py

Every condition is a kind of study (arms, seeds, shape and size of the noise), judged by the lab's two tiers as
compare() does, and by three methods that the lab does not use. What each number means: benchmarks/simulated/studies.py.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

from benchmarks.simulated.studies import Analysis, Condition, Distribution, ErrorRates, NoiseModel, calibrate
from gpt_lab.stats.power_analysis import detectable
from gpt_lab.store.record import machine, packages

RESULTS = Path(__file__).parent / "results"
STUDIES = 20_000
SLOW: dict[Analysis, int] = {"token bootstrap": 2_000, "seed bootstrap": 2_000, "token z": 2_000}


def conditions() -> Iterator[tuple[Analysis, Condition]]:
    """The lab's verdicts under each noise, what pairing changes, planted effects, then the controls."""
    for arms, seeds in ((1, 3), (4, 3), (9, 3), (1, 5), (4, 5), (4, 10)):
        for shape in get_args(Distribution):
            for noise in get_args(NoiseModel):
                yield "lab", Condition(arms, seeds, shape=shape, noise=noise)
    for rho in (0.0, 0.9):
        yield "lab", Condition(4, 5, rho=rho)
    for seeds in (3, 5):
        effect = round(detectable(seeds, arms=4), 2)
        yield "lab", Condition(4, seeds, effects=(-effect,))
        yield "lab", Condition(4, seeds, effects=(-effect, -effect, effect, effect))
    yield "token z", Condition(1, 5)
    yield "token bootstrap", Condition(1, 5)
    for seeds in (3, 5, 8, 10):
        yield "seed bootstrap", Condition(1, seeds)


def line(method: str, condition: Condition, found: ErrorRates) -> str:
    """One line of the table on the screen."""

    def percent(value: float | None) -> str:
        return "   –  " if value is None else f"{100 * value:5.1f} "

    kind = (
        f"{condition.arms} arms, {condition.seeds} seeds, rho {condition.rho:g}, {condition.shape}, {condition.noise}"
    )
    planted = f", effects {', '.join(f'{e:g}' for e in condition.effects)}" if condition.effects else ""
    numbers = (found.rejected, found.false_verdicts, found.coverage, found.coverage_worst, found.found)
    grade = "honest  " if found.honest else "cautious" if found.safe else "--      "
    return f"{method:15s} {''.join(map(percent, numbers))} {grade}  {kind}{planted}"


def main() -> None:
    """Command line: --quick for a short run, --out for another file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="100 studies a condition")
    parser.add_argument("--out", type=Path, default=RESULTS / "calibration.json")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    print("method           p<.05 false cover worst found (%)")
    for method, condition in conditions():
        studies = 100 if options.quick else SLOW.get(method, STUDIES)
        found = calibrate(condition, method, studies=studies)
        print(line(method, condition, found))
        numbers = {key: round(value, 4) if isinstance(value, float) else value for key, value in asdict(found).items()}
        rows.append(
            {"method": method, "condition": asdict(condition), **numbers, "honest": found.honest, "safe": found.safe}
        )
    kept = {name: version for name, version in packages().items() if name in ("python", "numpy", "scipy", "gpt_lab")}
    result = {"machine": {**machine(), "packages": kept}, "alpha": 0.05, "rows": rows}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"written: {options.out}")


if __name__ == "__main__":
    main()
