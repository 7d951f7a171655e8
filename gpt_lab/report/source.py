"""What a loader of runs hands to the report, whether it reads folders, offline W&B files or a W&B server.

A loader is one function, `load(...) -> Source`; it makes its rows with `row`, so that every source fills the same
columns from the same metric names. Arms, pairs and scores are frame.py's business. Imports no pandas.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gpt_lab.sweep.design import Sweep

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
}
"""Column of the report to key of a run's summary."""

STATES = ("finished", "running", "stopped", "failed", "diverged", "pruned", "missing")


@dataclass
class Source:
    """Runs as they were found.

    Fields:
        rows: one per run, each made by `row`.
        curves: of the runs asked for: run -> table of step, tokens, flops, seconds and metrics, one line per step.
        sweep: the sweep that the source itself says its runs belong to (a ledger's copy, W&B's sweep config).
        notes: what a reader must know of how they were found: unreadable folders, torn files.
    """

    rows: list[dict[str, Any]]
    curves: Callable[[Sequence[str]], Mapping[str, pd.DataFrame]]
    sweep: Sweep | None = None
    notes: list[str] = field(default_factory=list)


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
    env: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """One run as a row: `config` and `summary` stay mappings, the columns of NUMBERS are floats, NaN where unknown.

    Args:
        run: its folder or W&B path; unique, and what `curves` is asked with.
        source: local, wandb or offline.
        state: one of STATES.
        config: the flat settings, as in run.json.
        summary: the final metrics; non-finite floats as such.
        error: last line of what went wrong.
        env: what the run says of where it ran: commit, dirty, cpu, gpus, cores, system, packages (name -> version),
            command, started, finished (ISO times, UTC).
    """
    numbers = {column: number(summary.get(key)) for column, key in NUMBERS.items()}
    tokens = numbers["tokens"]
    return {
        "run": run,
        "source": source,
        "study": study,
        "name": name,
        "state": state,
        "error": error,
        **numbers,
        "train_flops_per_token": numbers["flops"] / tokens if tokens > 0 else math.nan,
        "config": config,
        "summary": summary,
        "env": env or {},
    }


def number(value: Any) -> float:
    """A float; NaN for what is none."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
