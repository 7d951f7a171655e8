"""Arms whose values read like settings themselves, on the whole way from runs to every file: no name is read back."""

from __future__ import annotations

import contextlib
import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from gpt_lab.analysis.compare import compare
from gpt_lab.analysis.sections import factorial, ladder
from gpt_lab.claims import folder, selection
from gpt_lab.cli import report
from gpt_lab.frame import load, tuned
from gpt_lab.frame.places import StudyOptions
from gpt_lab.frame.study import Study
from gpt_lab.study.design import Cell, Design, Settings
from gpt_lab.sweep.ledger.ledger import Ledger, entries
from tests.report import made
from tests.report.stores import finished
from tests.sweep.sweep_helpers import fake_sweep

PLAIN, ODD, TWIN = "a.txt", "a.txt, position=rope", "b=c @ d, (e=1)"
KEY = "data.path"


def arm(path: str, position: str) -> Settings:
    return Settings((("position", position), (KEY, path)))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three files by two encodings, five seeds; TWIN is worse, alibi on it by half."""
    place = tmp_path_factory.mktemp("odd")
    wobble = np.random.default_rng(0).normal(0, 0.002, (3, 2, 5))
    for i, path in enumerate((PLAIN, ODD, TWIN)):
        for j, position in enumerate(("rope", "alibi")):
            for seed in range(5):
                effect = 0.1 * (path == TWIN) - 0.05 * (path == TWIN) * j + float(wobble[i, j, seed])
                data = {"name": "text", "path": path}
                finished(place / "runs", 2.5 + effect, study="odd", data=data, position=position, seed=seed)
    return place


def test_a_report_a_gate_and_a_claim(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["runs/odd", "--baseline", str(arm(ODD, "rope")), "--sesoi", "0.01"]
    with contextlib.chdir(place):
        study = load.load(words[:1], StudyOptions(baseline=words[2], sesoi=0.01))
        assert set(study.runs["arm"]) == {arm(p, e) for p in (PLAIN, ODD, TWIN) for e in ("rope", "alibi")}
        comparison = compare(study)
        rows = {row.arm: row for row in comparison.rows}
        assert rows[arm(ODD, "rope")].verdict == "baseline"
        planted = {(PLAIN, "rope"): 0, (PLAIN, "alibi"): 0, (TWIN, "rope"): 0.1, (TWIN, "alibi"): 0.05}
        for place_, effect in planted.items():
            delta = rows[arm(*place_)].delta
            assert delta is not None and delta.estimate == pytest.approx(effect, abs=0.005)
        found = factorial.analyse(comparison, study)
        assert found is not None
        sizes = {f"position=alibi × path={PLAIN}": 0, f"position=alibi × path='{TWIN}'": -0.05}
        assert {one.name: one.estimate for one in found.effects} == pytest.approx(sizes, abs=0.005)
        assert {one.simple[0].places[1].text("path") for one in found.effects} == {PLAIN, TWIN}

        assert report.run([*words, "--claim", "odd"]) == 0
        for name in ("runs.csv", "seeds.csv"):
            with open(f"claims/odd/{name}", newline="") as file:
                assert {row["arm"] for row in csv.DictReader(file)} == set(map(str, rows)), name
        parquet = pd.read_parquet("claims/odd/runs.parquet")
        assert set(parquet["arm"]) == set(map(str, rows)) and set(parquet["tuning"]) == {""}
        claim = folder.read(Path("claims/odd"))
        for one in rows:
            (cell,) = selection.choose(claim, [f"{one},3"])
            assert (cell["arm"], cell["pair"]) == (str(one), "3")
        capsys.readouterr()
        report.run([*words, "--gate", str(arm(PLAIN, "alibi")), "--json"])
        assert json.loads(capsys.readouterr().out)["arm"] == str(arm(PLAIN, "alibi"))


def test_tuned_values_and_their_edges() -> None:
    """A text is tuned beside a number: which of both was chosen, and whether it ends its ladder."""
    paths = ("x, optim.lr=0.1", "y=1 @ z")
    values = {KEY: paths, "optim.lr": (0.001, 0.003)}
    design = replace(made.DESIGN, nuisance=(KEY, "optim.lr"), values=values)
    rows = [
        made.run(position, seed, 2 + (path != paths[0]) + (lr != 0.003) + 0.01 * seed, copy=f"{path}{lr}")
        | {"tuning": design.tuning({KEY: path, "optim.lr": lr})}
        for position in ("rope", "none")
        for path in paths
        for lr in values["optim.lr"]
        for seed in range(3)
    ]
    for row in compare(made.study(rows, design)).rows:
        assert row.tuning == Settings(((KEY, paths[0]), ("optim.lr", 0.003))) and row.on_edge
    lrs = replace(design, nuisance=("optim.lr",), tuning_pairs=(0, 1), factors=(KEY,), baseline={KEY: paths[0]})
    legs = [
        made.run("rope", seed, 2 + abs(lr - 0.002), lr=lr) | {"arm": lrs.arm({KEY: paths[1]})}
        for lr in (0.001, 0.002, 0.004)
        for seed in (0, 1)
    ]
    (leg,) = tuned.read(pd.DataFrame(legs), lrs).legs
    assert leg.best.tried == 0.002 and len(leg.curve) == 3


def test_a_ladder_of_scales() -> None:
    design = Design("s", factors=("scale", KEY), within=("scale",), baseline={KEY: PLAIN}, sesoi=0.01)
    rows: list[dict[str, Any]] = []
    for size, scale in ((1e3, "tiny, data.path=a.txt"), (1e5, "big")):
        for path, gain in ((PLAIN, 0.0), (ODD, 0.1)):
            for seed in range(5):
                one = design.arm({"scale": scale, KEY: path})
                rows.append(made.run("rope", seed, 2 + gain + 1e-4 * seed * gain, copy=str(one)))
                rows[-1] |= {"arm": one, "parameters_non_embedding": size}
    study = Study(design, pd.DataFrame(rows))
    (trend,) = ladder.trends(compare(study), study)
    assert trend.variant == f"{KEY}='{ODD}'" and [rung.scale for rung in trend.rungs] == [
        "tiny, data.path=a.txt",
        "big",
    ]
    assert [rung.row.verdict for rung in trend.rungs] == ["worse", "worse"]


def test_a_ledger_and_what_dashboards_group_by(tmp_path: Path) -> None:
    values = {"norm": "x, seed=1 @ (y)", "seed": 0}
    sweep = fake_sweep(tmp_path)
    one = Cell(0, values, sweep.design.arm(values), Settings(), 0, ("seed=0",), "0" * 12, "0" * 12)
    made_ = Ledger.open(tmp_path)
    made_.begin(sweep, [one])
    made_.close()
    (entry,) = entries(tmp_path)
    assert entry.arm == "norm='x, seed=1 @ (y)'" and sweep.design.arm(entry.values) == one.arm
