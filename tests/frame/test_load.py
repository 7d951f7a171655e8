"""Targets become one table: by ledger, by sweep file, by settings; from several places."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from gpt_lab.config import composition
from gpt_lab.errors import ConfigError, DataError, LabError
from gpt_lab.frame import load as frame
from gpt_lab.frame.places import Places, StudyOptions, find
from gpt_lab.frame.sources import store_runs
from gpt_lab.frame.sources.source import ENVIRONMENT, Source, row
from gpt_lab.frame.study import COLUMNS
from gpt_lab.study import cells, sweep_file
from gpt_lab.study.design import Cell
from gpt_lab.sweep.ledger.ledger import Ledger
from tests.helpers import tiny_config
from tests.report.stores import finished, save, study, summary
from tests.study.arms import settings

SWEEP = """\
program: train
method: grid
metric: {name: val/bpb, goal: minimize}
parameters:
  position: {values: [rope, alibi]}
  seed: {values: [0, 1]}
  budget.steps: {value: 20}
  tokenizer: {value: byte}
command: [uv, run, train, study=mine, "${args_no_hyphens}"]
gpt_lab: {study: mine, question: "Which?", baseline: {position: rope}, sesoi: 0.01}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_sweep(folder: Path, text: str = SWEEP, name: str = "mine") -> Path:
    (folder / "sweeps").mkdir(exist_ok=True)
    path = folder / "sweeps" / f"{name}.yaml"
    path.write_text(text)
    return path


def run_cells(path: Path, leave: int = 0) -> list[Cell]:
    """The cells of a sweep file as finished runs without a ledger (as `wandb agent` leaves them), all but `leave`."""
    made = cells.cells(sweep_file.load(path))
    for cell in made[: len(made) - leave]:
        cfg = composition.compose(cell.overrides)
        save(Path("runs"), cfg).finish(
            "finished", summary(2.0 + 0.1 * (cell.arm != settings("position=rope")) + 0.01 * cell.pair)
        )
    return made


def test_columns_and_their_kinds(folder: Path) -> None:
    study(folder / "runs", {"rope": 0.0, "alibi": 0.1}, seeds=2)
    save(folder / "runs", tiny_config(study="pos", seed=9)).finish("failed", {})
    found = frame.load(["runs/pos"], StudyOptions())
    runs = found.runs
    assert tuple(runs.columns[: len(COLUMNS)]) == COLUMNS
    assert {f"env.{key}" for key in ENVIRONMENT} <= set(runs.columns)
    assert len(runs) == 5 and runs["run"].is_unique
    failed = runs[runs["state"] == "failed"].iloc[0]
    assert math.isnan(failed["score"]) and failed["error"] == "failed" and failed["parameters"] == 1000
    done = runs[runs["state"] == "finished"]
    assert (done["score"] == done["summary.val/bpb"]).all()
    assert runs["config.seed"].dtype == "int64"
    assert runs["config.model.logit_softcap"].tolist() == [None] * 5
    assert runs["config.optim.lr"].dtype == "float64"
    assert sorted(runs["pair"].unique()) == ["0", "1", "9"]


def test_curves_that_fit_are_read_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study(folder / "runs", {"rope": 0.0, "alibi": 0.1}, seeds=1)
    asked: list[str] = []
    read = store_runs.curves
    monkeypatch.setattr(store_runs, "curves", lambda runs, notes: asked.extend(runs) or read(runs, notes))
    found = frame.load(["runs/pos"], StudyOptions())
    first, second = found.runs["run"]
    one = found.curves([first])[first]
    both = found.curves([first, second])
    assert both[first] is one and list(both) == [first, second] and asked == [first, second]
    monkeypatch.setattr(frame, "MOST_KEPT", 0)
    again = frame.load(["runs/pos"], StudyOptions())
    for _ in range(2):
        pd.testing.assert_frame_equal(again.curves([first])[first], one)
    assert asked == [first, second, first, first]


