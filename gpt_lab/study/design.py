"""What a sweep compares: arms, pairs, the baseline. Pure data; read by the runner and by the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gpt_lab import metrics

SEEDS = ("seed", "replica", "batch.seed")
"""Settings that draw a run again; their values are never arms unless someone says so."""


def draws_again(key: str) -> bool:
    """Whether a setting's values replicate a run: only such ones pair the runs of two arms."""
    return key in SEEDS or key.endswith(".seed")


@dataclass(frozen=True)
class Looks:
    """Sequential seeds: an arm is looked at after each number of pairs from `first` to `last` (sequential_seeds.py).

    Fields:
        family: arms that are compared, over which alpha is shared.
    """

    first: int
    last: int
    family: int


@dataclass(frozen=True)
class Stated:
    """What a sweep had said of its verdicts when its first run began: what was changed later is post hoc.

    Fields:
        sesoi, metric: as in Design. pairs: values of the pairing setting that are compared, as text; None: not known.
    """

    sesoi: float | None
    metric: str
    pairs: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Design:
    """The comparison that a sweep file states.

    Fields:
        study: name of the study, folder of its runs, group of its W&B runs.
        question: one sentence, as the report's title.
        metric: key of a run's final summary that decides, such as val/bpb.
        goal: which direction of the metric is better.
        pair: setting that pairs the runs of two arms (the seed); its values replicate, they are no arm.
        factors: swept settings that are compared; each combination of their values is an arm.
        nuisance: swept settings that are optimised within each arm (a learning rate), never compared.
        within: factors that nobody compares (a ladder of scales): an arm's baseline has its own values of them.
        baseline: value of each other factor in the arm that all are compared with; None: the user must choose.
        family: name of the set of comparisons whose verdicts are corrected together.
        sesoi: smallest effect size of interest, in units of the metric; None: none is stated.
        alpha: probability of a false verdict, over the family.
        values: the values of each swept setting, in the file's order (empty for drawn ones).
        factorial: of a two-level factorial the words that define its fraction (stats/two_level.py), none for the full
            one; None: the file states no such design.
        tuning_pairs: values of `pair` on which the nuisance settings are tuned and nothing is compared
            (stats/optimum.py); empty: the file has no `tune`.
        looks: when seeds are added until an arm is decided; None: every arm gets them all.
    """

    study: str
    question: str = ""
    metric: str = metrics.HEADLINE
    goal: metrics.Goal = "minimize"
    pair: str = "seed"
    factors: tuple[str, ...] = ()
    within: tuple[str, ...] = ()
    nuisance: tuple[str, ...] = ()
    baseline: Mapping[str, Any] | None = None
    family: str = ""
    sesoi: float | None = None
    alpha: float = 0.05
    values: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    factorial: tuple[tuple[str, ...], ...] | None = None
    tuning_pairs: tuple[Any, ...] = ()
    looks: Looks | None = None

    def arm(self, values: Mapping[str, Any]) -> str:
        """Name of the arm of a cell: its factors' values, `position=alibi`; several joined by a comma and a space."""
        return join(self.factors, values)

    def tuning(self, values: Mapping[str, Any]) -> str:
        """Name of the nuisance values of a cell, `optim.lr=0.003`; empty without nuisance settings."""
        return join(self.nuisance, values)

    def tunes(self, pair: Any) -> bool:
        """Whether a run of this pair (a value, or its text) is one of `tune`, never of the comparison."""
        return shown(pair) in map(shown, self.tuning_pairs)

    @property
    def stated(self) -> Stated:
        """What this design says beforehand of its verdicts."""
        pairs = tuple(shown(value) for value in self.values.get(self.pair, ()) if not self.tunes(value))
        return Stated(self.sesoi, self.metric, pairs or None)

    @property
    def baseline_arm(self) -> str | None:
        """Name of the arm that all others are compared with; with `within`, what is common to the names of these."""
        return None if self.baseline is None else self.arm(self.baseline)

    def reference(self, values: Mapping[str, Any]) -> str | None:
        """Name of the arm that an arm of these values is compared with: its own where it is one."""
        return None if self.baseline is None else self.arm({**values, **self.baseline})


@dataclass(frozen=True)
class Cell:
    """One run that a sweep asks for.

    Fields:
        index: place in the sweep's order, from 0.
        values: each swept setting's value, the pairing one included.
        arm, tuning: as Design names them. pair: value of the pairing setting (None if it is not swept).
        overrides: complete command line of `train` for this run, in order; study=... included.
        key: 12 hex digits that name this cell for good (of its overrides).
        identity: RunConfig.identity() of the composed config: equal for a run of the same settings, whoever ran it.
    """

    index: int
    values: Mapping[str, Any]
    arm: str
    tuning: str
    pair: Any
    overrides: tuple[str, ...]
    key: str
    identity: str


def join(keys: tuple[str, ...], values: Mapping[str, Any]) -> str:
    """`a=1, b=x` of the given keys."""
    return ", ".join(f"{key}={shown(values[key])}" for key in keys if key in values)


def shown(value: Any) -> str:
    """A value as one writes it on the command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)
