"""The rules on fair comparison (fairness.py) before anything is run: what the report will withhold, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpt_lab import schema
from gpt_lab.errors import LabError
from gpt_lab.lines import count_of
from gpt_lab.options import is_number
from gpt_lab.schema import RunConfig
from gpt_lab.stats.tiers import CONFIRMS
from gpt_lab.store import Run, record
from gpt_lab.study.design import Cell, Design, shown
from gpt_lab.study.sweep import Sweep
from gpt_lab.sweep.ledger import ledger
from gpt_lab.validity import rules
from gpt_lab.validity.rules import Doubt, doubt


@dataclass(frozen=True)
class Side:
    """An arm as it is known before it is run.

    Fields:
        cells: its runs. cfg: the config of one of them. data: fingerprint of what that would train on.
        tokens, flops: of one run; None under a budget in seconds.
        text: what is known of its tokens as text (train.plan.Plan.text).
    """

    arm: str
    cells: Sequence[Cell]
    cfg: RunConfig
    data: str
    parameters: int
    tokens: float | None
    flops: float | None
    text: Mapping[str, str | bool] = field(default_factory=dict)


def beforehand(sweep: Sweep, sides: Sequence[tuple[Side, Side]]) -> list[str]:
    """A sentence for each thing that will forbid a verdict, with the arms and the way out.

    Args:
        sides: each arm and the one that it is compared with.
    """
    design = sweep.design
    kind = rules.budget_kind([budget(arm.cfg) for arm, _ in sides], design)
    made = _made(sweep, sides)
    found: dict[Doubt, list[str]] = {}
    said: dict[str, list[str]] = {}
    for mine, base in sides:
        if mine.arm == base.arm:
            continue
        each = tuning(design, mine, base) if sweep.listed else []
        each += _rates(design, mine, base)
        if kind is not None:
            each += rules.unequal_budget(getattr(mine, kind), getattr(base, kind), kind)
        keys = unlike(mine.cfg.flat(), base.cfg.flat())
        each += rules.unlike(keys, design, matched=mine.cfg.match is not None)
        each += _versions(design, mine, base, made)
        each += rules.unlike_text(mine.text, base.text, design)
        for one in each:
            found.setdefault(one, []).append(mine.arm)
        size = "" if mine.cfg.match is not None else rules.larger(mine.parameters, base.parameters)
        for text in filter(None, (size, rules.bundled(keys, design))):
            said.setdefault(text, []).append(mine.arm)
    return [
        *(f"{'; '.join(arms)}: {one.text}: {one.withheld}. Way out: {one.way}" for one, arms in found.items()),
        *(f"{'; '.join(arms)}: {text}" for text, arms in said.items()),
    ]


def tuning(design: Design, mine: Side, base: Side) -> list[Doubt]:
    """What the grid's nuisance values alone tell of an arm's tuning and its baseline's."""
    tunings = [list(dict.fromkeys(cell.tuning for cell in side.cells)) for side in (mine, base)]
    found = rules.unequal_tuning(len(tunings[0]), len(tunings[1]))
    found += rules.untuned(tunings[0], tunings[1])
    for key in design.nuisance:
        edges = [_always_at_an_edge(key, side) for side in (mine, base)]
        if edges[0]:
            text = f"two values of {key}: the best of them is always at the edge of what was tried"
            found.append(doubt("edge", text, "better", "worse"))
        elif edges[1]:
            text = f"two values of {key} for the baseline: the best of them is always at the edge of what was tried"
            found.append(doubt("edge", text, "better"))
    chose, whole = _chose(mine) | _chose(base), _pairs(mine) & _pairs(base)
    if whole & chose and len(whole - chose) < CONFIRMS:
        found.append(rules.reused(design.pair))
    return found


