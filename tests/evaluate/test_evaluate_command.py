"""The `evaluate` command: arguments, runs, folders, results, refusals."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from gpt_lab.cli.trained import evaluate as command
from gpt_lab.data.tokenizers.simple import Byte
from gpt_lab.errors import LabError
from gpt_lab.export import exported_model, hugging_face
from gpt_lab.store.atomic_files import read_json
from tests.infer.conftest import MakeRun

ROWS = [{"query": f"{i} is", "choices": ["odd", "even"], "gold": (i + 1) % 2} for i in range(6)]


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    path = tmp_path / "questions.jsonl"
    path.write_text("\n".join(map(json.dumps, ROWS)))
    return path


def test_a_run_and_its_exported_folder(
    make_run: MakeRun, questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run("one", tokenizer=Byte(), **{"scale.context": 48})
    hugging_face.write_folder(exported_model.read(run), tmp_path / "my_model")
    words = [f"tasks={questions},mqar", "items=5", "shots=1", "seed=3", "device=cpu"]
    assert command.run([str(run.path), *words]) == 0
    mine = capsys.readouterr().out
    assert command.run([str(tmp_path / "my_model"), *words, f"out={tmp_path / 'out'}"]) == 0
    theirs = capsys.readouterr().out
    assert re.search(r"^questions \(accuracy\) +[01]\.\d{4} +± 0\.\d{4} +5$", mine, re.MULTILINE)
    assert mine == theirs and "no replication" in mine
    for name in ("questions", "mqar"):
        own = read_json(run.path / "evaluate" / f"{name}.json", digest=True)
        other = read_json(tmp_path / "out" / f"{name}.json", digest=True)
        assert own["checkpoint"] == "best" and other["checkpoint"] == "" and own["measured"] == 5
        assert other["score"] == own["score"] and len(own["each"]) == 5
    for one, two in zip(read_json(run.path / "evaluate" / "questions.json")["each"], ROWS, strict=False):
        assert one["gold"] == two["gold"] and len(one["log_likelihoods"]) == 2
    assert sorted(path.name for path in (tmp_path / "my_model").glob("*.json*")) == [
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


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