def test_a_sweep_file_names_arms_and_what_is_missing(folder: Path) -> None:
    path = write_sweep(folder)
    run_cells(path, leave=1)
    for target in ("sweeps/mine.yaml", "mine", "runs/mine"):  # the last one is matched to the sweep of its name
        found = frame.load([target], StudyOptions())
        assert found.design.question == "Which?" and found.design.baseline_arm == settings("position=rope")
        assert list(found.runs["arm"]) == [settings("position=rope"), settings("position=alibi")] * 2
        assert list(found.runs["state"]) == ["finished"] * 3 + ["missing"]
        assert list(found.runs["pair"]) == ["0", "0", "1", "1"]
        assert found.runs["score"].tolist()[:3] == [2.0, 2.1, 2.01]


def test_a_sweep_in_a_folder_of_sweeps_is_found_by_its_name(folder: Path) -> None:
    path = write_sweep(folder)
    (folder / "sweeps" / "below").mkdir()
    path.rename(folder / "sweeps" / "below" / "mine.yaml")
    run_cells(folder / "sweeps" / "below" / "mine.yaml")
    assert frame.load(["below/mine"], StudyOptions()).design.question == "Which?"
    with pytest.raises(DataError, match=r"did you mean sweeps/below/mine.yaml\?"):
        frame.load(["below/mime"], StudyOptions())


def test_runs_of_other_settings_are_not_taken_for_the_sweep_of_that_name(folder: Path) -> None:
    write_sweep(folder)
    finished(folder / "runs", 2.0, study="mine")
    found = frame.load(["runs/mine"], StudyOptions())
    assert found.design.question != "Which?" and len(found.runs) == 1


def ledger(folder: Path, path: Path, made: list[Cell], end: int) -> None:
    """A ledger whose first cells are finished, with the runs that are there."""
    names = {}
    for run in folder.glob("runs/mine/*/run.json"):
        flat = store_runs.load([], [run.parent]).rows[0]["config"]
        names[frame.arms.schema.identity(flat)] = run.parent.name
    (folder / "runs" / "mine").mkdir(parents=True, exist_ok=True)
    book = Ledger.open(folder / "runs" / "mine")
    book.begin(sweep_file.load(path), made)
    for _ in range(end):
        entry = book.claim()
        assert entry is not None
        book.name_run(entry.key, names[entry.identity])
        book.end(entry.key, "finished")
    book.close()


def test_a_ledger_is_the_truth(folder: Path) -> None:
    path = write_sweep(folder)
    made = run_cells(path, leave=2)
    ledger(folder, path, made, end=2)
    finished(folder / "runs", 1.0, study="mine", seed=77)
    found = frame.load(["runs/mine"], StudyOptions())
    assert list(found.runs["state"]) == ["finished"] * 2 + ["missing"] * 2
    assert found.sweep is not None and found.sweep.design.sesoi == 0.01  # type: ignore[attr-defined]
    assert "1 run in the folder that match no cell of the sweep: left out" in found.notes


def test_the_file_may_change_its_question_but_not_what_ran(folder: Path) -> None:
    path = write_sweep(folder)
    made = run_cells(path)
    ledger(folder, path, made, end=4)
    write_sweep(folder, SWEEP.replace("Which?", "Really?").replace("sesoi: 0.01", "sesoi: 0.5"))
    design = frame.load(["mine"], StudyOptions()).design
    assert (design.question, design.sesoi) == ("Really?", 0.5)
    write_sweep(folder, SWEEP.replace("[rope, alibi]", "[rope, alibi, none]"))
    changed = frame.load(["mine"], StudyOptions())
    assert changed.runs["arm"].value_counts().to_dict() == dict.fromkeys(
        (settings("position=rope"), settings("position=alibi"), settings("position=none")), 2
    )
    assert (changed.runs["state"][changed.runs["arm"] == settings("position=none")] == "missing").all()
    assert any("has changed since the sweep ran: 2 of its cells have not been run" in note for note in changed.notes)
    write_sweep(folder, SWEEP.replace("[rope, alibi]", "[rope]"))
    fewer = frame.load(["mine"], StudyOptions())
    assert set(fewer.runs["arm"]) == {settings("position=rope")} and any(
        "2 runs that it does not ask for" in n for n in fewer.notes
    )
    other = SWEEP.replace("budget.steps: {value: 20}", "budget.steps: {values: [20, 30]}")
    write_sweep(folder, other.replace("{position: rope}", "{position: rope, budget.steps: 20}"))
    kept = frame.load(["mine"], StudyOptions())
    assert kept.design.factors == ("position",)
    assert any("compares other settings than when the sweep ran" in note for note in kept.notes)


