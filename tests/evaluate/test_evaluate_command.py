"""The `evaluate` command: arguments, runs, folders, results, refusals."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from gpt_lab.cli.trained import evaluate as command
from gpt_lab.data.tokenizers.simple import Byte
from gpt_lab.errors import LabError
from gpt_lab.store.atomic_files import read_json
from tests.infer.conftest import MakeRun

ROWS = [{"query": f"{i} is", "choices": ["odd", "even"], "gold": (i + 1) % 2} for i in range(6)]


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    path = tmp_path / "questions.jsonl"
    path.write_text("\n".join(map(json.dumps, ROWS)))
    return path


def test_results_of_a_run(make_run: MakeRun, questions: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run("one", tokenizer=Byte(), **{"scale.context": 48})
    words = [str(run.path), "items=5", "seed=3", "device=cpu"]
    assert command.run([*words, f"tasks={questions}", "shots=1"]) == command.run([*words, "tasks=mqar"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"^questions \(accuracy\) +[01]\.\d{4} +± 0\.\d{4} +5$", shown, re.MULTILINE)
    assert "no replication" in shown
    for name in ("questions", "mqar"):
        own = read_json(run.path / "evaluate" / f"{name}.json", digest=True)
        assert (own["checkpoint"], own["measured"], len(own["each"])) == ("best", 5, 5)
        assert own["shots"] == (name == "questions")
    for one, row in zip(read_json(run.path / "evaluate" / "questions.json")["each"], ROWS, strict=False):
        assert one["gold"] == row["gold"] and len(one["log_likelihoods"]) == 2


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["one"], "evaluate needs tasks"),
        (["tasks=mqar"], "evaluate needs a run or a folder"),
        (["one", "tasks=,"], "evaluate needs tasks"),
        (["one", "tasks=mqra"], "did you mean 'mqar'"),
        (["one", "tasks=mqar", "item=2"], "did you mean 'items'"),
        (["one", "tasks=mqar", "items=0"], "items must be"),
        (["one", "tasks=mqar", "shots=2"], "examples are of files of items"),
        (["one", "tasks=mqar", "--fast"], "unknown option '--fast'"),
        (["one", "tasks=mqar", "backend=helm"], "unknown value for backend"),
        (["one", "two", "tasks=mqar"], "given twice"),
        (["nobody", "tasks=mqar"], "no run 'nobody'.*has a config.json"),
        (["one", "tasks=mqar", "checkpoint=step-9"], "unknown checkpoint"),
        (["learned", "tasks=mqar", "context=32"], "position=learned reads at most 16 tokens"),
        (["both", "tasks=mqar"], "reads? both ways"),
    ],
)
def test_refusals_write_nothing(make_run: MakeRun, tmp_path: Path, words: list[str], what: str) -> None:
    make_run("one")
    make_run("learned", position="learned")
    if "both" in words:
        make_run("both", objective="mlm", position="learned")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(LabError, match=what) as error:
        command.run([*words, f"runs_dir={tmp_path / 'runs'}"])
    assert len(str(error.value).splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_has_no_checkpoint_to_choose(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(LabError, match="checkpoint=last: a Hugging Face folder has none: leave it out"):
        command.run([str(tmp_path), "tasks=mqar", "checkpoint=last"])
