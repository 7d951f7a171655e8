"""Equal tuning: every arm tries equally many values, then fresh seeds at the value it chose.

Each arm tries its first values, and goes on beyond an edge that its best one is on, up to the cap. The other arms try
as many more within what they tried, so that all are tuned equally hard. What an arm tries follows from its own scores
and from how often any arm went beyond an edge: neither the order in which runs end nor how many run at once matters.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gpt_lab.errors import ConfigError
from gpt_lab.stats import optimum
from gpt_lab.stats.optimum import Curve, ValueGrid
from gpt_lab.study import cells as cells_
from gpt_lab.study.design import Design, Settings, shown
from gpt_lab.study.format import sequential_seeds
from gpt_lab.study.sweep import Sweep

if TYPE_CHECKING:
    from gpt_lab.sweep.search.asked import Done

BAD = ("diverged", "pruned")
OVER = ("finished", *BAD)
Values = dict[str, Any]
Bases = dict[Settings, tuple[float, ...] | None]
"""The values that each arm's tuning chose; None: no run of it got a score."""
Outcomes = Mapping[tuple[Settings, Settings, str], tuple[str, float | None]]
"""State and score of each run that was asked for, by arm, tuning and pair."""


@dataclass(frozen=True)
class TunedArm:
    """An arm: the values of its factors, and where each tuned setting begins."""

    settings: Settings
    values: Mapping[str, Any]
    ladders: tuple[ValueGrid, ...]


@dataclass(frozen=True)
class SettingSearch:
    """One arm's tuning of one setting, as far as it is known.

    Fields:
        tried: values, in order. widened: how many of them lie beyond an edge.
        curve: None while a run of them is not over.
    """

    tried: tuple[float, ...]
    widened: int
    curve: Curve | None


