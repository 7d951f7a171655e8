"""The command `sweep`: what it takes, what it refuses, how it ends."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gpt_lab.cli import sweep
from gpt_lab.errors import ConfigError
from tests.sweep.sweep_helpers import write_sweep
from tests.test_imports import heavy_after


def test_help_is_light() -> None:
    heavy, printed = heavy_after("sys.argv = ['sweep', '--help']\nfrom gpt_lab.cli.sweep import main; main()")
    assert heavy == []
    for word in (
        "--jobs N",
        "--threads N",
        "--seeds N",
        "--dry-run",
        "--report",
        "--fail-fast",
        "--retries N",
        "exit status:",
    ):
        assert word in printed


@pytest.mark.parametrize(
    "words, expected",
    [
        (["nosuch"], "nosuch"),
        (["{file}", "--jobs", "0"], "a whole number from 1 to 1,000 is expected, not '0'"),
        (["{file}", "--jobs", "two"], "a whole number from 1 to 1,000 is expected, not 'two'"),
        (["{file}", "--retries", "-1"], "--retries"),
        (["{file}", "--job", "2", "--nosuch"], "unrecognized arguments: --job 2 --nosuch; did you mean --jobs?"),
        (["{file}", "scale.depth"], "is no setting"),
        (["{file}", "scale.dept=2"], "did you mean 'depth'"),
        (["{file}", "seed=3"], "--seeds N"),
        (["{file}", "force=true"], "force cannot be set in a sweep"),
        (["{file}", "position=rope"], "position is what the file sweeps"),
        (["{file}", "--seeds", "0"], "a whole number from 1 to 100,000"),
        (["{file}", "--report", "--dry-run"], "--report is about runs and --dry-run makes none"),
        ([], "the following arguments are required: file"),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, words: list[str], expected: str) -> None:
    path = write_sweep(tmp_path)
    with pytest.raises(ConfigError) as caught:
        sweep.run([word.format(file=path) for word in words])
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("word, expected", [("scale.depth=0", "depth"), ("scale.dept=2", "did you mean 'depth'")])
def test_bad_input_comes_before_anything_heavy(tmp_path: Path, word: str, expected: str) -> None:
    path = write_sweep(tmp_path)
    heavy, printed = heavy_after(
        f"sys.argv = ['sweep', {str(path)!r}, {word!r}]\nfrom gpt_lab.cli.sweep import main\n"
        "try:\n    main()\nexcept SystemExit as error:\n    assert error.code == 2"
    )
    assert printed.startswith("error: ")
    assert expected in printed
    assert len(printed.splitlines()) == 1
    assert heavy == []
    assert not (tmp_path / "runs").exists()


def test_options_may_stand_anywhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from gpt_lab.sweep import runner

    path = write_sweep(tmp_path)
    seen = {}

    def run_sweep(asked: object, console: object, jobs: object, threads: object, **settings: object) -> int:
        seen.update(asked=asked, jobs=jobs, threads=threads, **settings)
        return 7

    monkeypatch.setattr(runner, "run_sweep", run_sweep)
    words = ["budget.steps=5", "--jobs", "3", "log.every=1", "--seeds", "4", "--fail-fast", "--retries", "2"]
    assert sweep.run([str(path), *words]) == 7
    asked = seen.pop("asked")
    assert asked.overrides == ("budget.steps=5", "log.every=1")  # type: ignore[attr-defined]
    assert asked.design.values["seed"] == (0, 1, 2, 3)  # type: ignore[attr-defined]
    assert asked.design.study == "tiny-budget.steps-5", "other settings are another study"  # type: ignore[attr-defined]
    assert seen == {"jobs": 3, "threads": None, "fail_fast": True, "retries": 2, "stops": None, "per_gpu": None}


@pytest.mark.parametrize(
    "words, left, reported, expected",
    [
        (["--report"], 0, True, 0),
        (["--report"], 1, True, 1),
        (["--report", "log.every=1"], 0, True, 0),
        (["--report"], 130, False, 130),
        ([], 0, False, 0),
    ],
)
def test_a_report_follows(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: list[str], left: int, reported: bool, expected: int
) -> None:
    """Of the file, or of the folder where settings were added; what the sweep left with stays; a signal ends both."""
    from gpt_lab.cli import report
    from gpt_lab.sweep import runner

    path = write_sweep(tmp_path)
    asked: list[list[str]] = []
    monkeypatch.setattr(runner, "run_sweep", lambda *args, **settings: left)
    monkeypatch.setattr(report, "run", lambda arguments: asked.append(arguments) or 0)
    assert sweep.run([str(path), *words]) == expected
    place = str(tmp_path / "runs" / "tiny") if "log.every=1" in words else str(path)
    assert asked == ([[place]] if reported else [])


def test_a_report_of_nothing_is_a_failed_sweep(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from gpt_lab.sweep import runner

    monkeypatch.setattr(runner, "run_sweep", lambda *args, **settings: 1)
    assert sweep.run([str(write_sweep(tmp_path)), "--report"]) == 1
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.slow
def test_the_dry_run_times_steps_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("GPT_LAB_CACHE", str(tmp_path / "cache"))
    path = write_sweep(tmp_path)
    assert sweep.run([str(path), "--dry-run", "--jobs", "2"]) == 0
    printed = capsys.readouterr().out
    assert "position=rope" in printed
    assert re.search(r"about .* with 2 at a time \(told from a few steps of each model", printed)
    assert not (tmp_path / "runs").exists()
    assert {path.name for path in (tmp_path / "cache").iterdir()} >= {"pace"} or "busy" in printed
    assert not list((tmp_path / "cache").glob(".pace-*")), "what it trained is gone"
