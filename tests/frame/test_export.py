"""runs.csv and runs.parquet: every run, every column, whole files."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gpt_lab.errors import LabError
from gpt_lab.frame import load
from gpt_lab.frame.export import export
from gpt_lab.frame.places import StudyOptions
from tests.helpers import tiny_config
from tests.report import fabricated
from tests.report.stores import save, study


def test_both_files_hold_all_runs_and_columns(tmp_path: Path) -> None:
    place = study(tmp_path, {"rope": 0.0, "alibi": 0.1}, seeds=2)
    save(tmp_path, tiny_config(study="pos", seed=5)).finish("failed", {"val/bpb": math.nan})
    found = load.load([str(place)], StudyOptions())
    paths = export(found, tmp_path)
    assert [path.name for path in paths] == ["runs.csv", "runs.parquet"]
    csv, parquet = pd.read_csv(paths[0]), pd.read_parquet(paths[1])
    for table in (csv, parquet):
        assert list(table.columns) == list(found.runs.columns)
        assert list(table["run"]) == list(found.runs["run"])
        np.testing.assert_array_equal(table["score"], found.runs["score"])  # to the last bit, NaN included
        np.testing.assert_array_equal(table["summary.val/loss"], found.runs["summary.val/loss"])
        assert list(table["config.seed"]) == list(found.runs["config.seed"])
        assert table["config.model.logit_softcap"].isna().all()
        assert not table["config.model.bias"].any()
    assert not list(tmp_path.glob(".*"))  # no half file is left


def test_columns_of_several_kinds_become_text(tmp_path: Path) -> None:
    _, study = fabricated.plain()
    mixed = [1, "two", None, [3, 4.5], True, {"a": math.nan}] + [0.5] * 9
    study.runs["config.mixed"] = pd.Series(mixed, dtype="object")
    study.runs["config.huge"] = pd.Series([2**70] * 15, dtype="object")
    study.runs["config.flags"] = pd.Series([True, None] + [False] * 13, dtype="object")
    study.runs["config.whole"] = pd.Series([1, None] + [3] * 13, dtype="object")
    study.runs["config.text"] = pd.Series(['a,b\n"c"', None] + ["ü"] * 13, dtype="object")
    csv, parquet = (
        read(path) for read, path in zip((pd.read_csv, pd.read_parquet), export(study, tmp_path), strict=True)
    )
    expected = ["1", "two", None, "[3, 4.5]", "true", '{"a": "NaN"}', "0.5"]
    for table in (csv, parquet):
        assert [None if pd.isna(value) else value for value in table["config.mixed"][:7]] == expected
        assert table["config.text"][0] == 'a,b\n"c"' and table["config.text"][2] == "ü"
        assert pd.isna(table["config.whole"][1]) and table["config.whole"][2] == 3
    assert str(parquet["config.huge"][0]) == str(2**70)
    flags = parquet["config.flags"]
    assert flags[0] and pd.isna(flags[1]) and not flags[2]


def test_a_closed_folder_is_one_line(tmp_path: Path) -> None:
    _, study = fabricated.plain()
    with pytest.raises(LabError, match="cannot write .*runs.csv"):
        export(study, tmp_path / "nowhere")
