"""The tables of a report, each made once for every form of it: arms, costs, sections, settings, runs, environment."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from gpt_lab import metrics
from gpt_lab.analysis import wording
from gpt_lab.analysis.comparison import Comparison, Row
from gpt_lab.analysis.sections.every import sections
from gpt_lab.analysis.table import NOTHING, Cell, Column, Table
from gpt_lab.frame.study import Study
from gpt_lab.report import facts
from gpt_lab.study.arm_names import short_names

ALONE = "all runs"
"""The one arm of a study that compares no settings."""
LONGEST = 30
"""Letters of factors that may stand at the head of the arms where there is little room."""
MOST_SETTINGS = 60
MOST_VALUES = 6
"""Values of one thing that the environment lists."""
MOST_RUNS = 500
"""Rows of the table of runs: a browser sorts and filters them at once; runs.csv holds all."""
FILES = frozenset({"markdown", "page"})


@dataclass(frozen=True)
class Report:
    """A comparison as its readers get it: its sentences, and its tables in their order, the arms first.

    What is said of each run is made only for files: a terminal shows none of it.
    """

    comparison: Comparison
    study: Study

    @property
    def title(self) -> str:
        """The question, or the study's name."""
        return self.comparison.design.question or self.comparison.design.study

    @property
    def answer(self) -> str:
        """What the comparison says, in one or two sentences."""
        return wording.answer(self.comparison)

    @cached_property
    def summary(self) -> list[str]:
        """How many runs the verdicts rest on, and how they were made."""
        return facts.summary(self.comparison, self.study)

    @cached_property
    def _everywhere(self) -> tuple[Table, ...]:
        return (arms(self.comparison), *costs(self.comparison), *sections(self.comparison, self.study))

    @cached_property
    def _in_files(self) -> tuple[Table, ...]:
        return (*settings(self.study), runs(self.study), *environment(self.study))

    def in_form(self, form: str) -> list[Table]:
        """The tables of one form: console, markdown, or page."""
        made = (*self._everywhere, *(self._in_files if form in FILES else ()))
        return [table for table in made if form in table.forms]


@dataclass(frozen=True)
class CostColumn:
    """What an arm costs: its key in Row.medians, its column, and its number as text."""

    key: str
    column: Column
    text: Callable[[float], str]


def _exact(value: float) -> str:
    return wording.count(value) if 1000 <= abs(value) < 1e12 else wording.short(value)


COSTS = (
    CostColumn("parameters", Column("parameters", "", True, "params"), wording.count),
    CostColumn("non_embedding", Column("without embeddings", "parameters", True, "no emb.", spare=True), wording.count),
    CostColumn("flops_per_token", Column("FLOPs/token", "training", True, "FLOPs/tok"), _exact),
    CostColumn("tokens_per_s", Column("tokens/s", "", True, "tok/s"), wording.count),
    CostColumn("peak_memory_gb", Column("peak memory, GB", "", True, "peak GB"), "{:.2f}".format),
    CostColumn("seconds", Column("seconds", "", True), "{:,.1f}".format),
)


def arms(comparison: Comparison) -> Table:
    """Every arm against the baseline, best first."""
    design, rows = comparison.design, comparison.rows
    names = short_names(row.arm for row in rows)
    factors = " · ".join(design.factors)
    shortened = any(names[row.arm] != str(row.arm) for row in rows) and len(factors) <= LONGEST
    level, near = wording.percent(design.alpha), metrics.short(design.metric).removeprefix("val/")
    columns = [
        Column("arm", short=factors if shortened else ""),
        Column("verdict", "corrected"),
        Column(f"Δ {design.metric}", f"variant − baseline, {level} interval", True, f"Δ {near}"),
        Column(design.metric, "mean ± sd of runs", True, near),
        Column("tier"),
        Column("n", "pairs", True),
        Column("p", "adjusted", True, spare=True),
        Column("ρ", "of pairs", True),
    ]
    tuned, lost = any(row.tuning for row in rows), any(wording.states(row) for row in rows)
    columns += [Column("tuned to", "chosen within the arm")] * tuned + [Column("not finished", spare=True)] * lost
    cells = [
        (
            Cell(str(row.arm) or ALONE, kind="arm", short=names[row.arm]),
            Cell(wording.verdict(row), kind=row.verdict),
            _delta(row),
            Cell(_mean(row), _key(row.mean), short=wording.plain(row.mean)),
            Cell(row.tier or NOTHING),
            Cell(str(n := replicates(row, comparison)), float(n)),
            Cell(wording.p_value(row.p_adjusted), _key(row.p_adjusted)),
            Cell(wording.plain(row.rho, 2), _key(row.rho)),
            *[_tuning(row)] * tuned,
            *[Cell(wording.states(row) or NOTHING)] * lost,
        )
        for row in rows
    ]
    return Table("Arms, best first", (), tuple(columns), tuple(cells), "arms")


def replicates(row: Row, comparison: Comparison) -> int:
    """Pairs that an arm's difference rests on; runs of the baseline, and of all arms where there is none.

    With `tune` the baseline's runs of the comparison.
    """
    alone = row.verdict == "baseline" or comparison.design.baseline is None
    return row.runs if alone and not comparison.design.tuning_pairs else row.n


