"""A comparison as a notebook shows it: the report's own text and tables, and the numbers as a table to go on with."""

from __future__ import annotations

import os
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from gpt_lab.analysis.table import Table
    from gpt_lab.report.figures.base import Canvas
    from gpt_lab.report.tables import Report


class ReportView:
    """A comparison: shown, it is the report's own text and tables; `verdicts` holds the numbers."""

    def __init__(self, report: Report, folder: Path | None = None) -> None:
        self._report, self._folder = report, folder

    @property
    def answer(self) -> str:
        """What the comparison says, in one or two sentences."""
        return self._report.answer

    @property
    def notes(self) -> list[str]:
        """What a reader must know, below the tables of a report."""
        from gpt_lab.report import facts

        found = self._report
        return [
            *found.summary,
            *facts.lost_lines(found.study),
            *facts.remarks(found.comparison, found.study),
        ]

    @property
    def verdicts(self) -> pd.DataFrame:
        """A row for each arm, best first: verdict, difference to the baseline with interval and p, means, runs.

        estimate, low, high, mean, sd, median: in units of the metric; p: adjusted over the arms; n: pairs; NaN or None
        where there is none.
        """
        import pandas as pd

        rows = [
            {
                "arm": str(row.arm),
                "verdict": row.verdict,
                "estimate": row.delta.estimate if row.delta else None,
                "low": row.delta.low if row.delta else None,
                "high": row.delta.high if row.delta else None,
                "p": row.p_adjusted,
                "n": row.n,
                "tier": row.tier,
                "mean": row.mean,
                "sd": row.sd,
                "runs": row.runs,
                "median": row.median,
                "rho": row.rho,
                "tuning": str(row.tuning),
                "warnings": row.warnings,
            }
            for row in self._report.comparison.rows
        ]
        numbers = ("estimate", "low", "high", "p", "mean", "sd", "median", "rho")
        return pd.DataFrame(rows).astype(dict.fromkeys(numbers, "float64"))

    def plot(self, name: str = "forest") -> Canvas:
        """A figure of the report by name: forest, curves, differences, pareto, ...; a notebook shows it.

        Raises:
            ConfigError: no such figure. DataError: the study has nothing to draw there.
        """
        from gpt_lab.report import figures

        return figures.drawing(self._report.comparison, self._report.study, name).canvas

    def write(self, folder: str | os.PathLike[str] | None = None) -> list[Path]:
        """The files of `report`: report.html, report.md, runs.csv, runs.parquet, figures/; returns their paths.

        Args:
            folder: None: the study's own, runs/STUDY/report.

        Raises:
            LabError: a file cannot be written.
        """
        from gpt_lab.report import write

        found, place = self._report, Path(folder or self._folder or "report")
        drawn = write.figure_files(found.comparison, found.study, place)
        return write.write(found, drawn, place, "")

    def __repr__(self) -> str:
        from gpt_lab.console import terminal
        from gpt_lab.report import console

        def show(screen: Console) -> None:
            console.show(self._report, screen)

        return "\n".join(terminal.plain(show, terminal.pipe_width(terminal.PLAIN_WIDTH)))

    def _repr_html_(self) -> str:
        first, *others = self._report.in_form("console")
        lines = [f"<h4>{escape(self._report.title)}</h4>", f"<p><b>{escape(self.answer)}</b></p>", _table(first)]
        lines += ["<ul>", *(f"<li>{escape(line)}</li>" for line in self.notes), "</ul>"]
        for table in others:
            lines += [f"<h5>{escape(table.title)}</h5>", _table(table)]
        return "\n".join(lines)


def _table(table: Table) -> str:
    from gpt_lab.report.page import mark

    lines = []
    if table.columns:
        sides = ["right" if column.number else "left" for column in table.columns]
        heads = [_cell("th", column.head, side) for column, side in zip(table.columns, sides, strict=True)]
        lines = ["<table>", f"<tr>{''.join(heads)}</tr>"]
        for row in table.cells():
            cells = [_cell("td", mark(cell), side) for cell, side in zip(row, sides, strict=True)]
            lines.append(f"<tr>{''.join(cells)}</tr>")
        lines.append("</table>")
    return "\n".join([*lines, *(f"<p>{escape(text)}</p>" for text in table.sentences)])


def _cell(kind: str, text: str, side: str) -> str:
    return f'<{kind} style="text-align: {side}">{escape(text)}</{kind}>'
