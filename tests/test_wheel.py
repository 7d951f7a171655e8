"""A project of one's own with the lab installed from its wheel: what docs/your-project.md shows, in an empty folder."""

from __future__ import annotations

import functools
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.docs import plays
from tests.docs.expected import SHORT
from tests.docs.pages import ROOT, commands, text
from tests.processes import commands as processes
from tests.processes.scripts import MODULES

pytestmark = pytest.mark.slow
FOUND = shutil.which("uv")
UV = [FOUND] if FOUND else [sys.executable, "-m", "uv"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's files, as an installation lays them out."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [*UV, "build", "--wheel", "--quiet", "--out-dir", str(folder), str(ROOT)]
    built = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stderr
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name, content in re.findall(r"<!-- file: (\S+) -->\n```\w+\n(.*?)```", text("docs/your-project.md"), re.DOTALL):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    return tmp_path


def call(site: Path, folder: Path, name: str, *arguments: str, status: int = 0, packages: Path | None = None) -> str:
    """A console script of the installation; what it printed, in one line. packages: those of tests/docs/plays.py."""
    environ = {key: value for key, value in os.environ.items() if key != "UV_RUN_RECURSION_DEPTH"}
    before = None if packages is None else functools.partial(plays.use, packages)
    done = processes.run([name, *arguments], folder, environment=environ, before=before, package=site)
    assert done.returncode == status, done.stderr
    return " ".join((done.stdout + done.stderr).split())


def started(site: Path, folder: Path, name: str) -> str:
    """The same of a Python that has imported nothing."""
    environ = {key: value for key, value in os.environ.items() if key != "UV_RUN_RECURSION_DEPTH"}
    code = f"from {MODULES[name]} import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return " ".join((done.stdout + done.stderr).split())


def test_an_empty_folder_has_all_that_is_shipped(site: Path, tmp_path: Path) -> None:
    said = started(site, tmp_path, "components")
    assert "rmsnorm" in said and "Select: train KIND=NAME" in said, "hints name the commands as they are called here"
    assert "steps: 200" in call(site, tmp_path, "train", "+experiment=norm", "--cfg")
    assert "pos_enc.yaml` makes them" in call(site, tmp_path, "report", "pos_enc", status=2)
    assert "did you mean pos_enc?" in call(site, tmp_path, "report", "pos_encs", status=2)
    assert not (tmp_path / "conf").exists()
    shipped = {path.name for path in (site / "gpt_lab" / "serve" / "static").iterdir()}
    assert shipped == {"index.html", "style.css", "app.js"}


def test_the_page_s_way_to_a_project_needs_no_index(tmp_path: Path) -> None:
    """From a clone beside the folder, as it stands on the page; what it would download is not."""
    os.symlink(ROOT, tmp_path / "gpt_lab")
    folder = tmp_path / "mine"
    folder.mkdir()
    for line in commands("docs/your-project.md")[:2]:
        words = shlex.split(line)
        assert words[0] == "uv"
        more = ["--frozen", "--offline"] if words[1] == "add" else []
        done = subprocess.run([*UV, *words[1:], *more], cwd=folder, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
    made = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
    assert made["project"]["dependencies"] == ["gpt-lab"]
    assert made["tool"]["uv"]["sources"] == {"gpt-lab": {"path": "../gpt_lab"}}


def test_the_project_of_the_page(site: Path, project: Path, tmp_path: Path) -> None:
    assert "norm=centred" in call(site, project, "components", "norm", "centred")
    short = functools.partial(call, site, project, packages=plays.few(tmp_path))
    said = short("train", "model=mine", "norm=centred", "norm.scale=0.5", "budget.steps=4", *SHORT)
    assert "another seed: train model=mine norm=centred norm.scale=0.5" in said
    said = short("sweep", "norms", "--report", "budget.steps=4", "--seeds", "2", "tracker=none", *SHORT)
    assert "Does a norm need its division?" in said and "4 runs: 4 finished" in said
    assert (project / "runs").is_dir()


@pytest.mark.parametrize(
    "arguments, hint",
    [
        (("train", "model=mien"), "did you mean 'mine'?"),
        (("train", "norm=centered"), "did you mean 'centred'?"),
        (("sweep", "norm_s"), "norms"),
        (("report", "norms"), "`sweep sweeps/norms.yaml` makes them"),
    ],
)
def test_a_slip_is_one_line_with_the_project_s_names(
    site: Path, project: Path, arguments: tuple[str, ...], hint: str
) -> None:
    said = call(site, project, *arguments, status=2)
    assert said.startswith("error: ") and hint in said
    assert not (project / "runs").exists()
