"""Export of all runs with every column: runs.csv and runs.parquet."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pandas as pd

from gpt_lab.frame.study import Study, named
from gpt_lab.store.atomic_files import encode, write_atomic

CSV, PARQUET = "runs.csv", "runs.parquet"


def export(study: Study, folder: Path) -> list[Path]:
    """Writes both files, each atomically; returns their paths.

    Raises:
        LabError: a file cannot be written.
    """
    runs = table(study)
    csv, parquet = write_csv(runs, folder), folder / PARQUET
    data = io.BytesIO()
    runs.to_parquet(data, index=False, engine="pyarrow")
    write_atomic(parquet, data.getvalue())
    return [csv, parquet]


def table(study: Study) -> pd.DataFrame:
    """All runs, for files: a column whose values are of one kind keeps it; one of several kinds (a setting that is a
    number in one run and text in another) becomes text, as JSON."""
    runs = named(study.runs)
    return pd.DataFrame({name: _uniform(runs[name]) for name in runs.columns})


def write_csv(runs: pd.DataFrame, folder: Path) -> Path:
    """runs.csv, whole or not at all; nothing is what stands for a missing value.

    Raises:
        LabError: it cannot be written.
    """
    path = folder / CSV
    write_atomic(path, runs.to_csv(index=False).encode("utf-8", "replace"))
    return path


def _uniform(column: pd.Series) -> pd.Series:
    """A column that both formats can hold: numbers, booleans or text, None for what is missing."""
    if column.dtype != object:
        return column
    values = column.tolist()
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {str}:
        return pd.Series(values, index=column.index, dtype="str")
    if kinds == {bool}:
        return pd.Series(values, index=column.index, dtype="boolean")
    if kinds == {int} and all(value is None or abs(value) < 2**63 for value in values):
        return pd.Series(values, index=column.index, dtype="Int64")
    return pd.Series([_json(value) for value in values], index=column.index, dtype="str")


def _json(value: Any) -> str | None:
    return None if value is None else value if isinstance(value, str) else json.dumps(encode(value))
