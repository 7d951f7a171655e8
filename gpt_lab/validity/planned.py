"""An arm and its baseline before they are run, as a sweep's cells and its ledger tell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from gpt_lab.config import schema
from gpt_lab.config.schema import RunConfig
from gpt_lab.errors import LabError
from gpt_lab.store import Run, record
from gpt_lab.study.design import Cell, Settings, shown
from gpt_lab.study.sweep import Sweep
from gpt_lab.sweep.ledger import ledger
from gpt_lab.validity.compared import LEARNING_RATE, SOURCES, Compared, cost_kind, tuned_rate


class Made(NamedTuple):
    """What a run is made of: commit, dirty and changes of the code, fingerprint of the data."""

    code: tuple[Any, ...]
    data: str | None


@dataclass(frozen=True)
class Side:
    """An arm as it is known before it is run.

    Fields:
        cells: its runs. cfg: the config of one of them. data: fingerprint of what that would train on.
        tokens, flops: of one run; None under a budget in seconds.
        text: what is known of its tokens as text (train.plan.Plan.text).
    """

    arm: Settings
    cells: Sequence[Cell]
    cfg: RunConfig
    data: str
    parameters: int
    tokens: float | None
    flops: float | None
    text: Mapping[str, str | bool] = field(default_factory=dict)

    @property
    def pairs(self) -> set[str]:
        """Values of the pairing setting that it runs."""
        return {str(cell.pair) for cell in self.cells}

    @property
    def tunings(self) -> list[Settings]:
        """Names of the nuisance values that it tries."""
        return list(dict.fromkeys(cell.tuning for cell in self.cells))


@dataclass(frozen=True, kw_only=True)
class Planned(Compared):
    """An arm and its baseline before they are run.

    Fields:
        listed: whether all of its cells are known (Sweep.listed).
        made: of each arm and pair what its run is made of, if it is done, else would be now; {} where none is done.
    """

    mine: Side
    base: Side
    listed: bool
    made: Mapping[tuple[Settings, str], Made]

    def apart(self, same: Callable[[Made, Made], bool]) -> int:
        """Pairs of which one run is done and the other would be made of what is not the same."""
        places = [((self.mine.arm, pair), (self.base.arm, pair)) for pair in self.mine.pairs & self.base.pairs]
        both = Counter((self.made[a], self.made[b]) for a, b in places if a in self.made and b in self.made)
        return sum(number for (a, b), number in both.items() if not same(a, b))


def planned(sweep: Sweep, sides: Sequence[tuple[Side, Side]]) -> list[Planned]:
    """What is known of each arm that is no baseline.

    Args:
        sides: each arm and the one that it is compared with.
    """
    design = sweep.design
    budgets = [mine.cfg.to_dict()["budget"] for mine, _ in sides]
    cost, made = cost_kind(budgets, design), _made(sweep, sides)
    found = []
    for mine, base in sides:
        if mine.arm == base.arm:
            continue
        flat, other = mine.cfg.flat(), base.cfg.flat()
        tunings = (mine.tunings, base.tunings) if sweep.listed else ([], [])
        found.append(
            Planned(
                design=design,
                differing=[key for key in {**flat, **other} if _counts(key) and _apart(key, flat, other)],
                differs=lambda key, a=flat, b=other: _value(key, a) != _value(key, b),  # type: ignore[misc]
                matched=mine.cfg.match is not None,
                parameters=(mine.parameters, base.parameters),
                tried=(len(tunings[0]), len(tunings[1])),
                tunings=tunings,
                rates=None if tuned_rate(design) else (shown(flat.get(LEARNING_RATE)), shown(other.get(LEARNING_RATE))),
                cost=cost,
                spent=(None, None) if cost is None else (getattr(mine, cost), getattr(base, cost)),
                text=(mine.text, base.text),
                mine=mine,
                base=base,
                listed=sweep.listed,
                made=made,
            )
        )
    return found


def _counts(key: str) -> bool:
    return key.split(".")[0] not in schema.NOT_IDENTITY


def _apart(key: str, flat: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether both have other values, or one lacks it where that says something."""
    if key in flat and key in other:
        return bool(flat[key] != other[key])
    return key.startswith(SOURCES)


def _value(key: str, flat: Mapping[str, Any]) -> Any:
    return flat.get(key, flat.get(f"{key}.name"))


def _made(sweep: Sweep, sides: Sequence[tuple[Side, Side]]) -> dict[tuple[Settings, str], Made]:
    from gpt_lab.study.place import runs_folder

    folder = runs_folder(sweep)
    done = {e.key: e.run for e in ledger.entries(folder) if e.state == "finished" and e.run is not None}
    if not done:
        return {}
    git = record.git()
    found: dict[tuple[Settings, str], Made] = {}
    for side, _ in sides:
        for cell in side.cells:
            place = (side.arm, str(cell.pair))
            if cell.key not in done:
                found.setdefault(place, Made(_version(git), side.data))
            elif (run := _run(folder / done[cell.key])) is not None:
                found[place] = Made(_version(run.record.get("git")), (run.record.get("resolved") or {}).get("data"))
    return found


def _run(path: Path) -> Run | None:
    try:
        return Run.open(path)
    except LabError:  # the report says what became of it
        return None


def _version(git: Mapping[str, Any] | None) -> tuple[Any, ...]:
    return tuple((git or {}).get(key) for key in ("commit", "dirty", "changes"))
