"""Search: the next cell by grid, tuner, W&B's random draws or Optuna's TPE; early termination.

Optuna never keeps anything: its study lives in memory and is rebuilt from the ledger's finished trials at every
question, so that a killed runner loses nothing and several runners see the same.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from gpt_lab.study import cells as cells_
from gpt_lab.study.design import Cell, join, shown
from gpt_lab.study.format import distributions as draw
from gpt_lab.study.format import sequential_seeds
from gpt_lab.study.format.early_terminate import Hyperband
from gpt_lab.study.format.parameters import Parameter
from gpt_lab.study.sweep import Sweep
from gpt_lab.sweep.search import tuner
from gpt_lab.sweep.search.asked import Done

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution

ATTEMPTS = 200
"""Draws of one cell before the search counts as exhausted: all of them were there already."""
EXACT = frozenset({"int_uniform", "uniform", "q_uniform", "log_uniform_values"})
"""Distributions that Optuna has; of the others it searches the quantiles."""
EDGE = 1e-9
"""Quantiles 0 and 1 of a normal distribution are infinite."""
Curve = Sequence[tuple[int, float]]
"""Steps and values of the metric, in order."""


class Search:
    """The cells of a sweep, one after the other.

    Args:
        cells: of a grid; None: they are drawn.

    Fields:
        cells: those of a grid, in order; None: each is drawn when it is asked for.
        looks: of a sweep with sequential seeds, what draws them.

    Raises:
        ConfigError: values that the search would draw and that no run could have.
    """

    def __init__(self, sweep: Sweep, cells: Sequence[Cell] | None = None) -> None:
        self.sweep = sweep
        self.swept = sweep.swept
        self.cells: Sequence[Cell] | None = cells
        self.tuner = tuner.build_tuner(sweep) if sweep.design.tuning_pairs else None
        looks = sweep.design.looks is not None and self.tuner is None
        self.looks = sequential_seeds.Adaptive(sweep, cells_.cells(sweep)) if looks else None
        if self.tuner is not None:
            self.to_check()
        elif self.looks is not None:
            self.cells = None
        elif sweep.method == "grid" and cells is None:
            self.cells = cells_.cells(sweep)
        elif sweep.method == "random":
            self.cells = drawn(sweep)
        elif sweep.method == "bayes":
            corners(sweep)

    @property
    def most(self) -> int | None:
        """Runs of the whole sweep, at most."""
        if self.tuner is not None:
            return self.tuner.most + len(self.tuner.rows)
        return self.sweep.run_cap if self.planned is None else len(self.planned)

    @property
    def planned(self) -> Sequence[Cell] | None:
        """Cells as far as they are known beforehand; of a tuned sweep the comparison's stand at each arm's start."""
        if self.tuner is None:
            return self.cells if self.looks is None else self.looks.cells
        starts: tuner.Bases = {arm.settings: tuple(ladder.start for ladder in arm.ladders) for arm in self.tuner.arms}
        return cells_.many(self.sweep, [*self.tuner.begins(), *(row for _, row in self.tuner.final(starts))])

    def to_check(self) -> Sequence[Cell]:
        """Cells for a check before the first run: the planned ones, or those that try whatever may be drawn.

        Raises:
            ConfigError: one of them no run could have.
        """
        if self.tuner is not None:
            return cells_.many(self.sweep, self.tuner.extreme_rows())
        return self.planned or corners(self.sweep)

    def kept(self, known: Sequence[Done]) -> list[Cell]:
        """Of the cells that an earlier version of the file drew, those that this one would draw too."""
        keys = {one.key for one in known}
        cells: Iterable[Cell] = () if self.looks is None else self.looks.cells
        if self.tuner is not None:
            cells = (cells_.cell(self.sweep, *row) for row in self.tuner.required_rows(known))
        return [cell for cell in cells if cell.key in keys]

    def ask(self, done: Sequence[Done]) -> Cell | None:
        """The next cell to run.

        Args:
            done: every cell that was asked for before, whatever became of it.

        Returns:
            None: run_cap or the metric's target is reached, nothing new is left, or what is left depends on runs that
            are not over.
        """
        if self._target_reached(done):
            return None
        if self.tuner is not None:
            row = self.tuner.next_row(done)
            return None if row is None else cells_.cell(self.sweep, *row)
        if self.looks is not None:
            return self.looks.ask(done)
        if self.cells is not None:
            asked = {one.index for one in done}
            return next((cell for cell in self.cells if cell.index not in asked), None)
        assert self.sweep.run_cap is not None
        return self._suggested(done) if len(done) < self.sweep.run_cap else None

    def _target_reached(self, done: Sequence[Done]) -> bool:
        target = self.sweep.target
        if target is None:
            return False
        scores = [one.score for one in done if one.state == "finished" and one.score is not None]
        if self.sweep.design.goal == "minimize":
            return any(score <= target for score in scores)
        return any(score >= target for score in scores)

    def _suggested(self, done: Sequence[Done]) -> Cell | None:
        index = max((one.index for one in done), default=-1) + 1
        known = {_name(self.swept, one.values) for one in done}
        study = _study(self.sweep, self.swept, done, seed=int(draw.uniform("tpe", index) * 2**31))
        distributions = space(self.sweep)
        for _ in range(ATTEMPTS):
            values = _from_optuna(self.swept, study.ask(distributions).params)
            if _name(self.swept, values) not in known:
                return cells_.cell(self.sweep, index, values)
        return None


def drawn(sweep: Sweep) -> list[Cell]:
    """The `run_cap` cells of a random sweep: the same on every machine, each other than all before it.

    Raises:
        ConfigError: a draw that no run could have.
    """
    assert sweep.run_cap is not None
    swept = sweep.swept
    rows: list[dict[str, Any]] = []
    seen: set[str] = set()
    for index in range(sweep.run_cap):
        for attempt in range(ATTEMPTS):
            values = {name: draw.value_at(p, draw.uniform(name, index, attempt)) for name, p in swept.items()}
            if _name(swept, values) not in seen:
                break
        else:
            break
        seen.add(_name(swept, values))
        rows.append(values)
    return cells_.many(sweep, rows)


def corners(sweep: Sweep) -> list[Cell]:
    """Cells that try every listed value and both ends of every range, for a check before the first run.

    Raises:
        ConfigError: one of them no run could have.
    """
    swept = sweep.swept
    middle = {name: draw.value_at(p, 0.5) for name, p in swept.items()}
    rows = [middle]
    for name, p in swept.items():
        tried = [draw.value_at(p, u) for u in draw.CHECKED] if p.drawn else p.values
        rows += [{**middle, name: value} for value in tried]
    unique = {_name(swept, row): row for row in rows}
    return cells_.many(sweep, list(unique.values()))


def space(sweep: Sweep) -> dict[str, BaseDistribution]:
    """The search space as Optuna takes it; a distribution that it lacks is searched by quantile, from 0 to 1."""
    return {name: _distribution(p) for name, p in sweep.swept.items()}


def pruner(sweep: Sweep) -> Pruner | None:
    """What `early_terminate` asks for; None without it."""
    stated = sweep.early_terminate
    return None if stated is None else Pruner(stated, sweep.design.goal)


class Pruner:
    """W&B's hyperband: at its bands, only the best 1/eta of the runs go on. Optuna's successive halving decides.

    An iteration is one logged value of the metric, as in W&B. Bands are min_iter, min_iter * eta, ...; or
    max_iter / eta, max_iter / eta^2, ... (s of them).

    Args:
        stated: the file's early_terminate. goal: minimize or maximize.
    """

    def __init__(self, stated: Hyperband, goal: Literal["minimize", "maximize"]) -> None:
        self.goal: Literal["minimize", "maximize"] = goal
        self.eta, self.strict = stated.eta, stated.strict
        self.last: float
        if stated.min_iter is not None:
            self.first, self.last = stated.min_iter, math.inf
        else:
            assert stated.max_iter is not None and stated.s is not None
            powers = [stated.max_iter // self.eta**i for i in range(1, stated.s + 1)]
            kept = [band for band in powers if band >= 1]
            self.first, self.last = kept[-1], kept[0]

    def bands(self, length: int) -> list[int]:
        """The bands that a curve of this many values has reached."""
        found, band = [], self.first
        while band <= min(length, self.last):
            found.append(band)
            band *= self.eta
        return found

    def prune(self, curve: Curve, others: Sequence[Curve]) -> bool:
        """Whether a run may stop.

        Args:
            curve: of the run. others: of the runs that it competes with, running or finished: those of the same arm
                and pair under the same budget. Arms never compete with each other.
        """
        if not self.bands(len(curve)):
            return False
        import optuna

        with _quiet():
            study = optuna.create_study(
                direction=self.goal,
                pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=self.first, reduction_factor=self.eta),
            )
            for other in others:
                self._judge(study.ask({}), other)
            return self._judge(study.ask({}), curve)

    def cut(self, curve: Curve, earlier: Sequence[Curve]) -> int | None:
        """After how many values a run stops that begins when the earlier ones are over; None: it never does.

        The same whenever one looks, unlike `prune`: it judges at each band by what a run and those before it had there.
        """
        known: list[Curve] = []
        for other in (*earlier, curve):
            seen = (band for band in self.bands(len(other)) if self.prune(other[:band], known))
            length = next(seen, None)
            known.append(other[:length])
        return length

    def _judge(self, trial: optuna.Trial, curve: Curve) -> bool:
        """Optuna's verdict at the last band that the curve has reached."""
        values = [value for _, value in curve]
        verdict = False
        for band in self.bands(len(values)):
            best = min if self.goal == "minimize" else max
            # W&B without `strict` looks at the best value so far, not at the band's own
            trial.report(values[band - 1] if self.strict else best(values[:band]), band)
            verdict = trial.should_prune()
        return verdict