def test_a_sweep_puts_its_runs_where_it_says(folder: Path) -> None:
    path = write_sweep(folder, SWEEP.replace("parameters:", "parameters:\n  runs_dir: {value: elsewhere}"))
    cfg = composition.compose(cells.cells(sweep_file.load(path))[0].overrides)
    save(Path("elsewhere"), cfg).finish("finished", summary(2.0))
    places = find(["mine"], StudyOptions())
    assert places.studies == [Path("elsewhere/mine")]
    assert find(["mine"], StudyOptions(runs_dir=folder / "elsewhere")).studies == [folder / "elsewhere" / "mine"]


def test_curves_come_from_the_source_of_each_run(folder: Path) -> None:
    study(folder / "runs", {"rope": 0.0}, seeds=2)
    found = frame.load(["pos"], StudyOptions())
    names = list(found.runs["run"])
    assert list(found.curves(names[:1])) == names[:1]
    assert found.curves(["missing:key"]) == {}


def test_several_folders_are_one_study(folder: Path) -> None:
    study(folder / "a", {"rope": 0.0, "alibi": 0.1}, seeds=2)
    finished(folder / "b", 2.6, study="more", position="alibi", seed=5)
    found = frame.load(["a/pos", "b/more"], StudyOptions())
    assert len(found.runs) == 5
    assert "runs of 2 studies together: more, pos" in found.notes


def test_one_run_folder(folder: Path) -> None:
    run = finished(folder / "runs", 2.0)
    found = frame.load([str(run.path)], StudyOptions())
    assert list(found.runs["run"]) == [str(run.path)]


def test_runs_of_a_server_join_the_sweep_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loader is W&B's own; here it is a made-up one."""
    from gpt_lab.frame.sources import wandb_server

    path = write_sweep(folder)
    cell = cells.cells(sweep_file.load(path))[0]
    flat = composition.compose(cell.overrides).flat()
    made = row("me/lab/abc", "wandb", "mine", "abc", "finished", flat, summary(2.5))
    asked: list[str] = []

    def load(address: str) -> Source:
        asked.append(address)
        return Source([made], lambda runs: {run: pd.DataFrame({"step": [1]}) for run in runs})

    monkeypatch.setattr(wandb_server, "load", load)
    found = frame.load(["mine"], StudyOptions(remote="wandb:me/lab/swp"))
    assert asked == ["wandb:me/lab/swp"]
    assert list(found.runs["state"]) == ["finished", "missing", "missing", "missing"]
    assert found.runs["score"].iloc[0] == 2.5
    assert list(found.curves(["me/lab/abc"])) == ["me/lab/abc"]


def test_a_result_that_is_no_number_does_not_count(folder: Path) -> None:
    study(folder / "runs", {"rope": 0.0}, seeds=1)
    save(folder / "runs", tiny_config(study="pos", seed=7)).finish("finished", {"val/bpb": math.inf})
    save(folder / "runs", tiny_config(study="pos", seed=8)).finish("finished", {"val/loss": 1.0})
    found = frame.load(["pos"], StudyOptions())
    assert found.runs["score"].tolist()[:2] == [found.runs["score"].iloc[0], math.inf]
    assert np.isfinite(found.runs["score"]).sum() == 1
    assert "2 finished runs have no finite val/bpb and do not count" in found.notes
    found = frame.load(["pos"], StudyOptions(metric="val/loss"))
    assert "1 finished run has no finite val/loss and does not count" in found.notes


