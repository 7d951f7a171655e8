"""Seeds that chose the nuisance values and are compared: the arm was chosen by its luck on them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from gpt_lab.stats.tiers import CONFIRMS
from gpt_lab.study.design import Design, Settings
from gpt_lab.validity.planned import Planned, Side
from gpt_lab.validity.rule import Doubt, Rule
from gpt_lab.validity.seen import Seen

REUSED = Rule(
    "reused",
    70,
    title="The seeds that are compared also chose the tuned values",
    withheld="better",
    way=f"{CONFIRMS} or more seeds that chose nothing, at the chosen values",
    unless="fresh seeds",
)


def _said(design: Design) -> Doubt:
    return REUSED.doubt(f"tuned on the {design.pair}s that are compared", "better")


@REUSED.planned(place=105)
def planned(pair: Planned) -> Iterator[Doubt]:
    """Too few pairs on which nothing competes."""
    chose, whole = _chose(pair.mine) | _chose(pair.base), pair.mine.pairs & pair.base.pairs
    if pair.listed and whole & chose and len(whole - chose) < CONFIRMS:
        yield _said(pair.design)


def _chose(side: Side) -> set[str]:
    """Pairs on which two or more nuisance values compete."""
    runs = Counter(pair for pair, _ in {(str(cell.pair), cell.tuning) for cell in side.cells})
    return {pair for pair, count in runs.items() if count > 1}


@REUSED.seen()
def seen(study: Seen) -> Iterator[tuple[Settings, Doubt]]:
    """Arms that have too few pairs that chose nothing."""
    from gpt_lab.frame.paired_scores import fresh

    place = {arm: i for i, arm in enumerate(study.paired.arms)}
    base = place[study.baseline]
    tested = fresh(study.paired, [place[arm] for arm in study.arms], [base] * len(study.arms), CONFIRMS).fresh
    for arm, clean in zip(study.arms, tested, strict=True):
        if not clean:
            yield arm, _said(study.design)