def _distribution(parameter: Parameter) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    n, name = parameter.numbers, parameter.distribution
    if not parameter.drawn:
        return CategoricalDistribution([_choice(value) for value in parameter.values])
    if name not in EXACT:
        return FloatDistribution(0.0, 1.0)
    low, high = n["min"], n["max"]
    if name == "int_uniform":
        return IntDistribution(int(low), int(high))
    if name == "q_uniform":
        q = n["q"]
        last = low + math.floor((high - low) / q + 1e-9) * q
        if all(isinstance(number, int) for number in (low, high, q)):
            return IntDistribution(int(low), int(last), step=int(q))
        return FloatDistribution(low, last, step=q)
    return FloatDistribution(low, high, log=name == "log_uniform_values")


def _study(sweep: Sweep, swept: Mapping[str, Parameter], done: Sequence[Done], seed: int) -> optuna.Study:
    import optuna
    from optuna.trial import TrialState, create_trial

    with _quiet():
        study = optuna.create_study(
            direction=sweep.design.goal, sampler=optuna.samplers.TPESampler(seed=seed, constant_liar=True)
        )
        distributions = space(sweep)
        scores = [one.score for one in done if one.state == "finished" and one.score is not None and _finite(one.score)]
        worst = None
        if scores:
            worst = max(scores) if sweep.design.goal == "minimize" else min(scores)
        for one in sorted(done, key=lambda one: one.index):
            params = _to_optuna(swept, one)
            if one.state == "finished" and _finite(one.score):
                trial = create_trial(params=params, distributions=distributions, value=one.score)
            elif one.state == "diverged" and worst is not None:  # as W&B does: a bad place, not an unknown one
                trial = create_trial(params=params, distributions=distributions, value=worst)
            elif one.state == "pruned" and _finite(one.score):
                trial = create_trial(
                    params=params,
                    distributions=distributions,
                    intermediate_values={1: float(one.score or 0)},
                    state=TrialState.PRUNED,
                )
            elif one.state in ("running", "waiting"):
                trial = create_trial(params=params, distributions=distributions, state=TrialState.RUNNING)
            else:
                continue
            study.add_trial(trial)
    return study


def _to_optuna(swept: Mapping[str, Parameter], one: Done) -> dict[str, Any]:
    return {
        name: _choice(one.values[name])
        if not p.drawn
        else one.values[name]
        if p.distribution in EXACT
        else draw.quantile(p, one.values[name])
        for name, p in swept.items()
    }


def _from_optuna(swept: Mapping[str, Parameter], params: Mapping[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, p in swept.items():
        given = params[name]
        if not p.drawn:
            values[name] = next(v for v in p.values if shown(v) == shown(given))
        elif p.distribution == "q_uniform":
            low, q = p.numbers["min"], p.numbers["q"]
            values[name] = draw.stepped(low, q, round((given - low) / q))
        else:
            values[name] = given if p.distribution in EXACT else draw.value_at(p, min(max(given, EDGE), 1 - EDGE))
    return values


def _choice(value: Any) -> Any:
    return shown(value) if isinstance(value, list) else value


def _name(swept: Mapping[str, Parameter], values: Mapping[str, Any]) -> str:
    return join(tuple(swept), values)


def _finite(score: float | None) -> bool:
    return score is not None and math.isfinite(score)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without Optuna's line for each study and trial, and its notes on what is experimental."""
    import optuna

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(level)
