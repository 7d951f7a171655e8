"""What a notebook shows is what the commands say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

import gpt_lab as lab
from benchmarks import questions
from gpt_lab.analysis import wording
from gpt_lab.cli import report
from gpt_lab.cli.trained import generate
from gpt_lab.errors import ConfigError, DataError, LabError
from gpt_lab.frame.places import StudyOptions
from gpt_lab.notebook.report_view import ReportView
from gpt_lab.report.tables import Report
from gpt_lab.report.write import judged
from gpt_lab.stats.interval import Interval
from tests.report.stores import study as save_study
from tests.sweep.sweep_helpers import TINY, write_sweep

ROOT = Path(__file__).parent.parent.parent
SCALE = {"depth": 2, "width": 16, "heads": 2, "context": 16}
ARMS = {"rope": 0.0, "alibi": -0.05, "learned": 0.1}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a study of three arms and five seeds."""
    save_study(tmp_path / "runs", ARMS, seeds=5)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tiny(folder: Path, **settings: object) -> dict[str, object]:
    """Settings of a training of milliseconds."""
    write_sweep(folder)
    fixed = {key: value for key, value in TINY.items() if key.partition(".")[0] not in settings}
    return {**fixed, "data.path": str(folder / "words.txt"), "study": "mine", **settings}


def test_the_runs_and_curves_of_a_study(folder: Path) -> None:
    study = lab.study("runs/pos")
    assert len(study.runs) == 15 and set(study.runs["state"]) == {"finished"}
    curves = study.curves("val/bpb")
    assert list(curves.columns) == ["run", "arm", "seed", "step", "value"]
    assert len(curves) == 30 and set(curves["step"]) == {10, 20} and set(curves["seed"]) == set(range(5))
    last = curves[curves["step"] == 20].set_index("run")["value"]
    pd.testing.assert_series_equal(last, study.runs.set_index("run")["score"], check_names=False)
    assert repr(study) == "study pos: 15 runs: 15 finished"


