"""The figures of a report, one file per family; matplotlib is imported when the first is drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gpt_lab.analysis.comparison import Comparison
from gpt_lab.errors import ConfigError, DataError, unknown
from gpt_lab.frame.study import Study
from gpt_lab.store.atomic_files import writing

if TYPE_CHECKING:
    from gpt_lab.report.figures.base import Drawing
    from gpt_lab.report.figures.material import Material

FIXED = ("effects", "half_normal", "ladder", "speedup")
"""Figures whose intervals do not allow for looks: not of a study whose seeds were added until arms were decided."""


@dataclass(frozen=True)
class Figure:
    """A figure on disk, as SVG and as PNG.

    Fields:
        name: of its files, without ending.
        title: a few words. caption: what is drawn, and what was left out of it.
    """

    name: str
    title: str
    caption: str
    svg: Path
    png: Path


def draw(comparison: Comparison, study: Study, folder: Path) -> list[Figure]:
    """Draws what the data can give into `folder` (made if missing); equal data give equal files, byte for byte.

    Figures of an earlier report that are not drawn this time are removed from the folder.

    Raises:
        LabError: the folder cannot be written.
    """
    from gpt_lab.report.figures import base
    from gpt_lab.report.figures.material import Material

    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    figures = []
    with base.look():
        material = Material(comparison, study)
        for name, family in _families().items():
            drawing = _drawn(name, family, material)
            if drawing is None:
                for ending in ("svg", "png"):
                    (folder / f"{name}.{ending}").unlink(missing_ok=True)
                continue
            svg, png = base.write(drawing, folder)
            figures.append(Figure(drawing.name, drawing.title, drawing.caption, svg, png))
    return figures


def drawing(comparison: Comparison, study: Study, name: str) -> Drawing:
    """One figure of the report, not written.

    Raises:
        ConfigError: no figure of that name. DataError: the study has nothing to draw there.
    """
    from gpt_lab.report.figures import base
    from gpt_lab.report.figures.material import Material

    families = _families()
    if name not in families:
        raise ConfigError(unknown("figure", name, families))
    with base.look():
        found = _drawn(name, families[name], Material(comparison, study))
    if found is None:
        raise DataError(
            f"{study.design.study} has nothing to draw as {name!r}, so its report has no such figure either"
        )
    return found


def _drawn(name: str, family: Callable[[Material], Drawing | None], material: Material) -> Drawing | None:
    return None if name in FIXED and material.design.looks is not None else family(material)


def _families() -> dict[str, Callable[[Material], Drawing | None]]:
    from gpt_lab.report.figures import (
        curves,
        effects,
        factors,
        forest,
        ladder,
        lengths,
        pareto,
        probes,
        seeds,
        speedup,
        tuning,
    )

    return {
        "forest": forest.draw,
        "seeds": seeds.draw,
        "curves": curves.draw,
        "differences": curves.differences,
        "pareto": pareto.draw,
        "tuning": tuning.draw,
        "interaction": factors.draw,
        "effects": effects.draw,
        "half_normal": effects.half_normal_plot,
        "ladder": ladder.draw,
        "speedup": speedup.draw,
        "lengths": lengths.draw,
        "probes": probes.draw,
    }


def absent(comparison: Comparison, figures: list[Figure]) -> list[str]:
    """A sentence for each figure that a reader would look for and does not find."""
    design = comparison.design
    drawn = {figure.name for figure in figures}
    finished = [row for row in comparison.rows if row.runs]
    if not finished:
        return ["No figure is drawn: no run has finished."]
    compared = [row for row in comparison.rows if row.delta is not None]
    sentences = []
    if "forest" not in drawn:
        why = "no arm has two finished pairs with the baseline, and one pair has no interval"
        if len(comparison.rows) == 1:
            why = "there is one arm"
        elif design.baseline is None:
            why = "no baseline is named"
        sentences.append(f"No forest plot: {why}.")
    if "curves" not in drawn:
        sentences.append(f"No learning curves: {design.metric} was recorded at fewer than two places of a run.")
    elif "differences" not in drawn and compared:
        sentences.append("No curve of paired differences: no two runs of a pair were evaluated over the same tokens.")
    if len(finished) > 1 and "pareto" not in drawn:
        sentences.append("No figure of costs: FLOPs, time and parameters are the same for all arms, or not recorded.")
    if design.nuisance and "tuning" not in drawn:
        sentences.append(f"No tuning curves: no arm finished with two values of {' or '.join(design.nuisance)}.")
    return sentences