# -- what cannot be --


@pytest.mark.parametrize(
    "targets, options, message",
    [
        (["poss"], {}, "no study, run or sweep 'poss': did you mean runs/pos?"),
        (["runs/pso"], {}, "did you mean runs/pos?"),
        (["sweeps/min.yaml"], {}, "min.yaml"),
        (["sweeps/mine.yaml"], {}, "sweeps/mine.yaml has no runs yet"),
        (["sweeps/mine.yaml", "sweeps/mine.yaml"], {}, "second sweep file"),
        (["empty"], {}, "empty holds no runs"),
        (["runs"], {}, "which study? runs holds b, pos: write report runs/STUDY"),
        ([], {}, "which study? runs holds b, pos"),
        ([], {"runs_dir": Path("nowhere")}, "no runs in nowhere yet"),
        (["wandb:me"], {}, "'wandb:me' is no W&B address"),
        (["pos"], {"remote": "me/lab/x"}, "'me/lab/x' is no W&B address"),
    ],
)
def test_wrong_targets(folder: Path, targets: list[str], options: dict[str, Any], message: str) -> None:
    study(folder / "runs", {"rope": 0.0}, seeds=1)
    finished(folder / "runs", 2.0, study="b")
    write_sweep(folder)
    (folder / "empty").mkdir()
    with pytest.raises(LabError) as caught:
        find(targets, StudyOptions(**options))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_where_the_files_go(folder: Path) -> None:
    study(folder / "runs", {"rope": 0.0, "alibi": 0.1}, seeds=1)
    finished(folder / "runs", 2.0, study="b")
    one, two = sorted(str(path) for path in Path("runs/pos").iterdir())
    write_sweep(folder)
    for targets, place in (
        (["pos"], "runs/pos/report"),
        (["pos", str(folder / "runs" / "pos")], "runs/pos/report"),  # the same folder twice
        (["pos", "b"], "runs/pos+b/report"),
        ([one], f"{one}/report"),
        ([one, two], "runs/pos-selected/report"),
        (["sweeps/mine.yaml", "pos"], "runs/pos/report"),
        (["wandb:me/lab/x"], "runs/me-lab-x/report"),
        (["mine", "wandb:me/lab/x"], "runs/mine/report"),
    ):
        assert find(targets, StudyOptions()).folder == Path(place)


def test_the_only_study_needs_no_name(folder: Path) -> None:
    study(folder / "runs", {"rope": 0.0}, seeds=1)
    assert find([], StudyOptions()).name == "pos"


def test_nothing_readable(folder: Path) -> None:
    run = finished(folder / "runs", 2.0)
    (run.path / "run.json").write_text("{")
    with pytest.raises(DataError, match="no readable run in runs/pos"):
        frame.load(["pos"], StudyOptions())


def test_a_folder_that_went_away(folder: Path) -> None:
    places = Places(studies=[folder / "gone"])
    with pytest.raises(DataError, match="cannot read .*gone"):
        frame.read(places, StudyOptions())


def test_a_wrong_baseline_is_told_before_a_table_is_made(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study(folder / "runs", {"rope": 0.0}, seeds=1)
    monkeypatch.setattr(frame, "_table", lambda arranged: pytest.fail("too late"))
    with pytest.raises(ConfigError, match="unknown baseline 'nope'"):
        frame.load(["pos"], StudyOptions(baseline="nope"))


def test_a_copied_run_counts_once(folder: Path) -> None:
    place = study(folder / "runs", {"rope": 0.0, "alibi": 0.1}, seeds=1)
    run = next(path for path in place.iterdir() if path.name.startswith("rope"))
    shutil.copytree(run, run.with_name("copy"))
    found = frame.load(["pos"], StudyOptions())
    assert len(found.runs) == 2
    assert any("same settings as another" in note for note in found.notes)
