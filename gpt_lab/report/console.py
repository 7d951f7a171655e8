"""The report in the terminal: arms with intervals and verdicts, their cost, notes."""

from __future__ import annotations

from rich import box
from rich import table as rich
from rich.console import Console
from rich.text import Text

from gpt_lab.analysis.table import Cell, Table
from gpt_lab.report import facts
from gpt_lab.report.tables import Report

MOST_LOST = 12
STYLES = {
    "baseline": "bold",
    "better": "bold green",
    "worse": "red",
    "equivalent": "cyan",
    "real but small": "yellow",
    "undecided": "magenta",
    "no data": "dim",
}


def show(report: Report, console: Console) -> None:
    """Prints the whole report but its figures; arms and costs as one table where it fits."""
    arms, *others = report.in_form("console")
    _say(console, "", report.title, style="bold")
    _say(console, "", report.answer, style="bold green")
    costs = next((table for table in others if table.name == "costs"), None)
    if costs is None:
        _print(arms, console, title=False)
    else:
        others.remove(costs)
        if (whole := _fitting("", _beside(arms, costs), console)) is not None:
            console.print(whole)
            for line in costs.sentences:
                _say(console, "", line)
        else:
            _print(arms, console, title=False)
            _print(costs, console)
    for line in report.summary:
        _say(console, "", line)
    for line in facts.lost_lines(report.study, MOST_LOST):
        _say(console, "", line, style="yellow")
    for table in others:
        _print(table, console)
    for line in facts.remarks(report.comparison, report.study):
        _say(console, "• ", line)


def _beside(arms: Table, costs: Table) -> Table:
    """Both as one, whose rows are the same arms."""
    rows = tuple((*own, *spent[1:]) for own, spent in zip(arms.rows, costs.rows, strict=True))
    return Table(arms.title, (), (*arms.columns, *costs.columns[1:]), rows)


def _print(table: Table, console: Console, title: bool = True) -> None:
    """The table below its title, else the title alone, then the sentences."""
    if table.columns:
        head = table.title if title else ""
        grid = _fitting(head, table, console) or _grid(head, table, spare=False)
        if grid.__rich_measure__(console, console.options.update(width=1000)).minimum > console.width:
            for column in grid.columns:  # numbers over several lines, rather than columns that are not there
                column.no_wrap = False
        console.print(grid)
    else:
        _say(console, "", table.title, style="bold")
    for line in table.sentences:
        _say(console, "", line)


def _fitting(title: str, table: Table, console: Console) -> rich.Table | None:
    """With all columns, else without those that can be spared; None where neither fits unfolded."""
    for spare in (True, False):
        grid = _grid(title, table, spare)
        if grid.__rich_measure__(console, console.options.update(width=1000)).maximum <= console.width:
            return grid
    return None


def _grid(title: str, table: Table, spare: bool) -> rich.Table:
    grid = rich.Table(
        title=Text(title, style="bold") if title else None,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    kept = [place for place, column in enumerate(table.columns) if spare or not column.spare]
    rows = [[row[place] for place in kept] for row in table.cells()]
    for place, column in enumerate(table.columns[place] for place in kept):
        verdicts = STYLES if any(row[place].kind in STYLES for row in rows) else ()
        longest = max(len(word) for text in (column.brief, *verdicts) for word in text.split())
        grid.add_column(
            column.brief,
            justify="right" if column.number else "left",
            overflow="fold",
            no_wrap=column.number,
            min_width=longest,
        )
    for row in rows:
        baseline = any(cell.kind == "baseline" for cell in row)
        grid.add_row(*(_text(cell, baseline) for cell in row), style=STYLES["baseline"] if baseline else "")
    return grid


def _text(cell: Cell, baseline: bool) -> Text:
    mark = " ◂" if baseline and cell.kind == "arm" else ""
    return Text(cell.brief + mark, style=STYLES.get(cell.kind, ""))


def _say(console: Console, lead: str, text: str, style: str = "") -> None:
    """A line that folds at words and hangs below its lead; never a markup."""
    if not lead:
        console.print(Text(text, style=style))
        return
    line = rich.Table.grid()
    line.add_column(no_wrap=True)
    line.add_column(overflow="fold")
    line.add_row(lead, Text(text, style=style))
    console.print(line)
