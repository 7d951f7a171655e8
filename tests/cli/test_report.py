"""`report`: from run folders to a table, a page and files; mistakes at once, in one line."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest

from gpt_lab.analysis.comparison import Comparison
from gpt_lab.cli import report
from gpt_lab.errors import LabError
from gpt_lab.study.design import Settings
from tests.helpers import tiny_config
from tests.processes import commands
from tests.report.stores import finished, save, study
from tests.sweep.sweep_helpers import ROOT, write_sweep

FILES = ("report.html", "report.md", "runs.csv", "runs.parquet")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def runs(folder: Path) -> Path:
    """Three positions, four seeds: alibi clearly worse, learned the same."""
    return study(folder / "runs", {"rope": 0.0, "alibi": 0.4, "learned": 0.0005}, seeds=4)


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


def of_arm(text: Sequence[str], arm: str) -> str:
    return next(line for line in text if line.startswith(f" {arm} "))


def test_table_and_files(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.run(["runs/pos", "--baseline", "rope", "--sesoi", "0.02"]) == 0
    shown = lines(capsys)
    assert "worse" in of_arm(shown, "alibi") and "equivalent" in of_arm(shown, "learned")
    assert "baseline" in of_arm(shown, "rope ◂")
    assert all(len(line) <= 120 for line in shown if not line.startswith("wrote"))
    out = Path("runs/pos/report")
    assert [line for line in shown if line.startswith("wrote")] == [
        *(f"wrote {out / name}" for name in FILES),
        f"wrote {out / 'figures'}",
    ]
    page, text = (out / "report.html").read_text(), (out / "report.md").read_text()
    for arm in ("alibi", "learned", "rope"):
        assert arm in page and arm in text
    assert text.rstrip().endswith("uv run report runs/pos --baseline rope --sesoi 0.02\n```")
    linked = {line.split("](")[1].rstrip(")") for line in text.splitlines() if line.startswith("![")}
    assert "figures/forest.svg" in linked and all((out / name).is_file() for name in linked)
    assert len(pd.read_csv(out / "runs.csv")) == len(pd.read_parquet(out / "runs.parquet")) == 12
    capsys.readouterr()
    assert report.run(["runs/pos", "--baseline", "rope", "--no-files"]) == 0  # the report's own folder is no run
    assert not [line for line in lines(capsys) if "without run.json" in line]


def test_out_and_no_files(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.run(["pos", "--no-files"]) == 0
    assert not Path("runs/pos/report").exists()
    assert report.run(["pos", "--out", "deep/er"]) == 0
    assert all(Path("deep/er", name).is_file() for name in FILES)
    assert not Path("runs/pos/report").exists()
    capsys.readouterr()


def test_options_reach_the_comparison(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Comparison] = []
    from gpt_lab.report import console

    monkeypatch.setattr(console, "show", lambda report, _: seen.append(report.comparison))
    options = [
        "--metric",
        "perf/tokens_per_s",
        "--goal",
        "maximize",
        "--alpha",
        "0.1",
        "--sesoi",
        "3",
        "--pair",
        "seed",
    ]
    assert report.run(["runs/pos", "--no-files", "--group-by", "position", "--baseline", "learned", *options]) == 0
    (comparison,) = seen
    design = comparison.design
    assert (design.metric, design.goal, design.alpha) == ("perf/tokens_per_s", "maximize", 0.1)
    assert (design.factors, design.pair, design.baseline_arm) == (
        ("position",),
        "seed",
        Settings((("position", "learned"),)),
    )
    assert comparison.sesoi == 3
    assert report.run(["runs/pos", "--no-files", "--baseline", "rope", "--tier", "confirm"]) == 0
    assert {row.tier for row in seen[1].rows} <= {"confirm", None}
    assert not [row for row in seen[1].rows if row.verdict in ("better", "worse")]  # four pairs confirm nothing


def test_partial_data(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """While a sweep runs, and after it was killed."""
    save(runs.parent, tiny_config(study="pos", position="sinusoidal", seed=0))  # killed
    broken = finished(runs.parent, 2.5, position="none", seed=0)
    (broken.path / "metrics.jsonl").unlink()
    (runs / "torn").mkdir()
    (runs / "torn" / "run.json").write_text("{")
    with save(runs.parent, tiny_config(study="pos", position="sinusoidal", seed=1)).lock():
        assert report.run(["runs/pos", "--baseline", "rope"]) == 0
    text = " ".join(" ".join(lines(capsys)).split())
    assert "15 runs: 13 finished, 1 stopped, 1 running" in text
    assert "stopped: position=sinusoidal (seed 0): killed while running: the same command resumes it" in text
    assert "running: position=sinusoidal (seed 1)" in text
    assert "runs/pos/torn left out: cannot read runs/pos/torn/run.json: not valid JSON" in text


def test_nothing_finished_says_what_to_do(folder: Path) -> None:
    save(folder / "runs", tiny_config(study="pos"), error="OutOfMemoryError: 3 GB").finish("failed", {})
    with pytest.raises(
        LabError, match="no run of pos has finished yet .1 run: 1 failed; .*3 GB.*: wait for it, or resume"
    ):
        report.run(["runs/pos"])
    assert not Path("runs/pos/report").exists()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["runs/pos", "--sesoi", "-1"], "sesoi must be a number >= 0, not -1.0"),
        (["runs/pos", "--sesoi", "nan"], "sesoi must be a finite number, not nan"),
        (["runs/pos", "--sesoi", "some"], "argument --sesoi: invalid float value: 'some'"),
        (["runs/pos", "--alpha", "0.5"], "alpha must be a number in (0, 0.5), not 0.5"),
        (["runs/pos", "--goal", "max"], "argument --goal: invalid choice: 'max'"),
        (["runs/pos", "--tier", "sure"], "argument --tier: invalid choice: 'sure'"),
        (["runs/pos", "--group-by", "position,,seed"], "group_by takes settings, each once"),
        (["runs/pos", "--group-by", "norm,norm"], "group_by takes settings, each once"),
        (["runs/pos", "--no-files", "--out", "x"], "--no-files and --out contradict each other"),
        (
            ["runs/pos", "--baselin"],
            "unrecognized arguments: --baselin; did you mean --baseline? (see uv run report --help)",
        ),
        (["runs/pos", "--frobnicate"], "unrecognized arguments: --frobnicate"),
        (["runs/pso"], "did you mean runs/pos?"),
        (["runs/pos", "scale=nano"], "'scale=nano' is a setting of a sweep: name its file too"),
        (["norm", "scale=micro"], "norm.yaml scale=micro` makes them"),
        (["runs/pos", "--pair", "sede"], "'sede'; did you mean 'seed'? (allowed: batch.seed, replica, seed)"),
        (
            ["runs/pos", "--out", "runs/pos/rope-adamw-lr0.004-seed0/run.json"],
            "is no folder: choose another folder with --out DIR",
        ),
    ],
)
def test_mistakes_before_anything_is_read(runs: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(LabError) as caught:
        report.run(arguments)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "line, status, expected",
    [
        ("--help", 0, "usage: report"),
        ("nowhere", 2, "error: no study, run or sweep 'nowhere'"),
        ("x --sesoi=-1", 2, "error: sesoi must be"),
        ("pos_enc", 2, "error: "),
    ],
)
def test_help_and_mistakes_come_before_pandas(folder: Path, line: str, status: int, expected: str) -> None:
    (folder / "sweeps").mkdir()
    (folder / "sweeps" / "pos_enc.yaml").write_bytes((ROOT / "sweeps" / "pos_enc.yaml").read_bytes())
    code = f"""
