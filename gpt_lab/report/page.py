"""The report as one HTML file that asks nobody for anything: the answer, the table, figures, runs, environment."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

import jinja2

from gpt_lab.analysis import wording
from gpt_lab.analysis.comparison import Comparison, Row
from gpt_lab.analysis.sections.every import Section, sections
from gpt_lab.frame.study import Study
from gpt_lab.report import facts
from gpt_lab.report.inline import inline
from gpt_lab.study.sweep import Sweep

if TYPE_CHECKING:
    from gpt_lab.report.figures import Figure

MOST_RUNS = 500
"""Rows of the table of runs: a browser sorts and filters them at once; runs.csv holds all."""
MOST_LOST = 100
MOST_SETTINGS = 60
MOST_COMMANDS = 20
MARKS = {
    "baseline": "◇",
    "better": "●",
    "worse": "✖",
    "equivalent": "■",
    "real but small": "◆",
    "undecided": "○",
    "no data": "–",
}
COSTS = {
    "parameters": ("parameters", ""),
    "non_embedding": ("parameters", "without embeddings"),
    "flops_per_token": ("FLOPs/token", "training"),
    "tokens_per_s": ("tokens/s", ""),
    "peak_memory_gb": ("peak memory, GB", ""),
    "seconds": ("seconds", ""),
}


@dataclass(frozen=True)
class Cell:
    """One cell of a sortable table: what is shown and what is sorted by (None: the text)."""

    text: str
    key: float | None = None
    kind: str = ""

    @property
    def sort(self) -> str | None:
        """A number as text; NaN, which sorts last, is empty."""
        return None if self.key is None else "" if math.isnan(self.key) else repr(self.key)


@dataclass(frozen=True)
class Head:
    """One column: its name, what it means, whether it holds numbers."""

    text: str
    meaning: str = ""
    number: bool = False


def page(
    comparison: Comparison, study: Study, figures: Sequence[Figure], sweep: Sweep | None = None, command: str = ""
) -> str:
    """The text of report.html: no outside request, no script but its own; text from runs is never markup.

    Args:
        sweep: the sweep that the runs came from. command: the command line that made this report.
    """
    from gpt_lab.report.figures import absent

    folder = resources.files("gpt_lab.report") / "templates"
    style, script = ((folder / name).read_text("utf-8") for name in ("report.css", "report.js"))
    made = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    design = comparison.design
    lost = facts.lost(study)
    heads, rows = _runs(study)
    settings = _differences(study)
    return made.from_string((folder / "report.html.j2").read_text("utf-8")).render(
        title=design.question or design.study,
        design=design,
        answer=wording.answer(comparison),
        summary=[facts.counts(study), *_basics(comparison)],
        policy=_policy(style, script),
        style=style,
        script=script,
        table_heads=_answer_heads(comparison),
        table_rows=_answer_rows(comparison),
        cost_heads=[Head("arm"), *(Head(text, meaning, True) for text, meaning in _costs(comparison).values())],
        cost_rows=_cost_rows(comparison),
        sections=[_section(section) for section in sections(comparison, study)],
        lost=[str(one) for one in lost[:MOST_LOST]],
        lost_more=sum(len(one.runs) for one in lost[MOST_LOST:]),
        remarks=facts.remarks(comparison, study),
        figures=[(figure, inline(figure.svg.read_text("utf-8"), figure.name)) for figure in figures],
        absent=absent(comparison, list(figures)),
        settings=settings,
        run_heads=heads,
        run_rows=rows[:MOST_RUNS],
        runs_all=len(rows),
        environment=[
            (key, value, number, sum(values.values()))
            for key, values in facts.environment(study).items()
            for value, number in values.most_common(6)
        ],
        level=wording.percent(design.alpha),
        sesoi="" if comparison.sesoi is None else f"{wording.amount(comparison.sesoi)} {wording.unit(design.metric)}",
        correction=comparison.correction,
        commands=_commands(study, sweep, command),
    )


def _section(section: Section) -> dict[str, Any]:
    heads = [Head(text, number=index in section.numbers) for index, text in enumerate(section.heads)]
    rows = [[_sortable(text, index in section.numbers) for index, text in enumerate(row)] for row in section.rows]
    return {"title": section.title, "sentences": section.sentences, "heads": heads, "rows": rows}


def _sortable(text: str, number: bool) -> Cell:
    """A cell that sorts by the number its text begins with."""
    if not number:
        return Cell(text)
    first = text.split()[0].replace("−", "-").replace(",", "").rstrip("%") if text.split() else ""
    try:
        return Cell(text, float(first))
    except ValueError:
        return Cell(text, math.nan)


def _policy(style: str, script: str) -> str:
    """The page may run its one script and nothing else; styles are inline because the figures' are."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _basics(comparison: Comparison) -> list[str]:
    design = comparison.design
    better = "lower" if design.goal == "minimize" else "higher"
    found = [f"{wording.axis(design.metric)}, {better} is better"]
    if design.baseline_arm is not None:
        found.append(f"baseline {design.baseline_arm}{wording.within(design)}")
    band = "" if comparison.sesoi is None else f"differences below {wording.amount(comparison.sesoi)} do not matter"
    return [*found, f"paired by {design.pair}", *([band] if band else [])]


def _answer_heads(comparison: Comparison) -> list[Head]:
    metric = comparison.design.metric
    level = wording.percent(comparison.design.alpha)
    heads = [
        Head("arm"),
        Head("verdict", "corrected"),
        Head(f"Δ {metric}", f"variant − baseline, {level} interval", True),
        Head("n", "pairs", True),
        Head(metric, "mean ± sd of runs", True),
        Head("p", "adjusted", True),
        Head("ρ", "of pairs", True),
    ]
    if any(row.tuning for row in comparison.rows):
        heads.append(Head("tuned to", "chosen within the arm"))
    if any(wording.states(row) for row in comparison.rows):
        heads.append(Head("not finished"))
    return heads


