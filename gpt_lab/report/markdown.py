"""The report as Markdown: the terminal's content, every lost run, figures, settings, environment, commands."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gpt_lab.analysis import wording
from gpt_lab.analysis.comparison import Comparison, Row
from gpt_lab.analysis.sections.every import Section, sections
from gpt_lab.frame.study import Study
from gpt_lab.report import facts
from gpt_lab.report.table import name, replicates, summary
from gpt_lab.study.sweep import Sweep

if TYPE_CHECKING:
    from gpt_lab.report.figures import Figure

MOST_LOST = 200
MOST_COMMANDS = 20
MOST_SETTINGS = 60


def markdown(
    comparison: Comparison, study: Study, figures: Sequence[Figure], sweep: Sweep | None = None, command: str = ""
) -> str:
    """The text of report.md; figures are linked relatively to it.

    Args:
        sweep: the sweep that the runs came from. command: the command line that made this report.
    """
    design = comparison.design
    parts = [
        f"# {_line(design.question or design.study)}",
        f"**{_line(wording.answer(comparison))}**",
        _answers(comparison),
        "\n".join(f"- {_line(text)}" for text in summary(comparison, study)),
        _section("Not finished", _lost(study)),
        _section("Notes", "\n".join(f"- {_line(text)}" for text in facts.remarks(comparison, study))),
        *(_section(_line(section.title), _body(section)) for section in sections(comparison, study)),
        _section("Cost", _costs(comparison)),
        _section("Figures", _figures(comparison, figures)),
        _section("How the arms differ", _differences(study)),
        _section("Where the runs ran", _environment(study)),
        _section("Repeat it", _commands(study, sweep, command)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _section(title: str, body: str) -> str:
    return f"## {title}\n\n{body}" if body else ""


def _body(section: Section) -> str:
    rows = [[_cell(text) for text in row] for row in section.rows]
    table = _table(section.heads, rows, numbers=set(section.numbers)) if section.heads else ""
    return "\n\n".join(part for part in (table, *map(_line, section.sentences)) if part)


def _answers(comparison: Comparison) -> str:
    metric = comparison.design.metric
    heads = ["arm", "verdict", f"Δ {metric}", metric, "tier", "n", "ρ"]
    tuned = any(row.tuning for row in comparison.rows)
    unfinished = any(wording.states(row) for row in comparison.rows)
    heads += ["tuned to"] * tuned + ["not finished"] * unfinished

    def cells(row: Row) -> list[str]:
        shown = [
            f"**{_cell(name(row))}**" if row.verdict == "baseline" else _cell(name(row)),
            wording.verdict(row),
            "–" if row.delta is None else wording.with_interval(row.delta),
            wording.plain(row.mean)
            + (f" ± {wording.plain(row.sd)}" if row.sd is not None and row.sd == row.sd else ""),
            row.tier or "–",
            str(replicates(row, comparison)),
            wording.plain(row.rho, 2),
        ]
        if tuned:
            shown.append(_cell(row.tuning + (" (edge of its ladder)" if row.on_edge else "")) or "–")
        return shown + [wording.states(row) or "–"] * unfinished

    return _table(heads, [cells(row) for row in comparison.rows], numbers={2, 3, 5, 6})


def _costs(comparison: Comparison) -> str:
    keys = {
        "parameters": "parameters",
        "without embeddings": "non_embedding",
        "FLOPs per token": "flops_per_token",
        "tokens/s": "tokens_per_s",
        "peak memory, GB": "peak_memory_gb",
        "seconds": "seconds",
    }
    rows = [
        [_cell(name(row)), *(_number(row.medians.get(key)) for key in keys.values())]
        for row in comparison.rows
        if row.medians
    ]
    text = "Medians of each arm's finished runs."
    return f"{text}\n\n{_table(['arm', *keys], rows, numbers=set(range(1, 7)))}" if rows else ""


def _number(value: float | None) -> str:
    if value is None or value != value:
        return "–"
    return wording.count(value) if 1000 <= abs(value) < 1e12 else wording.short(value)


def _lost(study: Study) -> str:
    lost = facts.lost(study)
    lines = [f"- {_line(str(one))}" for one in lost]
    if len(lines) > MOST_LOST:
        lines = [*lines[:MOST_LOST], f"- and {sum(len(one.runs) for one in lost[MOST_LOST:])} more: see runs.csv"]
    return "\n".join(lines)


def _figures(comparison: Comparison, figures: Sequence[Figure]) -> str:
    from gpt_lab.report.figures import absent

    drawn = [f"![{_line(figure.title)}](figures/{figure.svg.name})\n\n{_line(figure.caption)}" for figure in figures]
    return "\n\n".join([*drawn, *map(_line, absent(comparison, list(figures)))])


def _differences(study: Study) -> str:
    found = facts.differences(study)
    if not found:
        return ""
    arms = list(next(iter(found.values())))
    rows = [[f"`{key}`", *(_cell(values[arm]) for arm in arms)] for key, values in found.items()]
    text = _table(["setting", *(_cell(arm or "all runs") for arm in arms)], rows[:MOST_SETTINGS])
    return text + (
        f"\n\nand {len(rows) - MOST_SETTINGS} more settings: see runs.csv" if len(rows) > MOST_SETTINGS else ""
    )


def _environment(study: Study) -> str:
    rows = []
    for key, values in facts.environment(study).items():
        total = sum(values.values())
        for value, number in values.most_common(4):
            rows.append([key, _cell(value), "all" if number == total else str(number)])
        if len(values) > 4:
            rows.append([key, f"and {len(values) - 4} more", ""])
    return _table(["what", "value", "runs"], rows, numbers={2}) if rows else ""


def _commands(study: Study, sweep: Sweep | None, command: str) -> str:
    lines = facts.commands(study, sweep, command)
    last = lines.pop()
    more = (
        [f"# and {len(lines) - MOST_COMMANDS} more: column env.command of runs.csv"]
        if len(lines) > MOST_COMMANDS
        else []
    )
    text = "\n".join([*lines[:MOST_COMMANDS], *more, last])
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}sh\n{text.strip()}\n{fence}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], numbers: set[int] | None = None) -> str:
    rule = ["---:" if index in (numbers or set()) else "---" for index in range(len(heads))]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in ([_cell(head) for head in heads], rule, *rows))


def _line(text: str) -> str:
    """Text of a run on one line, so that nothing in it is taken for Markdown or HTML."""
    return re.sub(r"([\\`*_\[\]<>])", r"\\\1", " ".join(text.split()))


def _cell(text: str) -> str:
    """As `_line`, inside a table."""
    return _line(text).replace("|", "\\|")