@dataclass(frozen=True)
class Tuner:
    """The runs of a sweep with `tune`, one after the other.

    Fields:
        rows: the comparison's cells without the tuned values, in order.
        looks: when seeds of the comparison are added until an arm is decided; None: every arm gets them all.
        one_by_one: an arm's tuning runs of one seed follow each other, so that what a pruner sees of the earlier ones
            does not depend on time.
    """

    design: Design
    arms: tuple[TunedArm, ...]
    rows: tuple[Mapping[str, Any], ...]
    looks: sequential_seeds.InterimPlan | None = None
    one_by_one: bool = False

    def next_row(self, done: Sequence[Done]) -> tuple[int, Values] | None:
        """Place and values of the next run.

        Args:
            done: every run that was asked for before, whatever became of it.

        Returns:
            None: nothing can be begun now, because all is asked for or depends on runs that are not over.
        """
        outcomes = self._outcomes(done)
        trials, chosen = self._tuning(outcomes)
        for index, values, before in sorted(trials, key=lambda trial: trial[0]):
            waits = self.one_by_one and before is not None and self._state(outcomes, before) not in OVER
            if self._state(outcomes, values) is None and not waits:
                return index, values
        left = ((index, row) for index, row in self.final(chosen) if self._state(outcomes, row) is None)
        return next(left, None) if self.looks is None else self._looked(self.looks, chosen, outcomes)

    def chosen(self, done: Sequence[Done]) -> Bases:
        """The values that each arm's tuning chose, of arms whose tuning is over; None: no run of it got a score."""
        return self._tuning(self._outcomes(done))[1]

    def final(self, chosen: Bases) -> Iterator[tuple[int, Values]]:
        """Places and values of the comparison's runs, of arms whose tuning is over."""
        first = len(self.design.nuisance) * self._slots * len(self.arms) * len(self.design.tuning_pairs)
        for number, row in enumerate(self.rows):
            values = chosen.get(self.design.arm(row))
            if values is not None:
                yield first + number, self._row(row, values, row[self.design.pair])

    def required_rows(self, done: Sequence[Done]) -> list[tuple[int, Values]]:
        """Places and values of all runs that are known to be needed, those of `done` among them."""
        trials, chosen = self._tuning(self._outcomes(done))
        return [*((index, values) for index, values, _ in trials), *self.final(chosen)]

    def begins(self) -> list[Values]:
        """The first tuning runs, which every arm makes whatever comes of them; later settings at their start."""
        return [
            self._row(arm.values, self._at(arm, level, value), pair)
            for level in range(len(self.design.nuisance))
            for arm in self.arms
            for value in arm.ladders[level].outwards
            for pair in self.design.tuning_pairs
        ]

    def extreme_rows(self) -> list[Values]:
        """Cells that try each arm's first values, and the farthest that widening could bring."""
        found = []
        for arm in self.arms:
            for level, ladder in enumerate(arm.ladders):
                low, high = ladder.values[0], ladder.values[-1]
                ends = (
                    low * (low / ladder.values[1]) ** ladder.widen,
                    high * (high / ladder.values[-2]) ** ladder.widen,
                )
                for value in (*ladder.values, *map(optimum.rounded, ends)):
                    found.append(self._row(arm.values, self._at(arm, level, value), self.design.tuning_pairs[0]))
        return found

    @property
    def least(self) -> int:
        """Tuning runs if no arm's best value is ever on an edge."""
        firsts = sum(len(ladder.values) for ladder in self.arms[0].ladders)
        return firsts * len(self.arms) * len(self.design.tuning_pairs)

    @property
    def most(self) -> int:
        """Tuning runs if some arm is widened up to the cap."""
        wider = sum(ladder.widen for ladder in self.arms[0].ladders)
        return self.least + wider * len(self.arms) * len(self.design.tuning_pairs)

    @property
    def _slots(self) -> int:
        return max(len(ladder.values) + ladder.widen for arm in self.arms for ladder in arm.ladders)

    def _looked(
        self, looks: sequential_seeds.InterimPlan, chosen: Bases, outcomes: Outcomes
    ) -> tuple[int, Values] | None:
        """The run of the comparison that sequential seeds ask for; an arm whose tuning found nothing gets none."""
        rows = {(self.design.arm(row), shown(row[self.design.pair])): (i, row) for i, row in self.final(chosen)}
        scores: dict[tuple[Settings, str], float | None] = {}
        for name, (_, row) in rows.items():
            state, score = outcomes.get(self._name(row), (None, None))
            if state is not None:
                scores[name] = score if state == "finished" and score is not None and math.isfinite(score) else None
        lost = [arm for arm, values in chosen.items() if values is None]
        scores |= {(arm, pair): None for arm in lost for pair in looks.pairs}
        wanted = sequential_seeds.next_run(looks, scores)
        return None if wanted is None else rows.get(wanted)

    def _tuning(self, outcomes: Outcomes) -> tuple[list[tuple[int, Values, Values | None]], Bases]:
        """All tuning runs that are known to be needed (place, values, those of the run before), and what is chosen."""
        trials: list[tuple[int, Values, Values | None]] = []
        bases: Bases = {arm.settings: () for arm in self.arms}
        last: dict[tuple[Settings, int], Values] = {}
        for level in range(len(self.design.nuisance)):
            begun = [(a, arm, base) for a, arm in enumerate(self.arms) if (base := bases.get(arm.settings)) is not None]
            alone = [self._leg(arm, level, base, outcomes, 0) for _, arm, base in begun]
            rounds = max((leg.widened for leg in alone), default=0)
            cap = self.arms[0].ladders[level].widen
            known = len(bases) == len(self.arms) and all(leg.curve is not None for leg in alone)
            final = rounds == cap or known
            following: Bases = {n: None for n, chosen in bases.items() if chosen is None}
            for (a, arm, base), first in zip(begun, alone, strict=True):
                leg = self._leg(arm, level, base, outcomes, rounds) if rounds else first
                for slot, value in enumerate(leg.tried):
                    for p, pair in enumerate(self.design.tuning_pairs):
                        index = ((level * self._slots + slot) * len(self.arms) + a) * len(self.design.tuning_pairs) + p
                        values = self._row(arm.values, self._at(arm, level, value, base), pair)
                        trials.append((index, values, last.get((arm.settings, p))))
                        last[arm.settings, p] = values
                if leg.curve is not None and final:
                    best = optimum.optimum(leg.curve).value
                    following[arm.settings] = None if best is None else (*base, best)
            bases = following
        return trials, bases

    def _leg(
        self, arm: TunedArm, level: int, base: tuple[float, ...], outcomes: Outcomes, rounds: int
    ) -> SettingSearch:
        """An arm's tuning of a setting where `rounds` values are added at least."""
        ladder = arm.ladders[level]
        tried, widened = list(ladder.outwards), 0
        while True:
            curve = self._curve(arm, level, base, tried, outcomes)
            added = len(tried) - len(ladder.values)
            if curve is None:
                return SettingSearch(tuple(tried), widened, None)
            if optimum.best_tried(curve)[1] is not None and added < ladder.widen:
                tried.append(optimum.wider(curve))
                widened += 1
            elif added < rounds:
                tried.append(optimum.finer(curve))
            else:
                return SettingSearch(tuple(tried), widened, curve)

    def _curve(
        self, arm: TunedArm, level: int, base: tuple[float, ...], tried: Sequence[float], outcomes: Outcomes
    ) -> Curve | None:
        """The scores of these values, lower being better; None while one is not known."""
        found: dict[float, float | None] = {}
        for value in tried:
            scores = []
            for pair in self.design.tuning_pairs:
                row = self._row(arm.values, self._at(arm, level, value, base), pair)
                state, score = outcomes.get(self._name(row), (None, None))
                if state not in OVER:
                    return None
                scores.append(score if state == "finished" and score is not None else math.inf)
            mean = math.fsum(scores) / len(scores) if all(map(math.isfinite, scores)) else None
            found[value] = mean if mean is None or self.design.goal == "minimize" else -mean
        return found

    def _at(self, arm: TunedArm, level: int, value: float, base: tuple[float, ...] | None = None) -> tuple[float, ...]:
        """All tuned values of a run: those chosen before, the one that is tried, later ones at their start."""
        starts = tuple(ladder.start for ladder in arm.ladders)
        return (*(starts[:level] if base is None else base), value, *starts[level + 1 :])

    def _row(self, values: Mapping[str, Any], tuned: Sequence[float], pair: Any) -> Values:
        found = dict(values) | dict(zip(self.design.nuisance, tuned, strict=True))
        found.pop(self.design.pair, None)
        return found | {self.design.pair: pair}

    def _outcomes(self, done: Sequence[Done]) -> Outcomes:
        return {self._name(one.values): (one.state, one.score) for one in done}

    def _name(self, values: Mapping[str, Any]) -> tuple[Settings, Settings, str]:
        return self.design.arm(values), self.design.tuning(values), shown(values.get(self.design.pair))

    def _state(self, outcomes: Outcomes, values: Mapping[str, Any]) -> str | None:
        found = outcomes.get(self._name(values))
        return None if found is None else found[0]


