"""A task decides a sweep: measured at the end of each run, in its summary, and in the verdict."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from gpt_lab.analysis.compare import compare
from gpt_lab.config import composition
from gpt_lab.errors import ConfigError, LabError
from gpt_lab.evaluate import task_names, task_runs
from gpt_lab.evaluate.subject import of_run
from gpt_lab.evaluate.task import Asked
from gpt_lab.frame import load
from gpt_lab.frame.places import StudyOptions
from gpt_lab.metrics import find
from gpt_lab.store import Run
from gpt_lab.store.atomic_files import read_json
from gpt_lab.study import cells, sweep_file
from gpt_lab.sweep import runner
from tests.helpers import tiny_config
from tests.sweep.sweep_helpers import quiet, said, write_sweep
from tests.train.train_helpers import train

QUESTIONS = [
    {"query": f"to be or not {word}", "choices": ["that is", "question the be"], "gold": i % 2}
    for i, word in enumerate(("to", "be", "or", "that") * 2)
]


@pytest.mark.slow
def test_a_task_decides(tmp_path: Path) -> None:
    questions = tmp_path / "words.jsonl"
    questions.write_text("\n".join(map(json.dumps, QUESTIONS)))
    tasks = {"eval.tasks": [str(questions)], "eval.shots": 1, "precision": "fp32", "probe": "light"}
    path = write_sweep(
        tmp_path,
        metric={"name": "eval/words", "goal": "maximize"},
        fixed=tasks,
        gpt_lab={"baseline": {"position": "rope"}, "sesoi": 0.05},
    )
    console = quiet()
    assert runner.run_sweep(sweep_file.load(path), console, jobs=1, threads=1) == 0, said(console)
    study = load.load([str(path)], StudyOptions())
    comparison = compare(study)
    assert study.design.metric == "eval/words" and study.design.goal == "maximize"
    scores = {}
    for folder in sorted((tmp_path / "runs" / "tiny").glob("*/run.json")):
        run = Run.open(folder.parent)
        record = read_json(run.path / "evaluate" / "words.json", digest=True)
        assert run.summary["eval/words"] == record["score"] and record["measured"] == 8 and record["shots"] == 1
        subject = of_run(run, "last", "cpu")
        again = task_runs.measure(subject, [task_names.find(str(questions))], Asked(shots=1), lambda *told: None)
        assert again["words"] == record
        text = task_runs.measure(subject, [task_names.find("val_bpb")], Asked(), lambda *told: None)["val_bpb"]
        assert text["score"] == pytest.approx(run.summary["val/bpb"], rel=1e-5)
        assert run.metrics()[-1]["eval/words"] == record["score"]
        scores[str(run.path)] = record["score"]
    assert dict(zip(study.runs["run"], study.runs["score"], strict=True)) == scores
    means = {str(row.arm): row.mean for row in comparison.rows}
    for arm, own in study.runs.groupby(study.runs["arm"].map(str)):
        assert means[arm] == pytest.approx(own["score"].mean())
    assert all(row.n in (None, 2) for row in comparison.rows), "seeds are counted, not questions"

    from gpt_lab.report import figures

    assert {"probes", "forest"} <= {one.name for one in figures.draw(comparison, study, tmp_path / "figures")}


def test_a_metric_that_no_run_measures(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"eval/needle needs .*eval.tasks is \[\]: write parameters: eval.tasks"):
        cells.cells(sweep_file.load(write_sweep(tmp_path, metric={"name": "eval/needle", "goal": "maximize"})))
    path = write_sweep(tmp_path, metric={"name": "eval/needle", "goal": "minimize"})
    with pytest.raises(ConfigError, match="must be maximize"):
        sweep_file.load(path)


def test_names_say_which_direction_is_better() -> None:
    bits, other = find("eval/novel_bpb"), find("eval/novel")
    assert bits is not None and (bits.goal, bits.per_byte) == ("minimize", True)
    assert other is not None and (other.goal, other.per_byte) == ("maximize", False)


def test_tasks_are_part_of_a_run_s_identity(tmp_path: Path) -> None:
    plain = tiny_config()
    asked = tiny_config(eval={"tasks": ["mqar"]})
    assert asked.identity() != plain.identity() == dataclasses.replace(plain, probe="light").identity()
    with pytest.raises(ConfigError, match="eval.shots would change nothing: eval.tasks names no task"):
        composition.compose(["eval.shots=2"])


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"eval": {"tasks": ["val_bpb"]}, "data": {"name": "synthetic", "task": "mqar"}}, "val_bpb is of one corpus"),
        ({"eval": {"tasks": ["cloze"]}, "data": {"name": "synthetic"}}, "data=synthetic is no text"),
        ({"eval": {"tasks": ["mqar"], "shots": 1}}, "examples are of files of items"),
        ({"eval": {"tasks": ["needle"]}}, "needle needs a context of"),
        ({"eval": {"tasks": ["long.jsonl"]}}, "40 tokens is longer than the model's context of 16"),
        ({"eval": {"tasks": ["long.jsonl"]}, "objective": "mlm", "position": "learned"}, "predicts none"),
    ],
)
def test_what_cannot_be_asked_is_said_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], what: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("long.jsonl").write_text(json.dumps({"context": "a", "continuation": "b" * 39}))
    Path("words.txt").write_text("to be or not to be " * 200)
    data = {"data": {"name": "text", "path": "words.txt"}}
    with pytest.raises(LabError, match=what):
        train(tiny_config(**{**data, **settings, "runs_dir": "runs"}))
    assert not Path("runs").exists()
