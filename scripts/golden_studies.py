"""Every number of the committed studies' comparisons, as the code of this checkout makes them from their runs.

    python scripts/golden_studies.py    write tests/golden/studies.json anew: only where an answer is meant to change

tests/scripts/test_golden_studies.py holds the code against that file to the last digit.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.questions import REPORTS, read  # noqa: E402
from gpt_lab.analysis.compare import compare  # noqa: E402
from gpt_lab.analysis.comparison import Comparison, Row  # noqa: E402
from gpt_lab.analysis.sections import factorial  # noqa: E402
from gpt_lab.frame.study import Study  # noqa: E402
from gpt_lab.stats.interval import Interval  # noqa: E402

GOLDEN = ROOT / "tests" / "golden" / "studies.json"
PREFIX = "summary.val/"


def studies() -> list[str]:
    """Names of the studies whose runs are committed."""
    return sorted(path.parent.name for path in REPORTS.glob("*/runs.csv"))


def numbers(name: str) -> dict[str, Any]:
    """The comparisons of a study by metric: the one that decides, and every other that its validation has."""
    study = read(name, REPORTS / name)
    columns = [key for key in study.runs if key.startswith(PREFIX) and key != "summary.val/targets"]
    others = sorted({key.removeprefix("summary.") for key in columns} - {study.design.metric})
    each = {study.design.metric: study} | {metric: read(name, REPORTS / name, metric) for metric in others}
    found = {metric: _comparison(compare(one), one) for metric, one in each.items()}
    return {"decides": study.design.metric, "metrics": found}


def _comparison(comparison: Comparison, study: Study) -> dict[str, Any]:
    found: dict[str, Any] = {
        "sesoi": comparison.sesoi,
        "alpha": comparison.design.alpha,
        "baseline": None if comparison.design.baseline is None else str(comparison.design.baseline_arm),
        "family": comparison.correction,
        "noise": _interval(comparison.noise),
        "arms": {str(row.arm): _row(row) for row in comparison.rows},
    }
    if comparison.design.factorial is not None:
        effects = factorial.analyse(comparison, study)
        assert effects is not None
        found["effects"] = {
            effect.name: {"word": effect.word, "estimate": effect.estimate, "interval": _interval(effect.interval)}
            for effect in effects.effects
        }
    return found


def _row(row: Row) -> dict[str, Any]:
    """All of a row but its sentences, of which the number is kept."""
    found = {field.name: getattr(row, field.name) for field in dataclasses.fields(row) if field.name != "arm"}
    return found | {
        "tuning": str(row.tuning),
        "delta": _interval(row.delta),
        "medians": dict(row.medians),
        "states": dict(row.states),
        "warnings": len(row.warnings),
    }


def _interval(interval: Interval | None) -> dict[str, float] | None:
    return None if interval is None else dataclasses.asdict(interval)


def text(found: Any) -> str:
    """As JSON whose numbers read back to the same bits."""
    return json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def main() -> None:
    """Writes the file and says which studies it now tells otherwise."""
    before = json.loads(GOLDEN.read_text("utf-8")) if GOLDEN.is_file() else {}
    found = json.loads(text({name: numbers(name) for name in studies()}))
    GOLDEN.parent.mkdir(parents=True, exist_ok=True)
    GOLDEN.write_text(text(found), "utf-8")
    changed = [name for name in sorted({*before, *found}) if before.get(name) != found.get(name)]
    print(f"{GOLDEN.relative_to(ROOT)}: {len(found)} studies, changed: {', '.join(changed) or 'none'}")


if __name__ == "__main__":
    main()
