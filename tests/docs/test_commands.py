"""Every command of README, CONTRIBUTING and docs/ runs, each once, at the smallest scale."""

from __future__ import annotations

import functools
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from gpt_lab.console import process
from gpt_lab.plan import paces
from tests.docs import plays
from tests.docs.expected import COMMANDS, RECALL, STEPS, Elsewhere, Run
from tests.docs.pages import ROOT, every_command
from tests.docs.pages import commands as commands_of
from tests.helpers import stand_in
from tests.processes import commands

ALL = every_command()
OF_STUDIES = ("sweep", "report", "verify", "noise", "dashboard")
"""Scripts whose commands build on each other; those of the others build on `train`."""


def test_every_command_is_known() -> None:
    unknown = [line for line in ALL if line not in COMMANDS]
    assert not unknown, "say in COMMANDS what they do"
    stale = [line for line in COMMANDS if line not in ALL]
    assert not stale, "these are in no page any more"


@pytest.mark.parametrize("line", [line for line, what in COMMANDS.items() if isinstance(what, Elsewhere)])
def test_what_runs_elsewhere_exists(line: str) -> None:
    what = COMMANDS[line]
    assert isinstance(what, Elsewhere)
    assert (ROOT / what.covered_by).exists()


@pytest.mark.slow
def test_commands_on_runs(tmp_path: Path) -> None:
    texts = tmp_path / "my_texts"
    texts.mkdir()
    for number in range(4):
        words = " ".join(f"word{(i * i + number) % 97}" for i in range(4000))
        (texts / f"{number}.txt").write_text(words, encoding="utf-8")
    shutil.copytree(ROOT / "sweeps", tmp_path / "sweeps")
    done = run_in_order([line for line in ALL if not of_studies(line)], tmp_path)
    trained = [line for line in done if line.startswith("uv run train") and "--cfg" not in line]
    assert len(list(tmp_path.glob("runs/*/*/run.json"))) == len(trained) > 0, "each training is a run of its own"


@pytest.mark.slow
def test_commands_on_studies(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "sweeps", tmp_path / "sweeps")
    make_short(tmp_path / "sweeps" / "pos_enc.yaml", STEPS)
    make_short(tmp_path / "sweeps" / "recall.yaml", RECALL)
    run_in_order([line for line in ALL if of_studies(line)], tmp_path)
    studies = [path.parent.parent.name for path in tmp_path.glob("runs/*/*/run.json")]
    assert sum(name.startswith("noise-") for name in studies) == 6, "three null pairs"
    assert {name for name in studies if not name.startswith("noise-")} == {"pos_enc", "recall"}


def of_studies(line: str) -> bool:
    words = shlex.split(line)
    return words[:2] == ["uv", "run"] and words[2] in OF_STUDIES


def run_in_order(lines: Sequence[str], folder: Path) -> list[str]:
    """Runs those of the commands that can be run, in one folder: later ones build on earlier ones."""
    executed = []
    packages = plays.few(folder)
    for line in lines:
        what = COMMANDS[line]
        if isinstance(what, Run):
            done = execute(line, what.more, folder, packages)
            assert done.returncode in what.statuses, f"{line}\n{done.stdout}\n{done.stderr}"
            assert what.output in done.stdout, f"{line}\n{done.stdout}\n{done.stderr}"
            assert "Traceback" not in done.stderr, line
            executed.append(line)
    return executed


def make_short(file: Path, settings: Sequence[str]) -> None:
    """The file itself: settings on the command line would be another study, which later commands do not mean."""
    raw = yaml.safe_load(file.read_text(encoding="utf-8"))
    for key, value in (one.split("=") for one in [*settings, "tracker=none"]):
        raw["parameters"][key] = {"value": yaml.safe_load(value)}
    file.write_text(yaml.safe_dump(raw, sort_keys=False), encoding="utf-8")


def execute(line: str, more: list[str], folder: Path, packages: Path) -> subprocess.CompletedProcess[str]:
    """`uv run SCRIPT ARGUMENTS` without uv, which would look for an index."""
    words = shlex.split(line)
    assert words[:2] == ["uv", "run"]
    shorter = {one.partition("=")[0] for one in more}
    arguments = [*(word for word in words[2:] if word.partition("=")[0] not in shorter), *more]
    # W&B's offline files, which take seconds of a process of their own, are written by the first command
    environment = {**os.environ, **({} if line == "uv run train" else {"WANDB_MODE": "disabled"})}
    environment["PYTHONPATH"] = os.pathsep.join([str(packages), str(ROOT)])  # for ranks, which begin anew
    return commands.run(arguments, folder, environment=environment, before=functools.partial(ready, packages))


def ready(packages: Path) -> None:
    """What a command does first: it finds the few plays, and is told how long a step takes if it is a dry run."""
    plays.use(packages)
    if "--dry-run" in sys.argv:  # tests/cli/test_sweep.py has one that times steps
        paces._measure = stand_in


def test_what_is_preloaded_is_there(tmp_path: Path) -> None:
    """The standard library's fork server passes over what it cannot import; and with threads no fork is safe."""
    done = commands.call(tell, tmp_path)
    assert (done.returncode, done.stdout) == (0, "True 1\n"), done.stderr


def tell() -> None:
    print("torch" in sys.modules, process.threads())


def test_it_leads_with_the_two() -> None:
    assert commands_of("README.md")[:3] == [
        "uv run train",
        "uv run pytest",
        'uv run generate run=latest prompt="ROMEO:"',
    ]


def test_ci_ends_with_the_test_command() -> None:
    """What prints last in .ci/run is pytest's closing line."""
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert script.splitlines()[-1] == commands_of("README.md")[1]
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
