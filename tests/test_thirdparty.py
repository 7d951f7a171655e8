"""A package outside the lab adds a norm and an attention; README's recipe is that package, word for word."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
PACKAGE = Path(__file__).parent / "thirdparty"
FILES = ("pyproject.toml", "my_parts.py")
TINY = [
    *("scale.depth=2", "scale.width=32", "scale.heads=4", "scale.context=32", "batch.tokens=128", "tokenizer=byte"),
    *("budget.steps=12", "eval.every=6", "eval.tokens=256", "log.every=1", "sample.tokens=0"),
    *("device=cpu", "precision=fp32", "compile=off", "tracker=none"),
]
BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"


def readme_files() -> dict[str, str]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return dict(re.findall(r"<!-- file: (\S+) -->\n```\w+\n(.*?)```", text, re.DOTALL))


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package, built from README's two files and unpacked as an installer would."""
    source, wheels, target = (tmp_path_factory.mktemp(name) for name in ("my_parts", "wheels", "target"))
    for name, text in readme_files().items():
        (source / name).write_text(text, encoding="utf-8")
    built = subprocess.run(
        [sys.executable, "-c", BUILD, wheels], cwd=source, capture_output=True, text=True, timeout=120
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = wheels.glob("my_parts-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    return target


def script(installed: Path, folder: Path, line: list[str]) -> subprocess.CompletedProcess[str]:
    code = f"import sys; sys.argv = {line!r}; from gpt_lab.cli.{line[0]} import main; main()"
    paths = os.pathsep.join(filter(None, [str(installed), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": paths},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize("name", FILES)
def test_readme_shows_the_package(name: str) -> None:
    assert readme_files()[name] == (PACKAGE / name).read_text(encoding="utf-8")


def test_it_is_listed_and_explained(installed: Path, tmp_path: Path) -> None:
    listed = script(installed, tmp_path, ["components", "--json"])
    assert listed.returncode == 0, listed.stderr
    tree = json.loads(listed.stdout)
    assert tree["norm"]["my_norm"]["options"]["eps"]["default"] == 1e-5
    assert "my_attention" in tree["attention"]
    explained = script(installed, tmp_path, ["components", "norm", "my_norm"])
    assert "Nguyen and Salazar" in explained.stdout
    assert f"Source: {installed / 'my_parts.py'}" in explained.stdout
    helped = script(installed, tmp_path, ["train", "--help"])
    assert "my_norm" in helped.stdout and "my_attention" in helped.stdout


def test_its_options_are_in_the_config(installed: Path, tmp_path: Path) -> None:
    """Without a YAML of its own."""
    line = ["train", "norm=my_norm", "norm.eps=1e-4", "attention=my_attention", "--cfg"]
    shown = script(installed, tmp_path, line)
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
def test_its_options_are_checked(override: str, words: str, installed: Path, tmp_path: Path) -> None:
    chosen = [] if override.startswith("norm=") else ["norm=my_norm"]
    refused = script(installed, tmp_path, ["train", *chosen, override])
    assert refused.returncode == 2
    assert words in refused.stderr
    assert refused.stderr.count("\n") == 1


@pytest.mark.slow
def test_it_trains(installed: Path, tmp_path: Path) -> None:
    """Both parts at once, through the real script; then text from the run; then the finished run asked for again."""
    line = ["train", "norm=my_norm", "attention=my_attention", "attention.slope=2.0", *TINY]
    trained = script(installed, tmp_path, line)
    assert trained.returncode == 0, trained.stderr
    (record,) = (json.loads(path.read_text("utf-8")) for path in tmp_path.glob("runs/*/*/run.json"))
    assert record["state"] == "finished"
    (metrics,) = tmp_path.glob("runs/*/*/metrics.jsonl")
    lines = [json.loads(line) for line in metrics.read_text("utf-8").splitlines()]
    losses = [line["train/loss"] for line in lines if "train/loss" in line]
    assert len(losses) >= 10
    assert losses[-1] < losses[0]
    generated = script(installed, tmp_path, ["generate", "run=latest", "prompt=ROMEO:", "max_tokens=8"])
    assert generated.returncode == 0, generated.stderr
    assert generated.stdout.startswith("ROMEO:")


@pytest.mark.slow
def test_its_options_change_the_model(installed: Path, tmp_path: Path) -> None:
    for slope in ("1.0", "4.0"):
        line = ["train", "attention=my_attention", f"attention.slope={slope}", *TINY, "budget.steps=2"]
        trained = script(installed, tmp_path, line)
        assert trained.returncode == 0, trained.stderr
    curves = set()
    for metrics in tmp_path.glob("runs/*/*/metrics.jsonl"):
        lines = [json.loads(line) for line in metrics.read_text("utf-8").splitlines()]
        curves.add(tuple(line["train/loss"] for line in lines if "train/loss" in line))
    assert len(curves) == 2
    assert all(curves)