def costs(comparison: Comparison) -> list[Table]:
    """Medians of each arm's finished runs, in the order of the arms; none where nothing was recorded."""
    rows = comparison.rows
    shown = [cost for cost in COSTS if any(math.isfinite(row.medians.get(cost.key, math.nan)) for row in rows)]
    if not shown:
        return []
    first = arms(comparison)
    cells = tuple(
        (cells[0], *(_cost(row, cost) for cost in shown)) for row, cells in zip(rows, first.rows, strict=True)
    )
    said = ("Medians of each arm's finished runs.",)
    columns = (first.columns[0], *(cost.column for cost in shown))
    return [Table("What each arm costs", said, columns, cells, "costs")]


def settings(study: Study) -> list[Table]:
    """Settings that differ between arms, with the longer side downwards."""
    found = facts.differences(study)
    if not found:
        return []
    names = list(next(iter(found.values())))
    if len(names) <= len(found):
        heads = ("setting", *(str(arm) or ALONE for arm in names))
        rows = [_texts(Cell(key, kind="code"), *(values[arm] for arm in names)) for key, values in found.items()]
    else:
        heads = ("arm", *found)
        rows = [
            _texts(Cell(str(arm) or ALONE, kind="arm"), *(values[arm] for values in found.values())) for arm in names
        ]
    said = ["All other settings are the same in all arms."]
    if len(rows) > MOST_SETTINGS:
        said.append(f"{len(rows) - MOST_SETTINGS} more rows are in runs.csv.")
    columns = tuple(map(Column, heads))
    return [Table("How the arms differ", tuple(said), columns, tuple(rows[:MOST_SETTINGS]), "settings", FILES)]


def runs(study: Study) -> Table:
    """Every run: those not finished first, then by arm and pair as the sweep has them."""
    every, design = study.runs, study.design
    tuned, failed = any(every["tuning"]), bool((every["error"] != "").any())
    columns = [Column("run"), Column("state"), Column("arm"), *[Column("tuned to")] * tuned, Column(design.pair)]
    columns += [Column(head, number=True) for head in (design.metric, "tokens", "seconds", "tokens/s")]
    columns += [Column("error")] * failed
    order = np.argsort((every["state"] == "finished").to_numpy(bool), kind="stable")[:MOST_RUNS]
    rows = tuple(_run(row, tuned, failed) for row in every.iloc[order].to_dict("records"))
    said = () if len(every) <= MOST_RUNS else (f"The first {MOST_RUNS} of {len(every)} runs; runs.csv holds all.",)
    return Table("Runs", said, tuple(columns), rows, "runs", frozenset({"page"}))


def environment(study: Study) -> list[Table]:
    """Where the runs ran: what, its values, and how many runs have each."""
    rows = []
    for key, values in facts.environment(study).items():
        total = sum(values.values())
        for value, number in values.most_common(MOST_VALUES):
            count = Cell("all" if number == total else str(number), float(number))
            rows.append((Cell(key, kind="name"), Cell(value, kind="text"), count))
        if len(values) > MOST_VALUES:
            rows.append((Cell(key, kind="name"), Cell(f"and {len(values) - MOST_VALUES} more"), Cell("", math.nan)))
    columns = (Column("what"), Column("value"), Column("runs", number=True))
    return [Table("Where the runs ran", (), columns, tuple(rows), "environment", FILES)] if rows else []


def _delta(row: Row) -> Cell:
    if row.delta is not None:
        return Cell(wording.with_interval(row.delta), row.delta.estimate, kind="interval")
    return Cell("0", 0.0) if row.verdict == "baseline" else Cell(NOTHING, math.nan)


def _mean(row: Row) -> str:
    spread = "" if row.sd is None or not math.isfinite(row.sd) else f" ± {wording.plain(row.sd)}"
    return wording.plain(row.mean) + spread


def _tuning(row: Row) -> Cell:
    if not row.tuning:
        return Cell(NOTHING)
    edge = " (edge of its ladder)" if row.on_edge else ""
    return Cell(f"{row.tuning}{edge}", short=f"{row.tuning}{' (edge)' * row.on_edge}")


def _cost(row: Row, cost: CostColumn) -> Cell:
    value = row.medians.get(cost.key, math.nan)
    if not math.isfinite(value):
        return Cell(NOTHING, math.nan)
    return Cell(cost.text(value), float(value), short=wording.short(value).replace(" ", ""))


def _run(row: dict[str, object], tuned: bool, failed: bool) -> tuple[Cell, ...]:
    state, numbers = str(row["state"]), {key: float(str(row[key])) for key in ("score", "tokens", "seconds")}
    rate = float(str(row["tokens_per_s"]))
    return (
        Cell(str(row["run"]), kind="run"),
        Cell(state, kind="" if state == "finished" else "lost"),
        Cell(str(row["arm"]) or ALONE),
        *[Cell(str(row["tuning"]) or NOTHING)] * tuned,
        _pair(str(row["pair"])),
        Cell(wording.plain(numbers["score"]), numbers["score"]),
        Cell(wording.count(numbers["tokens"]), numbers["tokens"]),
        Cell(wording.plain(numbers["seconds"], 1), numbers["seconds"]),
        Cell(wording.count(rate), rate),
        *[Cell(str(row["error"]) or NOTHING, kind="text")] * failed,
    )


def _texts(first: Cell, *others: str) -> tuple[str | Cell, ...]:
    return first, *others


def _pair(text: str) -> Cell:
    try:
        return Cell(text or NOTHING, float(text))
    except ValueError:
        return Cell(text or NOTHING)


def _key(value: float | None) -> float:
    return math.nan if value is None else float(value)