def test_what_is_compared_is_what_report_prints(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.run(["runs/pos", "--baseline", "rope", "--sesoi", "0.02", "--no-files"]) == 0
    shown = lab.study("pos").compare(baseline="rope", sesoi=0.02)
    assert repr(shown) == capsys.readouterr().out.rstrip("\n")
    assert list(shown.verdicts["verdict"]) == ["better", "baseline", "worse"]
    assert report.run(["runs/pos", "--baseline", "rope", "--group-by", "position", "--alpha", "0.1", "--no-files"]) == 0
    again = lab.report("runs/pos", baseline="rope", group_by="position", alpha=0.1)
    assert repr(again) == capsys.readouterr().out.rstrip("\n")


@pytest.mark.parametrize("name", ["pos_enc", "mlp"])
def test_verdicts_are_those_of_a_committed_report(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place = ROOT / "sweeps" / "results" / name
    found = questions.read(name, place)
    monkeypatch.setattr(found, "curves", lambda runs: {}, raising=False)  # they are not committed
    shown = ReportView(Report(judged(found, StudyOptions()), found))
    lines = (place / "report.md").read_text(encoding="utf-8").splitlines()
    html = shown._repr_html_()
    assert len(shown.verdicts) > 2
    for row in shown.verdicts.itertuples():
        heads = (f"| {row.arm} | {row.verdict} ", f"| **{row.arm}** | {row.verdict} ")
        (line,) = [one for one in lines if one.startswith(heads)]
        if row.verdict != "baseline":
            interval = wording.with_interval(Interval(row.estimate, row.low, row.high, row.n - 1, row.p))
            assert interval in line and interval in html and f"| {row.n} |" in line
    assert f"**{shown.answer}**" in "\n".join(lines).replace("\\", "")


def test_figures_by_name(folder: Path) -> None:
    study = lab.study("runs/pos")
    svg = study.plot("forest", baseline="rope")._repr_svg_()
    assert "<svg" in svg and "alibi" in svg
    with pytest.raises(ConfigError, match="unknown figure 'forrest'; did you mean 'forest'"):
        study.plot("forrest")
    with pytest.raises(DataError, match="nothing to draw as 'tuning'"):
        study.plot("tuning", baseline="rope")


def test_the_files_of_a_report(folder: Path) -> None:
    lab.report("runs/pos", baseline="rope", out="made")
    assert {path.name for path in Path("made").iterdir()} >= {"report.html", "report.md", "runs.csv", "figures"}


def test_mistakes_are_one_line(folder: Path) -> None:
    study = lab.study("runs/pos")
    for options, said in (
        ({"baselin": "rope"}, "unknown option 'baselin'; did you mean 'baseline'"),
        ({"sesoi": -1.0}, "sesoi must be a number >= 0"),
        ({"alpha": 0.7}, "alpha must be"),
        ({"tier": "sure"}, "unknown value for tier: 'sure'"),
        ({"group_by": "norm,norm"}, "group_by takes settings"),
        ({"baseline": "rop"}, "rop"),
    ):
        with pytest.raises(LabError) as caught:
            study.compare(**options)  # type: ignore[arg-type]
        assert said in str(caught.value) and "\n" not in str(caught.value)
        assert caught.value._render_traceback_() == [f"error: {caught.value}"]
    with pytest.raises(ConfigError, match="unknown metric 'val/bpp'; did you mean 'val/bpb'"):
        study.curves("val/bpp")
    with pytest.raises(DataError, match="did you mean runs/pos"):
        lab.study("psos")
    with pytest.raises(ConfigError, match="settings are"):
        lab.train("alibi")
    with pytest.raises(ConfigError, match="muno"):
        lab.train("optim=muno")


def test_a_run_trained_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run = lab.train("position=alibi", **tiny(tmp_path, seed=1, scale=SCALE))
    assert run.state == "finished" and run.config["position"]["name"] == "alibi" and run.config["scale"]["depth"] == 2
    assert run.path == lab.run("latest", runs_dir="runs").path == lab.run(run.path).path
    assert run.metrics["val/bpb"].dropna().iloc[-1] == run.summary["val/bpb"]
    assert f"{run.summary['val/bpb']:.4f}" in repr(run)
    logits = run.load()(torch.tensor([run.tokenizer.encode("to be")]))
    assert logits.shape[:2] == (1, 5) and run.load() is run.load()
    text = run.generate("to be", max_tokens=12, temperature=0.5, seed=3)
    capsys.readouterr()
    words = [f"run={run.path}", "prompt=to be", "max_tokens=12", "temperature=0.5", "seed=3", "device=cpu"]
    assert generate.run(words) == 0
    assert capsys.readouterr().out == f"{text}\n"
    with pytest.raises(ConfigError, match="max_tokens must be"):
        run.generate("to be", max_tokens=0)
    again = lab.train("position=alibi", **tiny(tmp_path, seed=1, scale=SCALE))
    assert again.path == run.path and "already done" in capsys.readouterr().out


@pytest.mark.parametrize(
    "first", ["", "import gpt_lab.study.cells, gpt_lab.train.start, gpt_lab.report, gpt_lab.sweep"]
)
def test_names_are_shared_with_folders(first: str) -> None:
    """In whichever order a process imports them."""
    code = f"""
import gpt_lab as lab
{first}
assert callable(lab.study) and callable(lab.train) and callable(lab.run)
import inspect
assert list(inspect.signature(lab.run).parameters) == ["name", "runs_dir"]
assert "runs_dir" in inspect.signature(lab.study).parameters
for call in (lambda: lab.study("nosuch"), lambda: lab.train("nosuch=1"), lambda: lab.run("nosuch", runs_dir="nowhere")):
    try:
        call()
    except lab.errors.LabError if hasattr(lab, "errors") else Exception as error:
        print(type(error).__name__)
import gpt_lab.study.cells, gpt_lab.train.start
from gpt_lab import study
assert callable(lab.train) and lab.study is study and study.cells is gpt_lab.study.cells
assert {{"report", "run", "stats", "study", "sweep", "train"}} <= set(dir(lab))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["DataError", "ConfigError", "DataError"]


def test_the_import_is_light() -> None:
    code = "import sys, gpt_lab; print([n for n in ('torch', 'pandas', 'numpy', 'scipy', 'rich') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr
    with pytest.raises(AttributeError, match="nosuch"):
        lab.nosuch  # noqa: B018
