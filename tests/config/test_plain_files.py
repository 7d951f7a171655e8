"""Composition without Hydra: what Hydra composes, or None."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from gpt_lab import project, registry
from gpt_lab.config import composition, plain_files

KINDS = (*registry.KINDS, "scale")
FILES = [[f"{kind}={name}" for name in project.files("conf", kind)] for kind in KINDS]
TOGETHER = [list(filter(None, row)) for row in itertools.zip_longest(*FILES)]
"""Every file of every kind, one of each kind at a time."""
LAID_OVER = [[f"model={name}"] for name in project.files("conf", "model")]
LAID_OVER += [[f"+experiment={name}"] for name in project.files("experiments")]
SEVERAL = [
    ["mlp=gelu", "model=deepseek_v3", "attention=gqa"],
    ["+experiment=modern", "model=gemma3", "optim=lion"],
    ["scale=small", "+experiment=shakespeare_char", "mlp=swiglu"],
]


@pytest.mark.parametrize("groups", [[], *TOGETHER, *LAID_OVER, *SEVERAL], ids=lambda groups: ",".join(groups)[:40])
def test_it_is_what_hydra_composes(groups: list[str]) -> None:
    assert json.dumps(plain_files.compose(groups)) == json.dumps(composition._by_hydra(groups))


@pytest.mark.parametrize(
    "text", ["+experiment=x", "model=x", "optim=adamx", "optim=../norm/rmsnorm", "lr=1", "optim=", "optim"]
)
def test_what_there_is_no_file_of_is_for_hydra(text: str) -> None:
    assert plain_files.compose([text]) is None


@pytest.mark.parametrize("folder", ["conf", "experiments"])
def test_a_project_s_own_files_are_for_hydra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path)
    assert plain_files.compose([]) is None


@pytest.mark.parametrize(
    "text",
    [
        "name: adamw\ndefaults: [muon]",
        "# @package _global_\nname: adamw",
        "name: adamw\nlr: ${seed}",
        "name: [",
        "name: adamw\nname: adamw",
        "- adamw",
    ],
)
def test_a_file_that_is_more_than_values_is_for_hydra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    shipped = project.shipped("conf")
    for path in shipped.iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "optim").unlink()
    (tmp_path / "optim").mkdir()
    (tmp_path / "optim" / "adamw.yaml").write_text("name: adamw\n", encoding="utf-8")
    monkeypatch.setattr(project, "shipped", lambda name: tmp_path)
    monkeypatch.setattr(project, "own", lambda name: None)
    made = plain_files.compose([])
    assert made is not None and made["optim"] == {"name": "adamw"}
    (tmp_path / "optim" / "adamw.yaml").write_text(text, encoding="utf-8")
    assert plain_files.compose([]) is None
