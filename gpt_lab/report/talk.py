"""The command that opens two arms of a study side by side (docs/chat-and-serve.md)."""

from __future__ import annotations

import shlex
from pathlib import Path

from gpt_lab.analysis.comparison import Comparison, Row
from gpt_lab.console.invocation import prefix
from gpt_lab.errors import DataError
from gpt_lab.frame.study import Study
from gpt_lab.report.figures.material import Material
from gpt_lab.store import Run


def command(comparison: Comparison, study: Study) -> str:
    """`serve RUN RUN`: the baseline and the best other arm, else the best two, of the first pair that both have.

    "": there are no two, or their runs are elsewhere, not of text, or none that `serve` takes.
    """
    material = Material(comparison, study)
    rows = sorted(material.rows, key=lambda row: row.arm != material.baseline)[:2]
    if len(rows) < 2:
        return ""
    one, other = (_runs(material, row) for row in rows)
    pair = next((pair for pair in one if pair in other), None)
    if pair is None:
        return ""
    places = [one[pair], other[pair]]
    words = [f"{place.parent.name}/{place.name}" for place in places]
    roots = {place.parent.parent for place in places}
    if len(roots) > 1:
        words = [str(place) for place in places]
    elif (root := roots.pop()) != Path("runs"):
        words.append(f"runs_dir={root}")
    return prefix() + shlex.join(["serve", *words])


def _runs(material: Material, row: Row) -> dict[str, Path]:
    """The folders of an arm's runs that can be served, by pair."""
    found = {str(pair): Path(run) for pair, run in material.runs_of(row).items()}
    return {pair: place for pair, place in found.items() if _served(place)}


def _served(place: Path) -> bool:
    """Whether a run is here, with text and weights, and its model is autoregressive."""
    if not (place / "tokenizer").is_dir() or not any((place / "checkpoints").glob("*/")):
        return False
    try:
        text = Run.open(place).record.get("text") or {}
    except DataError:
        return False
    return "generates" not in text