def _rates(design: Design, mine: Side, base: Side) -> list[Doubt]:
    """Learning rates that the sweep tunes in neither arm, where what it compares moves the best one."""
    if any(key.startswith("optim.") and key.endswith("lr") for key in design.nuisance):
        return []
    flats = [side.cfg.flat() for side in (mine, base)]
    rates = [shown(flat.get(rules.RATE)) for flat in flats]
    moved = [word for key, word in rules.MOVES.items() if flats[0].get(key) != flats[1].get(key)]
    others = [key for key in design.factors if key != rules.RATE and _value(key, flats[0]) != _value(key, flats[1])]
    by_hand = rules.rate_by_hand(design) and rates[0] != rates[1] and bool(others)
    return rules.untuned_rate(moved, by_hand, rates)


def _value(key: str, flat: Mapping[str, Any]) -> Any:
    return flat.get(key, flat.get(f"{key}.name"))


def unlike(flat: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Flat settings that both configs have, but not alike."""
    shared = (key for key in flat if key in other and key.split(".")[0] not in schema.NOT_IDENTITY)
    return [key for key in shared if flat[key] != other[key]]


def budget(cfg: RunConfig) -> dict[str, object]:
    """What the config says of it, by kind."""
    return {key.partition(".")[2]: value for key, value in cfg.flat().items() if key.startswith("budget.")}


def _always_at_an_edge(key: str, side: Side) -> bool:
    """Whether it takes two values, numbers, which both end the ladder."""
    values = {shown(cell.values[key]): cell.values[key] for cell in side.cells if key in cell.values}
    numbers = [value for value in values.values() if is_number(value)]
    return len(values) == 2 and len(numbers) == 2


def _pairs(side: Side) -> set[str]:
    return {str(cell.pair) for cell in side.cells}


def _chose(side: Side) -> set[str]:
    """Pairs on which two or more nuisance values compete."""
    runs = Counter(pair for pair, _ in {(str(cell.pair), cell.tuning) for cell in side.cells})
    return {pair for pair, count in runs.items() if count > 1}


Made = dict[tuple[str, str], tuple[tuple[Any, ...], str | None]]
"""Arm and pair -> version of the code, fingerprint of the data; of a run that is done, else as it would be now."""


def _made(sweep: Sweep, sides: Sequence[tuple[Side, Side]]) -> Made:
    """{} where no run is done."""
    from gpt_lab.study.place import folder_of

    folder = folder_of(sweep)
    done = {e.key: e.run for e in ledger.entries(folder) if e.state == "finished" and e.run is not None}
    if not done:
        return {}
    git = record.git()
    found: Made = {}
    for side, _ in sides:
        for cell in side.cells:
            place = (side.arm, str(cell.pair))
            if cell.key not in done:
                found.setdefault(place, (_version(git), side.data))
            elif (run := _run(folder / done[cell.key])) is not None:
                found[place] = (_version(run.record.get("git")), (run.record.get("resolved") or {}).get("data"))
    return found


def _run(path: Path) -> Run | None:
    try:
        return Run.open(path)
    except LabError:  # the report says what became of it
        return None


def _version(git: Mapping[str, Any] | None) -> tuple[Any, ...]:
    return tuple((git or {}).get(key) for key in ("commit", "dirty", "changes"))


def _versions(design: Design, mine: Side, base: Side, made: Made) -> list[Doubt]:
    """Pairs of which one run is done and the other would be made of other code or data."""
    if not made:
        return []
    places = [((mine.arm, pair), (base.arm, pair)) for pair in sorted(_pairs(mine) & _pairs(base))]
    both = Counter((made[a], made[b]) for a, b in places if a in made and b in made)
    compared = {factor.split(".")[0] for factor in (*design.factors, *design.nuisance)}
    found = []
    code = sum(number for (a, b), number in both.items() if not record.same_code(*a[0], *b[0]))
    data = sum(number for (a, b), number in both.items() if None not in (a[1], b[1]) and a[1] != b[1])
    now = "(runs that are done, against what would run now)"
    if code:
        text = f"other code than the baseline's in {count_of(code, 'pair')} {now}"
        found.append(doubt("code", text, "better", "worse"))
    if data and not compared & {"data", "tokenizer"}:
        text = f"another version of the data than the baseline's in {count_of(data, 'pair')} {now}"
        found.append(doubt("data", text, "all"))
    return found
