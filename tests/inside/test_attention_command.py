"""The `attention` command: figures of maps and states, refusals."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpt_lab.cli.trained import attention as command
from gpt_lab.errors import LabError
from tests.infer.conftest import MakeRun, make_run

__all__ = ["make_run"]

HYBRID = {"name": "hybrid", "pattern": "GD", "letters": {"G": {"name": "gla"}, "D": {"name": "differential"}}}


def test_figures_of_maps_and_states(make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run("one", attention=HYBRID)
    assert command.run([str(run.path), "prompt=ab ab ab $x$", "wandb=true"]) == 0
    out = capsys.readouterr().out
    assert "3 maps and 1 state of 12 tokens, checkpoint best" in out
    assert "attention kept offline; later: " in out
    images = run.path.parent.glob("wandb/offline-run-*/files/media/images/attention/*.png")
    assert len(list(images)) == 4
    names = ["layer00_state", *(f"layer01_{name}" for name in ("difference", "first", "second"))]
    files = sorted((run.path / "attention").iterdir())
    assert [path.name for path in files] == sorted(f"{name}.{end}" for name in names for end in ("png", "svg"))
    first = (run.path / "attention" / "layer01_first.svg").read_text()
    assert "head 1" in first and "head 2" not in first
    before = {path.name: path.read_bytes() for path in files}
    assert command.run([str(run.path), "prompt=ab ab ab $x$", f"out={tmp_path / 'again'}"]) == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()} == before


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ([], "attention needs a run"),
        (["one", "promt=x"], "did you mean 'prompt'"),
        (["one", "prompt=a long text of many tokens"], "26 tokens, and the context is 16"),
        (["one", "wandb=maybe"], "wandb must be"),
        (["blind", "prompt=x"], "has no weights and keeps no state"),
    ],
)
def test_refusals_write_nothing(make_run: MakeRun, tmp_path: Path, words: list[str], what: str) -> None:
    make_run("one")
    make_run("blind", attention="none")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(LabError, match=what):
        command.run([*words, f"runs_dir={tmp_path / 'runs'}"])
    assert sorted(tmp_path.rglob("*")) == before