def _costs(comparison: Comparison) -> dict[str, tuple[str, str]]:
    """The costs that some arm has."""
    return {key: head for key, head in COSTS.items() if any(_known(row.medians.get(key)) for row in comparison.rows)}


def _known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _answer_rows(comparison: Comparison) -> list[list[Cell]]:
    places = wording.common_digits([row.delta for row in comparison.rows if row.delta is not None])
    tuned = any(row.tuning for row in comparison.rows)
    lost = any(wording.states(row) for row in comparison.rows)
    return [_answer_row(row, places, tuned, lost) for row in comparison.rows]


def _answer_row(row: Row, places: int, tuned: bool, lost: bool) -> list[Cell]:
    spread = "" if row.sd is None or not math.isfinite(row.sd) else f" ± {wording.plain(row.sd)}"
    delta = Cell("–", math.nan)
    if row.delta is not None:
        delta = Cell(wording.with_interval(row.delta, places), row.delta.estimate)
    elif row.verdict == "baseline":
        delta = Cell("0", 0.0)
    tier = f" ({row.tier})" if row.tier else ""
    return [
        Cell(row.arm or "all runs", kind="arm"),
        Cell(f"{MARKS.get(row.verdict, '')} {wording.verdict(row)}{tier}", kind=row.verdict.replace(" ", "-")),
        delta,
        Cell(str(row.n), float(row.n)),
        Cell(wording.plain(row.mean) + spread, _key(row.mean)),
        Cell(_p(row.p_adjusted), _key(row.p_adjusted)),
        Cell(wording.plain(row.rho, 2), _key(row.rho)),
        *[Cell(row.tuning + (" (edge)" if row.on_edge else "") or "–")] * tuned,
        *[Cell(wording.states(row) or "–")] * lost,
    ]


def _cost_rows(comparison: Comparison) -> list[list[Cell]]:
    costs = list(_costs(comparison))
    return [
        [
            Cell(row.arm or "all runs", kind="arm"),
            *(Cell(_amount(key, row.medians.get(key)), _key(row.medians.get(key))) for key in costs),
        ]
        for row in comparison.rows
        if row.medians
    ]


def _key(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _p(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _amount(key: str, value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "–"
    if key in ("parameters", "non_embedding", "tokens_per_s"):
        return wording.count(value)
    return f"{value:.2f}" if key == "peak_memory_gb" else f"{value:,.1f}" if key == "seconds" else wording.short(value)


def _differences(study: Study) -> dict[str, Any] | None:
    """Settings that differ between arms, with the longer side downwards."""
    found = facts.differences(study)
    if not found:
        return None
    arms = list(next(iter(found.values())))
    if len(arms) <= len(found):
        rows = [(key, [values[arm] for arm in arms]) for key, values in found.items()]
        corner, columns = "setting", [arm or "all runs" for arm in arms]
    else:
        rows = [(arm or "all runs", [values[arm] for values in found.values()]) for arm in arms]
        corner, columns = "arm", list(found)
    return {
        "corner": corner,
        "columns": columns,
        "rows": rows[:MOST_SETTINGS],
        "more": max(len(rows) - MOST_SETTINGS, 0),
    }


def _runs(study: Study) -> tuple[list[Head], list[list[Cell]]]:
    """Every run: those not finished first, then by arm and pair as the sweep has them."""
    runs = study.runs
    tuned = bool((runs["tuning"] != "").any())
    failed = bool((runs["error"] != "").any())
    heads = [Head("run"), Head("state"), Head("arm"), *[Head("tuned to")] * tuned, Head(study.design.pair)]
    heads += [Head(study.design.metric, number=True), Head("tokens", number=True), Head("seconds", number=True)]
    heads += [Head("tokens/s", number=True), *[Head("error")] * failed]
    order = sorted(range(len(runs)), key=lambda i: runs["state"].iat[i] == "finished")
    columns = {
        name: runs[name].tolist()
        for name in ("run", "state", "arm", "tuning", "pair", "score", "tokens", "seconds", "tokens_per_s", "error")
    }
    rows = []
    for i in order:
        value = {name: column[i] for name, column in columns.items()}
        state = str(value["state"])
        cells = [
            Cell(str(value["run"]), kind="run"),
            Cell(state, kind="" if state == "finished" else "lost"),
            Cell(str(value["arm"]) or "all runs"),
        ]
        cells += [Cell(str(value["tuning"]) or "–")] * tuned
        cells += [
            _pair(str(value["pair"])),
            Cell(wording.plain(value["score"]), float(value["score"])),
            Cell(wording.count(value["tokens"]), float(value["tokens"])),
            Cell(wording.plain(value["seconds"], 1), float(value["seconds"])),
            Cell(wording.count(value["tokens_per_s"]), float(value["tokens_per_s"])),
        ]
        rows.append(cells + [Cell(str(value["error"]) or "–", kind="error")] * failed)
    return heads, rows


def _pair(text: str) -> Cell:
    try:
        return Cell(text or "–", float(text))
    except ValueError:
        return Cell(text or "–")


def _commands(study: Study, sweep: Sweep | None, command: str) -> str:
    lines = [line for line in facts.commands(study, sweep, command) if line]
    own, last = (lines[:-1], lines[-1:]) if command else (lines, [])
    if len(own) > MOST_COMMANDS:
        own = [*own[:MOST_COMMANDS], f"# and {len(own) - MOST_COMMANDS} more: column env.command of runs.csv"]
    return "\n".join([*own, *last])
