"""The interface on plain arrays: what a report would say, and without the rest of the lab."""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import gpt_lab.stats
from gpt_lab.analysis.compare import compare as compare_study
from gpt_lab.frame.study import Study
from gpt_lab.stats import compare, power, sample_size
from gpt_lab.stats.power_analysis import detectable
from tests.report.made import NOISE, of_size, row

FOLDER = Path(gpt_lab.stats.__file__).parent


def by_arm(study: Study) -> pd.DataFrame:
    """Scores, a column for each arm's name."""
    return study.runs.assign(arm=study.runs["arm"].map(str)).pivot(index="pair", columns="arm", values="score")


@pytest.mark.parametrize(
    "effect, spread, word",
    [
        (-0.05, 0.001, "better"),
        (0.05, 0.001, "worse"),
        (0.0005, 0.001, "equivalent"),
        (-0.0105, 0.002, "real but small"),
        (0.01, 0.05, "undecided"),
    ],
)
def test_the_word_is_the_report_s(effect: float, spread: float, word: str) -> None:
    study = of_size(effect, spread=spread)
    scores = by_arm(study)
    found = compare(scores["position=a"], scores["position=rope"], sesoi=0.01)
    arm = row(compare_study(study), "a")
    assert found.word == arm.verdict == word
    assert arm.delta is not None
    assert (found.estimate, found.low, found.high) == (arm.delta.estimate, arm.delta.low, arm.delta.high)
    assert (found.p, found.n) == (arm.p_adjusted, arm.n)
    assert str(found).startswith(f"{word}: {effect:+.4f} [")


def test_a_margin_that_nobody_stated_is_none() -> None:
    """Half a hundredth is better if it is sure, and nothing is equivalent."""
    study = of_size(-0.005, spread=0.001)
    scores = by_arm(study)
    assert compare(scores["position=a"], scores["position=rope"]).word == "better"
    noise = by_arm(of_size(0.0002, spread=0.001))
    assert compare(noise["position=a"], noise["position=rope"]).word == "undecided"


def test_higher_scores_can_be_better() -> None:
    assert compare(2.05 + NOISE, 2 + 0.9 * NOISE, goal="maximize").word == "better"


def test_what_decides_nothing() -> None:
    base = 2 + NOISE[:5]
    assert compare(base, base).word == "equivalent"
    same = compare(base + 0.5, base)
    assert same.word == "undecided", "the same difference in every pair is one run"
    assert math.isnan(same.p) and math.isnan(same.low) and math.isnan(same.high), "and tells nothing of the noise"
    lacking = np.where(np.arange(5) > 1, np.nan, base - 0.1)
    few = compare(lacking, base)
    assert (few.word, few.n) == ("undecided", 2) and math.isnan(few.p)
    assert math.isnan(compare([], []).estimate)


@pytest.mark.parametrize(
    "given, message",
    [
        ({"variant": [1.0, 2.0]}, "shapes are"),
        ({"variant": [1.0, 2.0, math.inf]}, "infinite"),
        ({"sesoi": -1.0}, "sesoi=-1"),
        ({"alpha": 0.5}, "alpha=0.5"),
        ({"goal": "max"}, "goal='max': one of minimize, maximize"),
    ],
)
def test_what_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare(**{"variant": [1.0, 2.0, 3.0], "baseline": [1.0, 2.0, 3.5], **given})


def test_sizes_in_the_unit_of_the_deviation() -> None:
    assert power(0.02, 5, sd=0.01) == power(2.0, 5)
    n = sample_size(0.02, sd=0.01, arms=2)
    assert n is not None and power(0.02, n, sd=0.01, arms=2) >= 0.8 > power(0.02, n - 1, sd=0.01, arms=2)
    assert power(detectable(5), 5) == pytest.approx(0.8, abs=0.01)
    for wrong in ({"sd": 0.0}, {"word": "worse"}, {"arms": 0}, {"alpha": 1.0}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))}="):
            sample_size(1.0, **wrong)
    with pytest.raises(ValueError, match="power=1"):
        sample_size(1.0, power=1.0)


def test_the_names_are_listed() -> None:
    assert {"compare", "power", "sample_size", "Verdict"} <= set(dir(gpt_lab.stats))
    with pytest.raises(AttributeError, match="nosuch"):
        gpt_lab.stats.nosuch  # noqa: B018


def test_the_folder_works_alone(tmp_path: Path) -> None:
    """Copied into a project that has numpy and scipy and nothing of the lab, under another name."""
    shutil.copytree(FOLDER, tmp_path / "numbers_", ignore=shutil.ignore_patterns("__pycache__"))
    names = sorted(path.stem for path in FOLDER.glob("[a-z]*.py"))
    program = f"""
import importlib, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("gpt_lab", "torch", "pandas", "statsmodels"):
            raise ImportError(f"{{name}} is not there")
sys.meta_path.insert(0, Refuse())
import numbers_ as stats
for name in {names!r}:
    importlib.import_module(f"numbers_.{{name}}")
found = stats.compare([1.90, 1.91, 1.89], [2.00, 2.012, 1.99])
print(found.word, stats.sample_size(2.0), round(stats.power(2.0, 5), 2))
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["better", str(sample_size(2.0)), str(round(power(2.0, 5), 2))]