import sys
sys.argv = ["report", *{line.split()!r}]
from gpt_lab.cli.report import main
try:
    main()
except SystemExit as end:
    print("status", end.code, [name for name in ("torch", "pandas", "wandb", "matplotlib") if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL
    )
    assert expected in done.stdout + done.stderr
    assert f"status {status} []" in done.stdout


def test_a_curve_that_cannot_be_read_is_left_out_by_name(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = runs / "alibi-adamw-lr0.004-seed1" / "metrics.jsonl"
    path.unlink()
    path.mkdir()
    assert report.run(["runs/pos", "--baseline", "rope"]) == 0
    said = capsys.readouterr().out
    line = "cannot read runs/pos/alibi-adamw-lr0.004-seed1/metrics.jsonl: Is a directory: the run's curve is left out"
    assert said.count(line) == 1 and (runs / "report" / "report.html").is_file()


def test_a_file_in_the_way_is_refused_with_the_report_s_way_out(runs: Path) -> None:
    Path("out/report.html").mkdir(parents=True)
    with pytest.raises(LabError, match="cannot write out/report.html: .* choose another folder with --out DIR"):
        report.run(["runs/pos", "--baseline", "rope", "--out", "out"])


def test_a_margin_beyond_all_is_a_margin(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.run(["runs/pos", "--baseline", "rope", "--sesoi", "1e308", "--no-files"]) == 0
    assert "equivalent" in of_arm(lines(capsys), "alibi")


@pytest.mark.parametrize("width", [80, 140])
def test_lines_are_as_wide_as_columns_says(
    runs: Path, width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    assert report.run(["runs/pos", "--baseline", "rope", "--no-files"]) == 0
    longest = max(map(len, lines(capsys)))
    assert longest <= width and (longest > 100) == (width > 100)


@pytest.mark.slow
def test_a_real_study(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A sweep of real trainings, whose learning rate matters, is read through its ledger."""
    block = {"baseline": {"optim.lr": 0.01}, "question": "Does a learning rate of nothing learn less?", "sesoi": 0.001}
    path = write_sweep(folder, {"optim.lr": [0.01, 1e-7], "seed": [0, 1, 2]}, gpt_lab=block)
    done = commands.run(["sweep", str(path), "--jobs", "1"], folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert report.run([str(path)]) == 0
    shown = lines(capsys)
    assert shown[0] == block["question"]
    assert "worse" in of_arm(shown, "lr=1e-07") and "screen" in of_arm(shown, "lr=1e-07")
    assert "6 runs: 6 finished" in shown
    out = folder / "runs" / "tiny" / "report"
    assert all((out / name).stat().st_size > 500 for name in FILES)
    assert f"uv run sweep {path}" in (out / "report.md").read_text()
    table = pd.read_parquet(out / "runs.parquet")
    assert sorted(table["pair"]) == ["0", "0", "1", "1", "2", "2"] and table["score"].between(1, 9).all()