def build_tuner(sweep: Sweep) -> Tuner:
    """The tuner of a sweep with `tune`; composes one config for each arm.

    Raises:
        ConfigError: an arm that no run could have, or that has no value to begin with.
    """
    design = sweep.design
    assert sweep.tune is not None
    rows = sweep.combinations()
    firsts = {design.arm(row): row for row in reversed(rows)}
    firsts = {design.arm(row): firsts[design.arm(row)] for row in rows}
    configs = cells_.configs(cells_.many(sweep, list(firsts.values())))
    arms = []
    for (name, row), cfg in zip(firsts.items(), configs, strict=True):
        flat = cfg.flat()
        for one in sweep.tune.keys:
            if one.key not in flat:
                raise ConfigError(f"{sweep.path}: gpt_lab.tune: {name} has no {one.key} that could be tuned")
        values = {key: value for key, value in row.items() if key != design.pair}
        arms.append(TunedArm(name, values, tuple(one.ladder(row, flat[one.key], str(name)) for one in sweep.tune.keys)))
    looks = None if design.looks is None else sequential_seeds.plan(design, rows)
    if looks is not None:
        rows = [row for row in rows if shown(row[design.pair]) in looks.pairs]
    return Tuner(design, tuple(arms), tuple(rows), looks, one_by_one=sweep.early_terminate is not None)
