"""The answer in the terminal: arms with their intervals and verdicts, their cost, and what a reader must know."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gpt_lab.report import facts, wording
from gpt_lab.report.types import Comparison, Row, Study

WIDE = 128
"""Columns of a terminal from which verdicts and costs fit into one table."""
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
Cell = Callable[[Row], str | Text]
"""A column's text for one row."""


def show(comparison: Comparison, study: Study, console: Console) -> None:
    """Prints the whole report but its figures; one table where it fits, else one of verdicts and one of costs."""
    design = comparison.design
    title = design.question or design.study
    answers, costs = _answers(comparison), _costs(comparison)
    if console.width >= WIDE:
        console.print(_table(title, comparison, answers + costs))
    else:
        console.print(_table(title, comparison, answers))
        console.print(_table("Cost (medians of the finished runs)", comparison, [answers[0], *costs]))
    _say(console, "", wording.answer(comparison), style="bold")
    for line in summary(comparison, study):
        _say(console, "", line)
    _lost(study, console)
    for line in facts.remarks(comparison, study):
        _say(console, "• ", line)


def summary(comparison: Comparison, study: Study) -> list[str]:
    """How the verdicts were made and how many runs they rest on."""
    design = comparison.design
    unit = wording.unit(design.metric)
    rules = (
        f"metric {design.metric} ({design.goal}), pairs by {design.pair}, {wording.percent(design.alpha)} intervals, "
        f"smallest effect of interest {comparison.mei:.4g} {unit}, verdicts corrected: {comparison.correction}"
    )
    lines = [facts.counts(study), rules]
    if comparison.noise is not None:
        noise = comparison.noise
        lines.append(f"baseline against itself: an arm equal to it would get {wording.with_interval(noise)} {unit}")
    return lines


def name(row: Row) -> str:
    """The arm's name; a study without compared settings has one arm without a name."""
    return row.arm or "all runs"


def _answers(comparison: Comparison) -> list[tuple[str, bool, Cell]]:
    """Title, whether it is a number, text: arm, result and verdict."""
    metric = comparison.design.metric.removeprefix("val/")
    columns: list[tuple[str, bool, Cell]] = [
        ("arm", False, _arm),
        (metric, True, lambda row: wording.plain(row.mean)),
        (f"Δ {metric}", True, _delta),
        ("verdict", False, _verdict),
        ("tier", False, lambda row: row.tier or "–"),
        ("n", True, lambda row: str(row.n or row.runs)),
        ("ρ", True, lambda row: wording.plain(row.rho, 2)),
    ]
    if any(row.tuning for row in comparison.rows):
        columns.append(("tuned to", False, lambda row: row.tuning + (" (edge)" if row.on_edge else "") or "–"))
    if any(wording.states(row) for row in comparison.rows):
        columns.append(("not finished", False, lambda row: wording.states(row) or "–"))
    return columns


def _costs(comparison: Comparison) -> list[tuple[str, bool, Cell]]:
    return [
        (title, True, _median(key))
        for title, key in (
            ("params", "parameters"),
            ("FLOPs/tok", "flops_per_token"),
            ("tok/s", "tokens_per_s"),
            ("peak GB", "peak_memory_gb"),
            ("seconds", "seconds"),
        )
    ]


def _median(key: str) -> Cell:
    def text(row: Row) -> str:
        value = row.medians.get(key)
        return "–" if value is None or value != value else wording.short(value).replace(" ", "")

    return text


def _table(title: str, comparison: Comparison, columns: Sequence[tuple[str, bool, Cell]]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", show_lines=False, pad_edge=False)
    for heading, number, _ in columns:
        table.add_column(heading, justify="right" if number else "left", overflow="fold", no_wrap=number)
    for row in comparison.rows:
        style = STYLES["baseline"] if row.verdict == "baseline" else ""
        table.add_row(*(cell(row) for _, _, cell in columns), style=style)
    return table


def _arm(row: Row) -> Text:
    return Text(name(row) + (" ◂" if row.verdict == "baseline" else ""))


def _delta(row: Row) -> str:
    return "–" if row.delta is None else wording.with_interval(row.delta)


def _verdict(row: Row) -> Text:
    return Text(wording.verdict(row), style=STYLES[row.verdict])


def _lost(study: Study, console: Console) -> None:
    """Runs that are not finished, by name, so that none is dropped silently."""
    runs = facts.lost(study)
    for one in runs[:MOST_LOST]:
        _say(console, "", f"{one.state}: {one.name}{f' ({one.error})' if one.error else ''}", style="yellow")
    if len(runs) > MOST_LOST:
        _say(console, "", f"and {len(runs) - MOST_LOST} more that are not finished: report.md and runs.csv name them")


def _say(console: Console, lead: str, text: str, style: str = "") -> None:
    """A line that folds at words, never a markup."""
    console.print(Text(f"{lead}{text}", style=style))
