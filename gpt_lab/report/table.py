"""The answer in the terminal: arms with their intervals and verdicts, their cost, and what a reader must know."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gpt_lab import metrics
from gpt_lab.analysis import wording
from gpt_lab.analysis.comparison import Comparison, Row
from gpt_lab.analysis.sections.every import Section, sections
from gpt_lab.frame.study import Study
from gpt_lab.report import facts
from gpt_lab.study import arm_names

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
    _say(console, "", title, style="bold")
    _say(console, "", wording.answer(comparison), style="bold green")
    answers, costs = _answers(comparison), _costs(comparison)
    whole = _table("", comparison, answers + costs)
    if whole.__rich_measure__(console, console.options.update(width=1000)).maximum <= console.width:
        console.print(whole)
    else:
        console.print(_table("", comparison, answers))
        console.print(_table("Cost: medians of the finished runs", comparison, [answers[0], *costs]))
    for line in summary(comparison, study):
        _say(console, "", line)
    _lost(study, console)
    for section in sections(comparison, study):
        _section(section, console)
    for line in facts.remarks(comparison, study):
        _say(console, "• ", line)


def _section(section: Section, console: Console) -> None:
    """Its table, else its title, then its sentences."""
    if section.heads:
        table = Table(
            title=Text(section.title, style="bold"), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False
        )
        for index, heading in enumerate(section.heads):
            numeric = index in section.numbers
            table.add_column(heading, justify="right" if numeric else "left", overflow="fold", no_wrap=numeric)
        for row in section.rows:
            table.add_row(*map(Text, row))
        if table.__rich_measure__(console, console.options.update(width=1000)).maximum > console.width:
            for column in table.columns:  # numbers over several lines, rather than columns that are not there
                column.no_wrap = False
        console.print(table)
    else:
        _say(console, "", section.title, style="bold")
    for line in section.sentences:
        _say(console, "", line)


def summary(comparison: Comparison, study: Study) -> list[str]:
    """How the verdicts were made and how many runs they rest on."""
    design = comparison.design
    unit = metrics.unit(design.metric)
    rules = (
        f"metric {design.metric} ({design.goal}), pairs by {design.pair}, {wording.percent(design.alpha)} intervals, "
        f"{_margin(comparison)}, verdicts corrected: {comparison.correction}; an interval is of its arm alone, so it "
        "can exclude 0 where the corrected verdict is undecided"
    )
    tiers = {row.tier for row in comparison.rows}
    lines = [facts.counts(study), *([f"in all runs: {', '.join(same)}"] if (same := facts.fixed(study)) else []), rules]
    lines += [*comparison.post_hoc, *(text for tier, text in wording.TIERS.items() if tier in tiers)]
    if comparison.noise is not None:
        noise = comparison.noise
        lines.append(f"baseline against itself: an arm equal to it would get {wording.with_interval(noise)} {unit}")
    return lines


def _margin(comparison: Comparison) -> str:
    if comparison.sesoi is None:
        return "no smallest effect size of interest stated"
    return f"smallest effect size of interest {comparison.sesoi:.4g} {metrics.unit(comparison.design.metric)}"


def name(row: Row) -> str:
    """The arm's name; a study without compared settings has one arm without a name."""
    return row.arm or "all runs"


def replicates(row: Row, comparison: Comparison) -> int:
    """Pairs that an arm's difference rests on; runs of the baseline, and of all arms where there is none.

    With `tune` the baseline's runs of the comparison.
    """
    alone = row.verdict == "baseline" or comparison.design.baseline is None
    return row.runs if alone and not comparison.design.tuning_pairs else row.n


def _answers(comparison: Comparison) -> list[tuple[str, bool, Cell]]:
    """Title, whether it is a number, text: arm, result and verdict."""
    design = comparison.design
    metric = design.metric.removeprefix("val/")
    names = arm_names.short_names(design, [row.arm for row in comparison.rows])
    short = any(names[row.arm] != row.arm for row in comparison.rows) and len(" · ".join(design.factors)) <= 30
    columns: list[tuple[str, bool, Cell]] = [
        (" · ".join(design.factors) if short else "arm", False, _arm(names)),
        ("verdict", False, _verdict),
        (f"Δ {metric}", True, _delta),
        (metric, True, lambda row: wording.plain(row.mean)),
        ("tier", False, lambda row: row.tier or "–"),
        ("n", True, lambda row: str(replicates(row, comparison))),
        ("ρ", True, lambda row: wording.plain(row.rho, 2)),
    ]
    if any(row.tuning for row in comparison.rows):
        columns.append(("tuned to", False, lambda row: row.tuning + (" (edge)" if row.on_edge else "") or "–"))
    return columns


def _costs(comparison: Comparison) -> list[tuple[str, bool, Cell]]:
    columns: list[tuple[str, bool, Cell]] = [
        (title, True, _median(key))
        for title, key in (
            ("params", "parameters"),
            ("FLOPs/tok", "flops_per_token"),
            ("tok/s", "tokens_per_s"),
            ("peak GB", "peak_memory_gb"),
            ("seconds", "seconds"),
        )
    ]
    if any(wording.states(row) for row in comparison.rows):
        columns.append(("not finished", False, lambda row: wording.states(row) or "–"))
    return columns


def _median(key: str) -> Cell:
    def text(row: Row) -> str:
        value = row.medians.get(key)
        return "–" if value is None or value != value else wording.short(value).replace(" ", "")

    return text


def _table(title: str, comparison: Comparison, columns: Sequence[tuple[str, bool, Cell]]) -> Table:
    table = Table(
        title=Text(title, style="bold") if title else None,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for heading, numeric, _ in columns:
        words = [len(word) for text in (heading, *(STYLES if heading == "verdict" else ())) for word in text.split()]
        table.add_column(
            heading, justify="right" if numeric else "left", overflow="fold", no_wrap=numeric, min_width=max(words)
        )
    for row in comparison.rows:
        style = STYLES["baseline"] if row.verdict == "baseline" else ""
        cells = (cell(row) for _, _, cell in columns)
        table.add_row(*(Text(text) if isinstance(text, str) else text for text in cells), style=style)
    return table


def _arm(names: Mapping[str, str]) -> Cell:
    def text(row: Row) -> Text:
        return Text((names[row.arm] or "all runs") + (" ◂" if row.verdict == "baseline" else ""))

    return text


def _delta(row: Row) -> str:
    return "–" if row.delta is None else wording.with_interval(row.delta)


def _verdict(row: Row) -> Text:
    return Text(wording.verdict(row), style=STYLES[row.verdict])


def _lost(study: Study, console: Console) -> None:
    """Runs that are not finished, by name, so that none is dropped silently."""
    lost = facts.lost(study)
    for one in lost[:MOST_LOST]:
        _say(console, "", str(one), style="yellow")
    if (rest := sum(len(one.runs) for one in lost[MOST_LOST:])) > 0:
        _say(console, "", f"and {rest} more runs that are not finished: report.md and runs.csv name them")


def _say(console: Console, lead: str, text: str, style: str = "") -> None:
    """A line that folds at words and hangs below its lead; never a markup."""
    if not lead:
        console.print(Text(text, style=style))
        return
    line = Table.grid()
    line.add_column(no_wrap=True)
    line.add_column(overflow="fold")
    line.add_row(lead, Text(text, style=style))
    console.print(line)
