"""docs/python.md and the notebook run as they stand, on tiny runs."""

from __future__ import annotations

import ast
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from gpt_lab.config.schema import RunConfig
from gpt_lab.train.begin_from import command_line
from tests.docs.expected import STEPS
from tests.docs.pages import ROOT, text
from tests.docs.test_commands import make_short

NOTEBOOK = ROOT / "experiments" / "notebook.ipynb"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a sweep of two arms, in which every training is short."""
    (tmp_path / "sweeps").mkdir()
    file = tmp_path / "sweeps" / "pos_enc.yaml"
    shutil.copyfile(ROOT / "sweeps" / "pos_enc.yaml", file)
    make_short(file, STEPS)
    raw = yaml.safe_load(file.read_text(encoding="utf-8"))
    raw["parameters"] |= {"position": {"values": ["rope", "alibi"]}, "seed": {"values": [0, 1, 2]}}
    file.write_text(yaml.safe_dump(raw, sort_keys=False), encoding="utf-8")
    compose = command_line.compose

    def short(overrides: list[str], *usual: Any) -> RunConfig:
        return compose([*(one for one in overrides if not one.startswith("budget.")), *STEPS, "tracker=none"], *usual)

    monkeypatch.setattr(command_line, "compose", short)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def execute(blocks: list[str]) -> dict[str, Any]:
    """Runs them one after the other in one namespace; what a cell ends with is shown, as a notebook does."""
    names: dict[str, Any] = {}
    for number, block in enumerate(blocks):
        tree = ast.parse(block)
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, f"block {number}", "exec"), names)
        if isinstance(last, ast.Expr):
            shown = eval(compile(ast.Expression(last.value), f"block {number}", "eval"), names)
            forms = [form for form in ("_repr_svg_", "_repr_html_", "__repr__") if hasattr(shown, form)]
            assert getattr(shown, forms[0])(), "a figure's own _repr_html_ is None without a server"
    return names


@pytest.mark.slow
@pytest.mark.usefixtures("one_server")
def test_the_page_and_the_notebook(folder: Path) -> None:
    """In one folder: the notebook finds the runs of the page's sweep, as a reader of both does."""
    blocks = re.findall(r"^```python\n(.*?)^```", text("docs/python.md"), re.DOTALL | re.MULTILINE)
    names = execute(blocks)
    assert len(names["study"].runs) == 6 and set(names["study"].runs["state"]) == {"finished"}
    assert names["found"].word == "better" and (folder / "my_report" / "report.html").is_file()
    records = sorted(folder.glob("runs/pos_enc/*/run.json"))
    names = execute(["".join(cell["source"]) for cell in notebook_cells() if cell["cell_type"] == "code"])
    assert len(names["report"].verdicts) == 2
    assert sorted(folder.glob("runs/pos_enc/*/run.json")) == records and len(records) == 6


def test_the_notebook_has_no_outputs() -> None:
    cells = notebook_cells()
    assert all(not cell["outputs"] for cell in cells if cell["cell_type"] == "code")
    assert len({cell["id"] for cell in cells}) == len(cells)


def notebook_cells() -> list[dict[str, Any]]:
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    cells: list[dict[str, Any]] = notebook["cells"]
    return cells
