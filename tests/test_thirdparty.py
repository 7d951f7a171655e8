"""The parts of docs/your-own-parts.md, word for word, in a copy of the clone; and a package with the same parts."""

from __future__ import annotations

import functools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from site import addsitedir

import pytest
import yaml

from tests.docs import plays
from tests.processes import commands

ROOT = Path(__file__).parent.parent
PACKAGE = Path(__file__).parent / "thirdparty"
FILE = "parts/my_parts.py"
TINY = [
    *("scale.depth=2", "scale.width=32", "scale.heads=4", "scale.context=32", "batch.tokens=128", "tokenizer=byte"),
    *("budget.steps=12", "eval.every=6", "eval.tokens=256", "log.every=1", "sample.tokens=0"),
    *("device=cpu", "precision=fp32", "compile=off", "tracker=none"),
]
BUILD = "import sys; from setuptools import build_meta; build_meta.build_editable(sys.argv[1])"


def page() -> str:
    return (ROOT / "docs" / "your-own-parts.md").read_text(encoding="utf-8")


def shown_files() -> dict[str, str]:
    return dict(re.findall(r"<!-- file: (\S+) -->\n```\w+\n(.*?)```", page(), re.DOTALL))


def copy_of_the_clone(folder: Path) -> Path:
    for name in ("gpt_lab", "conf", "experiments", "sweeps"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("results"))
    return folder


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the clone with the page's file, and a folder of the same name in the way."""
    made = copy_of_the_clone(tmp_path_factory.mktemp("clone"))
    for name, text in shown_files().items():
        (made / name).parent.mkdir(exist_ok=True)
        (made / name).write_text(text, encoding="utf-8")
    (made / "my_parts").mkdir()
    return made


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A copy of the clone with the package's source in it, and a folder with what installs that as editable."""
    made = copy_of_the_clone(tmp_path_factory.mktemp("clone"))
    wheels, target = (tmp_path_factory.mktemp(name) for name in ("wheels", "target"))
    shutil.copytree(PACKAGE, made / "my_parts", ignore=shutil.ignore_patterns("__pycache__"))
    built = subprocess.run(
        [sys.executable, "-c", BUILD, wheels], cwd=made / "my_parts", capture_output=True, text=True, timeout=120
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = wheels.glob("my_parts-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    return made, target


def script(
    clone: Path, line: list[str], site: Path | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """`uv run LINE` without uv: the lab of the copy, with the packages of this environment and those of `site`."""
    environment = {name: value for name, value in os.environ.items() if name != "GPT_LAB_PARTS"}
    before = functools.partial(find, plays.few(clone), site)
    return commands.run(line, cwd or clone, environment=environment, before=before, package=clone)


def find(packages: Path, site: Path | None) -> None:
    plays.use(packages)
    if site is not None:
        addsitedir(str(site))


def test_the_page_shows_its_files() -> None:
    names = ("my_parts.py", "my_loss.py")
    assert shown_files() == {f"parts/{name}": (PACKAGE / name).read_text(encoding="utf-8") for name in names}
    (announced,) = re.findall(r"```toml\n(.*?)```", page(), re.DOTALL)
    assert announced in (PACKAGE / "pyproject.toml").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_page_as_it_stands(clone: Path) -> None:
    """Every command of the page, in order; the model that trains has both parts, and others run as before."""
    blocks = re.findall(r"```sh\n(.*?)```", page(), re.DOTALL)
    lines = [shlex.split(line) for block in blocks for line in block.splitlines()]
    assert [line[2] for line in lines] == ["components", "train", "components", "train", "components"]
    for line in [*lines, ["uv", "run", "generate", "run=latest", "prompt=A", "max_tokens=8"]]:
        assert line[:2] == ["uv", "run"]
        short = TINY if line[2] == "train" else ["compile=off"] if "--check" in line else []
        done = script(clone, [*line[2:], *short])
        assert done.returncode == 0, done.stderr
        if "--check" in line:
            assert "FAILED" not in done.stdout and "ok     decoding" in done.stdout
        elif line[2] == "components":
            assert "Nguyen and Salazar" in done.stdout and f"Source: {FILE}:" in done.stdout
    records = [json.loads(path.read_text("utf-8")) for path in clone.glob("runs/*/*/run.json")]
    assert [record["state"] for record in records] == ["finished"] * 2
    chosen = {
        (r["config"]["norm.name"], r["config"].get("attention.slope"), r["config"]["objective.name"]) for r in records
    }
    assert chosen == {("my_norm", 2.0, "ce"), ("rmsnorm", None, "contrastive")}
    for metrics in clone.glob("runs/*/*/metrics.jsonl"):
        found = [json.loads(line) for line in metrics.read_text("utf-8").splitlines()]
        losses = [line["train/loss"] for line in found if "train/loss" in line]
        assert len(losses) >= 10
        assert losses[-1] < losses[0]


def test_its_place(clone: Path, tmp_path: Path) -> None:
    """The clone's folder serves other working folders too, and $GPT_LAB_PARTS names another."""
    listed = script(clone, ["components", "norm", "--json"], cwd=tmp_path)
    assert listed.returncode == 0, listed.stderr
    entry = json.loads(listed.stdout)["norm"]["my_norm"]
    assert entry["source"] == str(clone / FILE)
    assert entry["options"]["eps"]["default"] == 1e-5


def test_a_package_beside_it(beside: tuple[Path, Path]) -> None:
    """Installed as `uv add --editable ./my_parts` does it: the folder hides the module of its name from Python."""
    clone, site = beside
    explained = script(clone, ["components", "norm", "my_norm"], site)
    assert explained.returncode == 0, explained.stderr
    assert "Source: my_parts/my_parts.py:" in explained.stdout
    line = ["train", "norm=my_norm", "attention=my_attention", *TINY]
    trained = script(clone, line, site)
    assert trained.returncode == 0, trained.stderr


def test_its_options_are_in_the_config(clone: Path) -> None:
    """Without a YAML of its own."""
    line = ["train", "norm=my_norm", "norm.eps=1e-4", "attention=my_attention", "--cfg"]
    shown = script(clone, line)
    assert shown.returncode == 0, shown.stderr
    config = yaml.safe_load(shown.stdout)
    assert config["norm"] == {"name": "my_norm", "eps": 1e-4}
    assert config["attention"] == {"name": "my_attention", "slope": 1.0}


@pytest.mark.parametrize(
    "override, words",
    [
        ("norm=my_nrm", "did you mean 'my_norm'"),
        ("norm.epsilon=1", "did you mean 'eps'"),
        ("norm.eps=-1", "norm.eps must be a number > 0"),
        ("norm.eps=small", "norm.eps must be a number"),
    ],
)
def test_its_options_are_checked(override: str, words: str, clone: Path) -> None:
    chosen = [] if override.startswith("norm=") else ["norm=my_norm"]
    refused = script(clone, ["train", *chosen, override])
    assert refused.returncode == 2
    assert words in refused.stderr
    assert refused.stderr.count("\n") == 1
