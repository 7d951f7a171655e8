"""The benchmark of the report runs from start to end; how fast is for a quiet machine to say."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.test_scripts import run


@pytest.mark.slow
def test_report_scale(tmp_path: Path) -> None:
    found = run("simulated/report_scale.py", tmp_path / "scale.json")
    assert (found["runs"], found["arms"]) == (100, 20)
    assert {"read", "compare", "draw", "write", "command, table only"} <= found["seconds"].keys()
    assert all(seconds > 0 for seconds in found["seconds"].values())
