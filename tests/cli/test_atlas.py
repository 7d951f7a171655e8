"""`atlas`: a row is run again and written; groups are planned; bad words are one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpt_lab.atlas import studies
from gpt_lab.cli import atlas
from gpt_lab.errors import ConfigError
from gpt_lab.sweep import runner

SHORT = ["scale.width=16", "scale.context=32", "batch.tokens=64", "budget.steps=2", "eval.every=2", "compile=off"]
BARE = ["sample.tokens=0", "tracker=none"]
"""Six clients of W&B would take longer than all else."""


def test_groups_are_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    planned = []
    monkeypatch.setattr(runner, "dry_run", lambda sweep, console, jobs: planned.append(sweep.design.study) or 0)
    assert atlas.run(["--only", "attention,position", "--corpus", "stdlib", "--scale", "tiny", "--dry-run"]) == 0
    assert planned == [f"atlas_{kind}-data-stdlib-scale-tiny" for kind in ("attention", "position")]


def test_all_groups_are_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    planned = []
    monkeypatch.setattr(runner, "dry_run", lambda sweep, console, jobs: planned.append(sweep.design.study) or 0)
    assert atlas.run(["--dry-run"]) == 0
    assert len({*planned}) == len(studies.SWEEPS) * len(studies.CORPORA)


def test_a_contradiction() -> None:
    with pytest.raises(ConfigError, match="leave one out"):
        atlas.run(["--report", "--dry-run"])


@pytest.mark.slow
@pytest.mark.usefixtures("one_server")
def test_a_row_is_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--only", "position=none", "--corpus", "shakespeare", "data.val_fraction=0.002", *SHORT, *BARE]
    assert atlas.run(words) == 0
    runs = list(tmp_path.glob("runs/atlas_position_none_again-*/*/run.json"))
    assert len(runs) == 6, "three seeds of each decide that two steps do not differ"
    kept = tmp_path / "runs" / "atlas" / "shakespeare" / "position-none" / "runs.csv"
    assert kept.is_file()
    said = capsys.readouterr().out
    assert "wrote runs/atlas/atlas.html" in said
    assert "on fresh seeds alone: none (shakespeare " in said, "its answer, where the first one is kept elsewhere"
