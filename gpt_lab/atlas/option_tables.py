"""The atlas as tables: one of each kind of parts, and how its studies were run."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

import pandas as pd

from gpt_lab.analysis import wording
from gpt_lab.analysis.comparison import Row
from gpt_lab.analysis.table import NOTHING, Cell, Column, Table
from gpt_lab.atlas.answers import Answer, Chapter, Entry
from gpt_lab.atlas.studies import CORPORA
from gpt_lab.console.invocation import prefix

SETTINGS = {
    "steps": "config.budget.steps",
    "tokens a step": "config.batch.tokens",
    "depth": "config.scale.depth",
    "width": "config.scale.width",
    "context": "config.scale.context",
}


def options(chapter: Chapter) -> Table:
    """Every option of a kind against its default: effect and verdict by corpus, price, certificate, reading."""
    columns = [Column("option")]
    for corpus in CORPORA:
        columns += [Column(f"Δ on {corpus}", "bits per byte", True, corpus), Column("verdict", corpus)]
    columns += [
        Column("reading"),
        Column("tokens/s", "ratio", True),
        Column("memory", "ratio", True),
        Column("held against", "and within"),
    ]
    rows = [tuple(_cells(entry)) for entry in chapter.entries]
    return Table(f"{chapter.kind}, against {chapter.baseline}", (), tuple(columns), tuple(rows), chapter.kind)


def conduct(chapter: Chapter) -> list[str]:
    """Sentences on how the studies of a kind were run: runs, budget, margin, tuning, dates, machine."""
    return [_conduct(answer) for answer in chapter.answers.values()]


def _cells(entry: Entry) -> Iterator[Cell]:
    yield Cell(entry.option, kind="arm")
    for corpus in CORPORA:
        yield from _effect(entry.rows.get(corpus))
    yield Cell(entry.reading, kind="text")
    yield _ratio(list(entry.speed.values()))
    yield _ratio(list(entry.memory.values()))
    yield Cell(entry.certificate or NOTHING)


def _effect(row: Row | None) -> Iterator[Cell]:
    if row is None:
        yield Cell(NOTHING, float("nan"))
        yield Cell("not run")
        return
    if row.delta is None:
        yield Cell(NOTHING, float("nan"))
    else:
        yield Cell(wording.with_interval(row.delta), row.delta.estimate, "interval")
    yield Cell(f"{wording.verdict(row)} ({wording.seeds(row.n)})", kind=row.verdict)


def _ratio(values: Sequence[float]) -> Cell:
    """The middle of the corpora's ratios."""
    if not values:
        return Cell(NOTHING, float("nan"))
    mean = sum(values) / len(values)
    return Cell(f"{mean:.2f}", mean)


def _conduct(answer: Answer) -> str:
    runs = answer.study.runs
    done = runs[runs["state"] == "finished"]
    design = answer.comparison.design
    stated = [f"{name} {_only(done, column)}" for name, column in SETTINGS.items() if _only(done, column)]
    tuned = f"each tuned in {', '.join(design.nuisance)}; " if design.nuisance else ""
    looks = f"{design.looks.first} to {design.looks.last} seeds, until decided" if design.looks else "fixed seeds"
    days = sorted({str(text)[:10] for text in done.get("env.finished", ()) if text})
    when = f"{days[0]} to {days[-1]}" if len(days) > 1 else "".join(days)
    machine = f"{_only(done, 'env.cpu') or 'several kinds of CPU'}, {_only(done, 'env.cores') or 'several'} cores"
    lost = len(runs) - len(done)
    missing = f", {lost} more not finished" if lost else ""
    caveat = f" No answer about language models, as {answer.comparison.caveat}." if answer.comparison.caveat else ""
    where = prefix() + shlex.join(["sweep", answer.group.shipped, *answer.group.sweep.overrides])
    return (
        f"{answer.group.corpus}: {len(done)} runs{missing}; {', '.join(stated)}; {tuned}{looks}, smallest effect size "
        f"of interest {design.sesoi:g} bits per byte; {when}, {machine}.{caveat} {where}"
    )


def _only(runs: pd.DataFrame, column: str) -> str:
    """The one value of a column as text; "" where there are several or none."""
    values = runs[column].dropna().unique() if column in runs else []
    if len(values) != 1:
        return ""
    return values[0] if isinstance(values[0], str) else f"{values[0]:g}"
