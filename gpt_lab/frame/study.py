"""Study: the tables that the stages of a report hand to each other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from gpt_lab.noise.records import Noise
from gpt_lab.stats.paired import Array
from gpt_lab.study.design import Design, Stated
from gpt_lab.study.sweep import Sweep

COLUMNS = (
    "run",  # folder, or W&B path: unique
    "source",  # local | wandb
    "study",
    "name",
    "state",  # finished | running | stopped | failed | diverged | pruned | missing (asked for, never begun)
    "arm",  # Settings: Design.arm, or as group_by says
    "tuning",  # Settings: Design.tuning; empty without nuisance settings
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


def numbers(table: pd.DataFrame, name: str) -> Array:
    """A column as floats, NaN for what is no number; all NaN for a column that is not there."""
    if name not in table:
        return np.full(len(table), np.nan)
    column = table[name]
    known = column.dtype.kind in "if"
    return (column if known else pd.to_numeric(column, errors="coerce")).to_numpy(float)


def over_tokens(
    table: pd.DataFrame | None, metric: str, low: float = -math.inf, high: float = math.inf
) -> pd.Series[float]:
    """The finite values of a metric over tokens, of a run's table of curves; the last of equal places, in order.

    Args:
        low, high: first and last tokens.
    """
    if table is None or metric not in table or "tokens" not in table:
        return pd.Series(dtype=float)
    values, places = numbers(table, metric), numbers(table, "tokens")
    keep = np.isfinite(values) & np.isfinite(places) & (places >= low) & (places <= high)
    values, places = values[keep], places[keep]
    line = pd.Series(values, index=places, dtype=float)
    if (np.diff(places) > 0).all():
        return line
    return line[~line.index.duplicated(keep="last")].sort_index()


def side_by_side(curves: Sequence[pd.Series[float]], names: Sequence[str | int]) -> pd.DataFrame:
    """Curves as columns, at the places (rows, in order) that all of them have."""
    if not curves:
        return pd.DataFrame()
    first, *others = (line.index.to_numpy(float) for line in curves)
    if all(np.array_equal(first, places) for places in others):  # as a sweep's runs are, and thousands go quickly
        return pd.DataFrame(np.column_stack([line.to_numpy() for line in curves]), index=curves[0].index, columns=names)
    return pd.concat(list(curves), axis=1, keys=names).dropna().sort_index()


def named(runs: pd.DataFrame) -> pd.DataFrame:
    """The table with the names of its arms and tunings, for readers and other programs."""
    return runs.assign(**{name: runs[name].map(str).astype("str") for name in ("arm", "tuning")})


@dataclass
class Study:
    """All runs of one comparison, one row each (COLUMNS), and what they were meant to answer.

    Fields:
        curves: of runs asked for, read on demand: run -> table of step, tokens, flops, seconds and metrics.
        notes: what a reader must know of how the runs were found (unreadable folders, double runs).
        stated: what was said of the verdicts before the first run; None: the design as it is.
        sweep: that asked for the runs; None for runs without one.
    """

    design: Design
    runs: pd.DataFrame
    notes: list[str] = field(default_factory=list)
    stated: Stated | None = None
    sweep: Sweep | None = None

    def curves(self, runs: list[str]) -> Mapping[str, pd.DataFrame]:
        """Curves by run; overridden by the loader."""
        raise NotImplementedError

    def samples(self, runs: list[str]) -> Mapping[str, tuple[int, str]]:
        """The step and the text that each of these runs wrote last, where one was kept; overridden by the loader."""
        return {}

    def noise(self, runs: list[str]) -> Noise | None:
        """What null pairs of other seeds tell of the noise of these runs; overridden by the loader."""
        return None
