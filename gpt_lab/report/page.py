"""The report as one self-contained HTML file: the answer, tables, curves, sample texts, runs."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Sequence
from importlib import resources
from typing import TYPE_CHECKING

import jinja2

from gpt_lab import metrics
from gpt_lab.analysis import wording
from gpt_lab.analysis.comparison import Comparison
from gpt_lab.analysis.table import Cell
from gpt_lab.report import facts
from gpt_lab.report.inline import inline
from gpt_lab.report.tables import Report

if TYPE_CHECKING:
    from gpt_lab.report.figures import Figure

MARKS = {
    "baseline": "◇",
    "better": "●",
    "worse": "✖",
    "equivalent": "■",
    "real but small": "◆",
    "undecided": "○",
    "no data": "–",
}
"""Before a verdict, for those who see no colours."""
TALL = ("settings", "runs")
"""Tables that scroll by themselves."""


def page(report: Report, figures: Sequence[Figure], command: str = "") -> str:
    """The text of report.html: no outside request, no script but its own; text from runs is never markup.

    Args:
        command: the command line that made this report.
    """
    from gpt_lab.report import chart, samples, talk
    from gpt_lab.report.figures import absent
    from gpt_lab.report.figures.material import Material

    style, script = source("report.css"), source("report.js", "curves.js")
    comparison, study = report.comparison, report.study
    design = comparison.design
    arms, *others = report.in_form("page")
    counted, *summary = report.summary
    sesoi = comparison.sesoi
    material = Material(comparison, study)
    curves = chart.data(material) if any(figure.name == "curves" for figure in figures) else None
    return (
        templates()
        .get_template("report.html.j2")
        .render(
            report=report,
            design=design,
            basics=[counted, *_basics(comparison)],
            policy=policy(style, script),
            style=style,
            script=script,
            arms=arms,
            summary=summary,
            others=others,
            tall=TALL,
            lost=facts.lost_lines(study),
            remarks=facts.remarks(comparison, study),
            figures=[(figure, inline(figure.svg.read_text("utf-8"), figure.name)) for figure in figures],
            chart=curves,
            chart_caption="" if curves is None else chart.caption(curves, material),
            samples=samples.sheets(material),
            absent=absent(comparison, list(figures)),
            level=wording.percent(design.alpha),
            sesoi="" if sesoi is None else f"{wording.amount(sesoi)} {metrics.unit(design.metric)}",
            correction=comparison.correction,
            commands="\n".join(facts.commands(study, command)),
            talk=talk.command(comparison, study),
        )
    )


def source(*names: str) -> str:
    """The text of styles or scripts of a page, one after the other."""
    folder = resources.files("gpt_lab.report") / "templates"
    return "".join((folder / name).read_text("utf-8") for name in names)


def templates() -> jinja2.Environment:
    """The templates of pages: all values are escaped, and one that is missing is an error."""
    made = jinja2.Environment(
        loader=jinja2.FunctionLoader(source),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    made.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    made.globals |= {"mark": mark, "sort_key": sort_key}
    return made


def sort_key(cell: Cell) -> str | None:
    """What a cell is sorted by: a number as text, empty for NaN, which comes last; None: its text."""
    return None if cell.key is None else "" if math.isnan(cell.key) else repr(cell.key)


def mark(cell: Cell) -> str:
    """The text of a cell, a verdict with its sign."""
    return f"{MARKS[cell.kind]} {cell.text}" if cell.kind in MARKS else cell.text


def policy(style: str, script: str) -> str:
    """The page may run its one script and nothing else; styles are inline because the figures' are."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _basics(comparison: Comparison) -> list[str]:
    design = comparison.design
    better = "lower" if design.goal == "minimize" else "higher"
    found = [f"{metrics.axis(design.metric)}, {better} is better"]
    if design.baseline_arm is not None:
        found.append(f"baseline {design.baseline_arm}{wording.within(design)}")
    band = "" if comparison.sesoi is None else f"differences below {wording.amount(comparison.sesoi)} do not matter"
    return [*found, f"paired by {design.pair}", *([band] if band else [])]
