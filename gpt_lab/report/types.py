"""The tables of a report: what one stage hands to the next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import pandas as pd

from gpt_lab.sweep.design import Design, Stated
from gpt_lab.sweep.noise import Noise

VerdictName = Literal["baseline", "better", "worse", "equivalent", "real but small", "undecided", "no data"]
RowTier = Literal["screen", "confirm", "sequential"]
"""sequential: seeds were added until the arm was decided."""

COLUMNS = (
    "run",  # folder, or W&B path: unique
    "source",  # local | wandb | offline
    "study",
    "name",
    "state",  # finished | running | stopped | failed | diverged | pruned | missing (asked for, never begun)
    "arm",  # Design.arm, or as group_by says
    "tuning",  # Design.tuning; "" without nuisance settings
    "pair",  # value of the pairing setting, as text
    "stratum",  # settings that are neither compared nor the pair: averaged within a pair; "" without any
    "score",  # final value of the metric; NaN unless finished
    "error",  # last line of what went wrong; ""
    "seconds",
    "steps",
    "forked",  # step at which it went on from another run (its steps and seconds count those before); NaN: none
    "tokens",
    "flops",
    "parameters",
    "parameters_non_embedding",
    "train_flops_per_token",
    "tokens_per_s",
    "peak_memory_gb",
    "floor_unigram",
    "floor_bigram",
    "floor_trigram",
    "targets",  # of the validation
    "conflict",  # what another run of the same settings says otherwise; ""
)
"""Beside these a `config.<flat key>` for each setting and a `summary.<metric>` for each metric."""


@dataclass
class Study:
    """All runs of one comparison, one row each (COLUMNS), and what they were meant to answer.

    Fields:
        curves: of runs asked for, read on demand: run -> table of step, tokens, flops, seconds and metrics.
        notes: what a reader must know of how the runs were found (unreadable folders, double runs).
        stated: what was said of the verdicts before the first run; None: the design as it is.
    """

    design: Design
    runs: pd.DataFrame
    notes: list[str] = field(default_factory=list)
    stated: Stated | None = None

    def curves(self, runs: list[str]) -> Mapping[str, pd.DataFrame]:
        """Curves by run; overridden by the loader."""
        raise NotImplementedError

    def noise(self, runs: list[str]) -> Noise | None:
        """What null pairs of other seeds tell of the noise of these runs; overridden by the loader."""
        return None


@dataclass(frozen=True)
class Interval:
    """An estimate with its two-sided interval at level 1 - alpha and its degrees of freedom."""

    estimate: float
    low: float
    high: float
    df: float
    p: float


@dataclass(frozen=True)
class Row:
    """One arm of a comparison; numbers are None where they do not exist.

    Fields:
        n: seeds (values of the pairing setting) that the difference rests on. runs: finished runs of the arm.
        mean, sd: of the metric over these seeds.
        delta: difference to the baseline, variant - baseline, with the arm's own interval at level 1 - alpha.
        p_adjusted: after Holm's correction over the family.
        withheld: a doubt forbids what the numbers say.
        plan: of an undecided arm the seeds, at least and at most, of a new study that decides it; None: out of reach.
        rho: share of the noise that pairing takes away (stats.paired.correlation); None below 5 pairs.
        median: of the differences. left_out: lowest and highest estimate with one seed left out, of arms that are
            better or worse. turns: the seeds without each of which the verdict is another.
        medians: parameters, non_embedding, flops_per_token, tokens_per_s, peak_memory_gb, seconds over its runs.
        tuning: the nuisance values chosen; on_edge: it is the last of its ladder.
        states: how many runs are missing, failed, diverged, stopped, running, pruned.
        warnings: what forbids or weakens the verdict.
    """

    arm: str
    verdict: VerdictName
    tier: RowTier | None
    n: int
    runs: int
    mean: float | None
    sd: float | None
    delta: Interval | None
    p_adjusted: float | None
    rho: float | None
    medians: Mapping[str, float]
    withheld: bool = False
    plan: tuple[int, int | None] | None = None
    median: float | None = None
    left_out: tuple[float, float] | None = None
    turns: tuple[str, ...] = ()
    tuning: str = ""
    on_edge: bool = False
    states: Mapping[str, int] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """The answer: rows best first (the baseline among them).

    Fields:
        noise: what two sets of baseline runs differ by: the difference 0 with the interval that a variant equal to the
            baseline would get; None with fewer than two baseline runs.
        notes: sentences below the table. details: those that only some want.
        post_hoc: sentences on what was chosen once runs were there.
        caveat: why the study is no answer to its question, whatever the verdicts; "" without one.
    """

    design: Design
    rows: tuple[Row, ...]
    noise: Interval | None
    correction: str
    notes: tuple[str, ...] = ()
    details: tuple[str, ...] = ()
    post_hoc: tuple[str, ...] = ()
    caveat: str = ""

    @property
    def sesoi(self) -> float | None:
        """The smallest effect size of interest, in units of the metric; None: none is stated."""
        return self.design.sesoi

    @property
    def band(self) -> float:
        """The same as a number: 0 without one, as then every difference counts."""
        return self.design.sesoi or 0.0


@dataclass(frozen=True)
class Section:
    """A part of a report beyond the table of arms: sentences, and a table where there is one.

    Fields:
        heads, rows: the table's text, row by row. numbers: which columns hold numbers.
    """

    title: str
    sentences: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    numbers: frozenset[int] = frozenset()
