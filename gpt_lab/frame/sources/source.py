"""The interface of run sources: the columns that the store and a W&B server give alike.

A loader is one function, `load(...) -> Source`; it makes its rows with `row`, so that every source fills the same
columns from the same metric names. Arms, pairs and scores are frame/arms.py's business. Imports no pandas.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gpt_lab.options import is_number
from gpt_lab.study.design import Stated
from gpt_lab.study.sweep import Sweep

if TYPE_CHECKING:
    import pandas as pd

NUMBERS = {
    "seconds": "seconds",
    "steps": "steps",
    "tokens": "tokens",
    "flops": "flops",
    "parameters": "parameters",
    "parameters_non_embedding": "parameters_non_embedding",
    "tokens_per_s": "perf/tokens_per_s",
    "peak_memory_gb": "perf/peak_memory_gb",
    "floor_unigram": "floor/unigram",
    "floor_bigram": "floor/bigram",
    "floor_trigram": "floor/trigram",
    "targets": "val/targets",
}
"""Column of the report to key of a run's summary."""

ENVIRONMENT = (
    "command",
    "commit",
    "dirty",
    "changes",
    "code",
    "started",
    "finished",
    "cpu",
    "gpu",
    "gpus",
    "cores",
    "threads",
    "system",
    "device",
    "precision",
    "kernel",
    "compile",
    "loss",
    "data",
    "packages",
    "lossy",
    "ends",
    "packing",
    "measure",
    "seen",
)
"""Where and how a run ran: times are ISO text in UTC; code is a hash of the lab's modules; device to compile are what
`auto` became, loss is `chunked` where it was; data is the fingerprint of the corpus and tokenizer; packages is text,
`python 3.11.7, torch 2.11.0`; lossy is what the tokenizer loses of the validation text, ends whether it marks where
documents end, packing what it does to them, measure what validation measures if not the exact likelihood, seen why a
teacher may have seen the validation text."""

STATES = ("finished", "running", "stopped", "failed", "diverged", "pruned", "missing")


@dataclass(frozen=True)
class Wanted:
    """A run that a sweep asks for: a cell of its grid, or an entry of its ledger.

    Fields:
        key, values, identity: as in Cell.
        state: what the ledger knows; missing without one.
        run: the `run` of its row, where the ledger knows it.
        error: last line of what went wrong.
    """

    key: str
    values: Mapping[str, Any]
    identity: str
    state: str = "missing"
    run: str | None = None
    error: str = ""


@dataclass
class Source:
    """Runs as they were found.

    Fields:
        rows: one per run, each made by `row`.
        curves: of the runs asked for: run -> table of step, tokens, flops, seconds and metrics, one line per step; what
            cannot be read is added to the notes.
        sweep: the sweep that the source itself says its runs belong to (a ledger's copy, W&B's sweep config).
        stated: what that sweep said of its verdicts before its first run, where the source knows.
        wanted: the runs that this sweep asked for, where the source knows them (a ledger); else None.
        every: those, and what earlier versions of the sweep file asked for.
        notes: what a reader must know of how they were found: unreadable folders, torn files.
        samples: of the runs asked for: run -> step and text that it wrote last; None where the source keeps no texts.
    """

    rows: list[dict[str, Any]]
    curves: Callable[[Sequence[str]], Mapping[str, pd.DataFrame]]
    sweep: Sweep | None = None
    stated: Stated | None = None
    wanted: list[Wanted] | None = None
    every: list[Wanted] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    samples: Callable[[Sequence[str]], Mapping[str, tuple[int, str]]] | None = None


def row(
    run: str,
    source: str,
    study: str,
    name: str,
    state: str,
    config: Mapping[str, Any],
    summary: Mapping[str, Any],
    *,
    error: str = "",
    costs: Mapping[str, Any] | None = None,
    env: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """One run as a row: `config` and `summary` stay mappings, the columns of NUMBERS are floats, NaN where unknown.

    Args:
        run: its folder or W&B path; unique, and what `curves` is asked with.
        source: local or wandb.
        state: one of STATES.
        config: the flat settings, as in run.json.
        summary: the final metrics; non-finite floats as such.
        error: last line of what went wrong.
        costs: what is known before a run ends: parameters, parameters_non_embedding, train_flops_per_token, forked.
        env: what the run says of where it ran, as far as known (keys: ENVIRONMENT).
    """
    costs = costs or {}
    numbers = {column: number(summary.get(key, costs.get(key))) for column, key in NUMBERS.items()}
    per_token = number(costs.get("train_flops_per_token"))
    if math.isnan(per_token) and numbers["tokens"] > 0:
        per_token = numbers["flops"] / numbers["tokens"]
    return {
        "run": run,
        "source": source,
        "study": study,
        "name": name,
        "state": state,
        "error": error,
        **numbers,
        "forked": number((costs.get("forked") or {}).get("step")),
        "train_flops_per_token": per_token,
        "config": config,
        "summary": summary,
        "env": env or {},
    }


def columns(rows: Sequence[Mapping[str, Any]], nowhere: Any = None) -> dict[str, list[Any]]:
    """The values of all rows by key, keys in the order in which they first appear; `nowhere` for a row without one."""
    first = [*rows[0]] if rows else []
    if all([*row] == first for row in rows):  # thousands of runs in one pass over the memory that holds them
        return dict(zip(first, map(list, zip(*(row.values() for row in rows), strict=True)), strict=True))
    keys = dict.fromkeys(itertools.chain.from_iterable(rows))
    return {key: [row.get(key, nowhere) for row in rows] for key in keys}


def number(value: Any) -> float:
    """A float; NaN for what is none, and for whole numbers beyond all floats."""
    if type(value) is float:
        return value
    try:
        return float(value) if is_number(value) else math.nan
    except OverflowError:
        return math.nan
