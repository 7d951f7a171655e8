"""Words that no path, no record and no number can be: every command refuses them in one line and writes nothing."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from gpt_lab.cli import report
from tests.processes.scripts import MODULES

LONG = "x" * 3000
DEEP = "x/" * 1500


@pytest.fixture(autouse=True)
def no_sudden_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """`report` ends its process at once where pandas is loaded, as another test may have done here."""
    monkeypatch.setattr(report.os, "_exit", sys.exit)


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refusal(line: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(sys, "argv", line)
    with pytest.raises(SystemExit) as leaving:
        importlib.import_module(MODULES[line[0]]).main()
    printed = capsys.readouterr()
    assert leaving.value.code == 2
    (error,) = printed.err.strip().splitlines()
    assert error.startswith("error: ") and len(error) < 1100
    assert error.isprintable()
    assert not list(Path.cwd().iterdir())
    return error


@pytest.mark.parametrize("path", [LONG, DEEP], ids=["name", "path"])
@pytest.mark.parametrize(
    "line",
    [
        "train data=text data.path={}",
        "prepare data=jsonl data.path={}",
        "train tokenizer=hf tokenizer.path={}",
        "train runs_dir={} tokenizer=byte",
        "train study={}",
        "train {}",
        "generate run={}",
        "generate runs_dir={}",
        "generate {}",
        "report {}",
        "report --runs-dir {} x",
        "sweep {}",
        "sweep pos_enc {}",
        "noise {}",
        "noise --list runs_dir={}",
        "verify {}",
        "dashboard --once {}",
        "components {}",
        "components attention {}",
        "doctor {}",
    ],
)
def test_a_path_that_is_too_long(
    line: str, path: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if line.startswith("noise --list"):  # nothing is there, and it says so
        monkeypatch.setattr(sys, "argv", line.format(path).split())
        with pytest.raises(SystemExit):
            importlib.import_module("gpt_lab.cli.noise").main()
        assert "Traceback" not in capsys.readouterr().err
        return
    refusal(line.format(path).split(), capsys, monkeypatch)


@pytest.mark.parametrize("command", ["train", "prepare", "generate", "report", "sweep", "noise", "verify", "dashboard"])
@pytest.mark.parametrize("word", ["\udce9.yaml", "runs_dir=\udce9", "run=\udce9"])
def test_a_name_that_is_not_utf8(
    command: str, word: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "is not UTF-8: rename the file or folder" in refusal([command, word], capsys, monkeypatch)


@pytest.mark.parametrize(
    "line, expected",
    [
        (["report", ""], "an argument is empty"),
        (["report", "x", "--runs-dir", ""], "an argument is empty"),
        (["report", "x", "--out="], "--out is empty: give it a value or leave it out"),
        (["report", "x", "--alpha", "0.1", "--alpha", "0.2"], "--alpha: given twice: 0.1 and 0.2"),
        (["sweep", "pos_enc", "--jobs", "2", "--jobs", "3"], "--jobs: given twice: 2 and 3"),
        (["sweep", "pos_enc", "--jobs", "10000000000000"], "from 1 to 1,000 is expected, not '10000000000000'"),
        (["sweep", "pos_enc", "budget.steps=3", "budget.steps=4"], "budget.steps is given twice"),
        (["sweep", "pos_enc", "bugdet.steps=3"], "did you mean 'budget.steps'"),
        (["generate", "run=x", "seed=1", "seed=2"], "seed is given twice, as 1 and 2"),
        (["generate", "run="], "run must be text of 1 to 1,000 characters"),
        (["generate", "top_k=" + "[" * 100_000], "top_k must be a whole number"),
        (["generate", "samples=1000000000"], "samples must be a whole number in [1, 1000]"),
        (["noise", "scale=nano", "scale=tiny"], "scale is given twice"),
        (["prepare", "hydra.job.name=x"], "Hydra only composes the settings here"),
        (["sweep", "pos_enc", "--dryrun"], "did you mean --dry-run? (see uv run sweep --help)"),
        (["verify", "x", "--al"], "unrecognized arguments: --al"),
        (["generate", "prompt=\udcff"], "is not UTF-8: write the text in it"),
        (["upload", "nosuch"], "nosuch"),
        (["dashboard", ".", "--once"], "no runs in .: name a folder that holds runs"),
        (["components", "experiment"], "`uv run train +experiment=NAME` takes it"),
        (["train", "schedule.warmup=100", "budget.steps=50"], "exceed a budget of 50 steps: lower schedule.warmup"),
        (["verify", "x", "--cells", "9" * 5000], "from 1 to 100,000 is expected"),
        (["train", "\x1b[31m"], "'\\x1b[31m' is no setting"),
    ],
)
def test_words_that_would_be_guessed_at(
    line: list[str], expected: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert expected in refusal(line, capsys, monkeypatch)
