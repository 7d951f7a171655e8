"""Sequential seeds from the file to the answer, on real tiny trainings: a planted effect and an arm without one."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
import yaml

from gpt_lab.cli import report, sweep
from gpt_lab.errors import ConfigError
from gpt_lab.sweep.ledger.ledger import entries
from tests.sweep.sweep_helpers import ROOT, command, until, write_sweep

pytestmark = pytest.mark.slow
BASE, SLOW, SAME = (f"optim.lr={lr}, replica={r}" for lr, r in (("0.004", 0), ("1e-05", 0), ("0.004", 1)))
STATED = {
    "baseline": {"optim.lr": 0.004, "replica": 0},
    "exclude": [{"optim.lr": 1e-5, "replica": 1}],
    "sesoi": 0.01,
    "seeds": {"min": 3, "max": 5, "stop": "decided"},
}

FAST = {"budget.steps": 10, "eval.every": 10, "checkpoint.every": 10}


def written(folder: Path) -> Path:
    """A learning rate that learns nothing, and the baseline with other initial values."""
    folder.mkdir()
    swept = {"optim.lr": [0.004, 1e-5], "replica": [0, 1]}
    return write_sweep(folder, swept, metric={"name": "val/loss", "goal": "minimize"}, gpt_lab=STATED, fixed=FAST)


def asked(path: Path) -> dict[tuple[str, int], float | None]:
    """The final loss of each cell that was asked for."""
    wanted = [entry for entry in entries(path.parent / "runs" / "tiny") if entry.wanted]
    return {(entry.arm, entry.pair): entry.score for entry in wanted if entry.state == "finished"}


@pytest.mark.usefixtures("one_server")
def test_from_the_file_to_the_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole, killed = written(tmp_path / "whole"), written(tmp_path / "killed")
    expected = {(arm, seed) for arm in (BASE, SAME) for seed in range(5)} | {(SLOW, seed) for seed in range(3)}

    assert sweep.run([str(whole), "--jobs", "1"]) == 0
    text = capsys.readouterr().out
    assert "tiny: up to 15 runs, 1 at a time" in text and "13 cells: 13 finished" in text
    assert set(asked(whole)) == expected

    with open(tmp_path / "out", "wb") as out:
        process = subprocess.Popen(command(killed, "--jobs", "2"), cwd=ROOT, stdout=out, stderr=out)
        until(lambda: (tmp_path / "out").read_bytes().count(b" finished: ") >= 10 or process.poll() is not None)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert sweep.run([str(killed), "--jobs", "2"]) == 0
    assert asked(killed) == asked(whole), "the same cells with the same results, whatever happened on the way"
    capsys.readouterr()

    assert sweep.run([str(killed)]) == 0
    assert "tiny is already done: nothing to run" in capsys.readouterr().out
    changed = yaml.safe_load(killed.read_text(encoding="utf-8"))
    changed["gpt_lab"]["question"] = "Does a rate of nothing learn less?"
    killed.write_text(yaml.safe_dump(changed), encoding="utf-8")
    assert sweep.run([str(killed)]) == 0
    assert "13 cells: 13 finished" in capsys.readouterr().out

    assert report.run([str(killed)]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert re.search(r"lr=1e-05 · replica=0 worse .{,60} sequential 3 ", text)
    assert re.search(r"lr=0\.004 · replica=1 undecided .{,60} sequential 5 ", text)
    assert "alpha spent over looks at 3 to 5 seeds, Holm over 2 comparisons" in text
    assert "13 runs of the 15 that 5 seeds for every arm would take (87%)." in text
    assert "makes false verdicts likelier" not in text
    assert report.run([str(killed), "--gate", SLOW]) == 1
    assert capsys.readouterr().out.startswith(f"discard: {SLOW}: worse (baseline {BASE})")
    assert report.run([str(killed), "--gate", SAME]) == 1, "all looks are spent"
    with pytest.raises(ConfigError, match="leave --group-by and --pair out"):
        report.run([str(killed), "--group-by", "replica"])

    changed["gpt_lab"]["seeds"]["max"] = 8
    killed.write_text(yaml.safe_dump(changed), encoding="utf-8")
    with pytest.raises(ConfigError, match="max: 5, stop: decided} when this sweep began"):
        sweep.run([str(killed)])
    assert len(asked(killed)) == 13


def test_the_dry_run_says_what_to_expect(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path / "plan")
    assert sweep.run([str(path), "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert "at most 15 trials: 3 arms x 5 values of seed" in text
    assert "sequential seeds: 3 to 5 for each of 3 arms, until decided: 9 to 15 runs" in text
    assert re.search(r"runs to expect, and arms decided, if all arms differ by: nothing 15 \(\d%\), 0.02 15 ", text)
    assert "smallest detectable effect" not in text, "that is of a fixed number of seeds"
    assert not (path.parent / "runs").exists()
