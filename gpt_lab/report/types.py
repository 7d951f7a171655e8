"""The tables of a report: what one stage hands to the next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import pandas as pd

from gpt_lab.sweep.design import Design
from gpt_lab.sweep.noise import Noise

VerdictName = Literal["baseline", "better", "worse", "equivalent", "real but small", "undecided", "no data"]
Tier = Literal["screen", "confirm"]
RowTier = Literal["screen", "confirm", "sequential"]
"""The last one: seeds were added until the arm was decided."""

COLUMNS = (
    "run",  # folder, or W&B path: unique
    "source",  # local | wandb | offline
    "study",
    "name",
    "state",  # finished | running | stopped | failed | diverged | pruned | missing (asked for, never begun)
    "arm",  # Design.arm, or as group_by says
    "tuning",  # Design.tuning; "" without nuisance settings
    "pair",  # value of the pairing setting, as text
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
)
"""Beside these a `config.<flat key>` for each setting and a `summary.<metric>` for each metric."""


@dataclass
class Study:
    """All runs of one comparison, one row each (COLUMNS), and what they were meant to answer.

    Fields:
        curves: of runs asked for, read on demand: run -> table of step, tokens, flops, seconds and metrics.
        notes: what a reader must know of how the runs were found (unreadable folders, double runs).
    """

    design: Design
    runs: pd.DataFrame
    notes: list[str] = field(default_factory=list)

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
        n: pairs that the difference rests on. runs: finished runs of the arm.
        mean, sd: of the metric over the finished runs.
        delta: difference to the baseline, variant - baseline, with its interval (uncorrected level 1 - alpha).
        p_adjusted: after Holm's (confirm, sequential) or Benjamini-Hochberg's (screen) correction over the family.
        more_seeds: further seeds that an undecided verdict needs, estimated.
        rho: correlation of paired runs. runs_saved: runs that an unpaired design whose interval is as narrow needs
            beyond those of the pairs (rho.Worth); below 0 where pairing cost runs; None below 4 pairs.
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
    more_seeds: int | None
    rho: float | None
    runs_saved: int | None
    medians: Mapping[str, float]
    tuning: str = ""
    on_edge: bool = False
    states: Mapping[str, int] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """The answer: rows best first (the baseline among them), and the band of effects too small to matter.

    Fields:
        noise: what two sets of baseline runs differ by: the difference 0 with the interval that a variant equal to the
            baseline would get; None with fewer than two baseline runs.
        sesoi: the smallest effect size of interest that was used, in units of the metric.
        notes: sentences below the table.
    """

    design: Design
    rows: tuple[Row, ...]
    noise: Interval | None
    sesoi: float
    correction: str
    notes: tuple[str, ...] = ()


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
