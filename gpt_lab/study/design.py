"""What a sweep compares: arms, pairs, the baseline. Pure data; read by the runner and by the report."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from gpt_lab import metrics

SEEDS = ("seed", "replica", "batch.seed")
"""Settings that draw a run again; their values are never arms unless someone says so."""


def draws_again(key: str) -> bool:
    """Whether a setting's values replicate a run: only such ones pair the runs of two arms."""
    return key in SEEDS or key.endswith(".seed")


@dataclass(frozen=True, order=True)
class Settings:
    """Settings and their values, frozen: an arm, or the nuisance values of a run within it (its tuning).

    Two are equal where all values are written alike on the command line, whatever file or server they were read from.
    `str` is the whole name, for a reader; nothing reads it back.

    Fields:
        given: each dotted key and its value, in the order of the design. texts: the same, values as one writes them.
    """

    given: tuple[tuple[str, Any], ...] = field(default=(), compare=False)
    texts: tuple[tuple[str, str], ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        texts = tuple([(key, shown(value)) for key, value in self.given])
        object.__setattr__(self, "texts", texts)
        object.__setattr__(self, "_hash", hash(texts))  # tables of thousands of runs are grouped by arm dozens of times

    def __hash__(self) -> int:
        return self._hash  # type: ignore[attr-defined]

    def __reduce__(self) -> tuple[Any, ...]:
        return Settings, (self.given,)  # another process has other hashes

    def __str__(self) -> str:
        return ", ".join(f"{key}={_in_a_name(text)}" for key, text in self.texts)

    def __bool__(self) -> bool:
        return bool(self.texts)

    def text(self, key: str, otherwise: str = "") -> str:
        """The value of a setting as one writes it."""
        return dict(self.texts).get(key, otherwise)

    def without(self, keys: Collection[str]) -> Settings:
        """All but these settings."""
        return Settings(tuple((key, value) for key, value in self.given if key not in keys))


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

    def arm(self, values: Mapping[str, Any]) -> Settings:
        """The arm of a cell: its factors' values."""
        return Settings(tuple([(key, values[key]) for key in self.factors if key in values]))

    def tuning(self, values: Mapping[str, Any]) -> Settings:
        """The nuisance values of a cell; empty without nuisance settings."""
        return Settings(tuple([(key, values[key]) for key in self.nuisance if key in values]))

    def tunes(self, pair: Any) -> bool:
        """Whether a run of this pair (a value, or its text) is one of `tune`, never of the comparison."""
        return shown(pair) in map(shown, self.tuning_pairs)

    @property
    def stated(self) -> Stated:
        """What this design says beforehand of its verdicts."""
        pairs = tuple(shown(value) for value in self.values.get(self.pair, ()) if not self.tunes(value))
        return Stated(self.sesoi, self.metric, pairs or None)

    @property
    def baseline_arm(self) -> Settings | None:
        """The arm that all others are compared with; with `within`, what is common to these."""
        return None if self.baseline is None else self.arm(self.baseline)

    def reference(self, values: Mapping[str, Any]) -> Settings | None:
        """The arm that an arm of these values is compared with: its own where it is one."""
        return None if self.baseline is None else self.arm({**values, **self.baseline})


@dataclass(frozen=True)
class Cell:
    """One run that a sweep asks for.

    Fields:
        index: place in the sweep's order, from 0.
        values: each swept setting's value, the pairing one included.
        arm, tuning: as in Design. pair: value of the pairing setting (None if it is not swept).
        overrides: complete command line of `train` for this run, in order; study=... included.
        key: 12 hex digits that name this cell for good (of its overrides).
        identity: RunConfig.identity() of the composed config: equal for a run of the same settings, whoever ran it.
    """

    index: int
    values: Mapping[str, Any]
    arm: Settings
    tuning: Settings
    pair: Any
    overrides: tuple[str, ...]
    key: str
    identity: str


def join(keys: tuple[str, ...], values: Mapping[str, Any]) -> str:
    """`a=1, b=x` of the given keys."""
    return ", ".join(f"{key}={shown(values[key])}" for key in keys if key in values)


def _in_a_name(text: str) -> str:
    """A value in quotes where it would look like several settings; a list shows its ends itself."""
    return f"'{text}'" if ", " in text and not (text.startswith("[") and text.endswith("]")) else text


def shown(value: Any) -> str:
    """A value as one writes it on the command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)
