"""The report as Markdown: the terminal's content, every lost run, figures, settings, environment, commands."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gpt_lab.analysis.comparison import Comparison
from gpt_lab.analysis.table import Cell, Table
from gpt_lab.report import facts
from gpt_lab.report.tables import Report

if TYPE_CHECKING:
    from gpt_lab.report.figures import Figure


def markdown(report: Report, figures: Sequence[Figure], command: str = "") -> str:
    """The text of report.md; figures are linked relatively to it.

    Args:
        command: the command line that made this report.
    """
    comparison, study = report.comparison, report.study
    arms, *others = report.in_form("markdown")
    parts = [
        f"# {line(report.title)}",
        f"**{line(report.answer)}**",
        body(arms),
        listed(report.summary),
        _section("Not finished", listed(facts.lost_lines(study))),
        _section("Notes", listed(facts.remarks(comparison, study))),
        _section("Figures", _figures(comparison, figures)),
        *(_section(line(table.title), body(table)) for table in others),
        _section("Repeat it", _fenced(facts.commands(study, command))),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _section(title: str, body: str) -> str:
    return f"## {title}\n\n{body}" if body else ""


def listed(lines: Sequence[str]) -> str:
    """Sentences, each an item of a list."""
    return "\n".join(f"- {line(text)}" for text in lines)


def body(table: Table) -> str:
    """A table, and its sentences below it."""
    lines = []
    if table.columns:
        lines = [
            _row([_escaped(column.head) for column in table.columns]),
            _row(["---:" if column.number else "---" for column in table.columns]),
            *(_row([_cell(cell, row) for cell in row]) for row in table.cells()),
        ]
    return "\n\n".join(part for part in ("\n".join(lines), *map(line, table.sentences)) if part)


def _row(texts: Sequence[str]) -> str:
    return f"| {' | '.join(texts)} |"


def _cell(cell: Cell, row: Sequence[Cell]) -> str:
    if cell.kind == "interval":  # numbers in brackets, no text of a run and no link
        return cell.text
    text = _escaped(cell.text)
    if cell.kind == "arm" and any(other.kind == "baseline" for other in row):
        return f"**{text}**"
    return f"`{cell.text}`" if cell.kind == "code" and text == cell.text else text


def _figures(comparison: Comparison, figures: Sequence[Figure]) -> str:
    from gpt_lab.report.figures import absent

    drawn = [f"![{line(figure.title)}](figures/{figure.svg.name})\n\n{line(figure.caption)}" for figure in figures]
    return "\n\n".join([*drawn, *map(line, absent(comparison, list(figures)))])


def _fenced(lines: Sequence[str]) -> str:
    text = "\n".join(lines)
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}sh\n{text}\n{fence}"


def line(text: str) -> str:
    """Text of a run on one line, so that nothing in it is taken for Markdown or HTML."""
    return re.sub(r"([\\`*_\[\]<>$]|&(?=#?\w+;))", r"\\\1", " ".join(text.split()))


def _escaped(text: str) -> str:
    """As `line`, inside a table."""
    return line(text).replace("|", "\\|")
