"""`report --gate`: planted effects, and the exit status that each must give."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from gpt_lab.cli import report
from gpt_lab.errors import ConfigError, LabError
from gpt_lab.frame import load
from gpt_lab.frame.places import Places, StudyOptions
from gpt_lab.report.gate import EXIT, TABLE
from gpt_lab.study.design import Design
from gpt_lab.validity.rules import RULES
from tests.helpers import tiny_config
from tests.report.stores import finished, save, study

PAGE = Path(__file__).parent.parent.parent / "docs" / "claims-and-gates.md"


def gate(capsys: pytest.CaptureFixture[str], runs: Path, variant: str, *more: str) -> tuple[int, str]:
    status = report.run([str(runs), "--baseline", "rope", "--gate", variant, *more])
    (line,) = capsys.readouterr().out.splitlines()
    return status, line


@pytest.mark.parametrize(
    "effect, sesoi, goal, status, word",
    [
        (-0.4, 0.02, "minimize", 0, "keep: position=alibi: better (baseline position=rope); −0.4"),
        (0.4, 0.02, "minimize", 1, "discard: position=alibi: worse"),
        (0.0, 0.2, "minimize", 1, "discard: position=alibi: equivalent"),
        (0.02, 0.02, "minimize", 1, "discard: position=alibi: real but small"),
        (-0.02, 0.02, "minimize", 1, "discard: position=alibi: real but small"),
        (0.0, 1e-6, "minimize", 1, "discard: position=alibi: undecided"),
    ],
)
def test_planted_effects(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], effect: float, sesoi: float, goal: str, status: int, word: str
) -> None:
    runs = study(tmp_path, {"rope": 0.0, "alibi": effect}, seeds=5)
    found, line = gate(capsys, runs, "alibi", "--sesoi", str(sesoi), "--goal", goal)
    assert (found, line[: len(word)]) == (status, word)
    assert "5 seeds, confirm" in line and "is post hoc" in line
    found, line = gate(capsys, runs, "position=alibi", "--sesoi", str(sesoi), "--goal", goal, "--json")
    facts = json.loads(line)
    assert found == facts["exit"] == status
    assert (facts["decision"], facts["arm"], facts["baseline"]) == (
        word.split(":")[0],
        "position=alibi",
        "position=rope",
    )
    assert facts["delta"]["estimate"] == pytest.approx(effect, abs=0.003)
    assert not (runs / "report").exists()


def test_too_few_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = study(tmp_path, {"rope": 0.0, "alibi": -0.4}, seeds=2)
    save(tmp_path, tiny_config(study="pos", position="alibi", seed=2))
    status, line = gate(capsys, runs, "alibi")
    assert status == 2 and line.startswith("more runs: position=alibi: runs are missing")
    assert "1 stopped" in line and "2 pairs only" in line


def test_nothing_finished_needs_runs_and_is_no_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for position in ("rope", "alibi"):
        save(tmp_path, tiny_config(study="pos", position=position))
    status, line = gate(capsys, tmp_path / "pos", "alibi", "--json")
    facts = json.loads(line)
    assert (status, facts["verdict"], facts["not_finished"], facts["delta"]) == (2, "no data", {"stopped": 1}, None)


def test_an_arm_that_only_diverges_is_discarded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = study(tmp_path, {"rope": 0.0}, seeds=3)
    for seed in range(3):
        save(tmp_path, tiny_config(study="pos", position="alibi", seed=seed)).finish("diverged", {"diverged/step": 3})
    status, line = gate(capsys, runs, "alibi")
    said = "discard: position=alibi: every run diverged (baseline position=rope); 3 runs diverged"
    assert (status, line) == (1, f"{said}. Way out: {RULES['lost'].way}")
    save(tmp_path, tiny_config(study="pos", position="alibi", seed=3))
    assert gate(capsys, runs, "alibi")[0] == 2  # one more may yet finish


def test_a_doubt_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """More tokens than the baseline: never better, and the line says why."""
    runs = study(tmp_path, {"rope": 0.0}, seeds=5)
    for seed in range(5):
        run = finished(tmp_path, 2.0 + 0.01 * seed, position="alibi", seed=seed)
        run.update(summary={**run.summary, "tokens": 10 * run.summary["tokens"]})
    status, line = gate(capsys, runs, "alibi")
    assert status == 1 and line.startswith("discard: position=alibi: undecided") and "unequal budget" in line


def test_a_screen_is_never_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = study(tmp_path, {"rope": 0.0, "alibi": -0.4}, seeds=4)
    status, line = gate(capsys, runs, "alibi")
    assert status == 1 and line.startswith("discard: position=alibi: better, by a screen") and "4 seeds, screen" in line


def test_asking_again_with_more_seeds_keeps_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Seeds beyond those that were planned before the first run are not read: the answer at the planned number
    stays."""
    values = {"position": ("rope", "alibi"), "seed": tuple(range(5))}
    design = Design("pos", factors=("position",), values=values, baseline={"position": "rope"})
    runs = study(tmp_path, {"rope": 0.0, "alibi": 0.0}, seeds=5)
    for seed in range(5, 12):
        finished(tmp_path, 2.0 + 0.01 * seed, position="rope", seed=seed)
        finished(tmp_path, 1.5 + 0.011 * seed, position="alibi", seed=seed)
    read = load.read

    def planned(places: Places, options: StudyOptions) -> load.Loaded:
        found = read(places, options)
        found.stated = design.stated
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(load, "read", planned)
        status, line = gate(capsys, runs, "alibi")
    assert status == 1 and "undecided" in line and "14 runs beyond the planned ones are not used" in line


@pytest.mark.parametrize(
    "words, message",
    [
        (["--gate", "alibbi"], "unknown variant 'alibbi'; did you mean 'position=alibi'?"),
        (["--gate", "rope"], "position=rope is the baseline"),
        (["--gate", "alibi", "--out", "x"], "leave --out out"),
        (["--gate", "alibi", "--claim", "x"], "leave --claim out"),
        (["--json"], "--json is the form of --gate's answer"),
    ],
)
def test_mistakes(tmp_path: Path, words: list[str], message: str) -> None:
    runs = study(tmp_path, {"rope": 0.0, "alibi": 0.4}, seeds=3)
    with pytest.raises(LabError) as caught:
        report.run([str(runs), "--baseline", "rope", *words])
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not (runs / "report").exists()


def test_no_baseline_is_a_mistake(tmp_path: Path) -> None:
    runs = study(tmp_path, {"rope": 0.0, "alibi": 0.4})
    with pytest.raises(ConfigError, match="choose one with --baseline"):
        report.run([str(runs), "--gate", "alibi"])


def test_a_script_can_tell_more_runs_from_bad_input(tmp_path: Path) -> None:
    """Both leave with 2: bad input says `error:` and leaves standard output empty."""
    runs = study(tmp_path, {"rope": 0.0, "alibi": 0.0}, seeds=2)
    code = "import sys; from gpt_lab.cli.report import main; main()"
    for variant, out, err in (("alibi", "more runs: ", ""), ("albi", "", "error: unknown variant 'albi'")):
        done = subprocess.run(
            [sys.executable, "-c", code, str(runs), "--baseline", "rope", "--gate", variant],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 2
        assert done.stdout[: len(out)] == out and bool(done.stdout) == bool(out)
        assert done.stderr[: len(err)] == err and bool(done.stderr) == bool(err)


def test_only_what_is_confirmed_better_is_kept() -> None:
    assert [why for why, decision in TABLE.items() if decision == "keep"] == ["better"]
    assert sorted(EXIT.values()) == [0, 1, 2]
