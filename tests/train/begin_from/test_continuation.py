"""A run goes on from another's weights with another position encoding; what does not fit is refused in one line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from gpt_lab.cost import match
from gpt_lab.errors import ConfigError
from gpt_lab.store import Run
from gpt_lab.train import start
from gpt_lab.train.begin_from import continuation
from tests.train.train_helpers import quiet

TINY = "tokenizer=byte scale.depth=2 scale.width=32 scale.heads=4 scale.context=16 batch.tokens=64 batch.micro=2"
SHORT = "device=cpu compile=off budget.steps=12 eval.every=6 sample.tokens=0 tracker=none position.base=500.0"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run of rope, a/..."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "words.txt").write_text("the cat sat on the mat and the dog lay by the door. " * 60)
    words = ["study=a", f"runs_dir={folder}", "data=text", f"data.path={folder}/words.txt", *TINY.split()]
    assert start.run_training(match.compose([*words, *SHORT.split()]), quiet()).state == "finished"
    return folder


def go_on(folder: Path, *words: str) -> Run:
    cfg = continuation.compose([f"runs_dir={folder}", "tracker=none", "resume_from=a", *words])
    result = start.run_training(cfg, quiet())
    assert result.state == "finished"
    return Run.open(result.path)


def test_the_same_encoding_begins_where_the_other_ended(runs: Path) -> None:
    ended = Run.open(next((runs / "a").iterdir()))
    run = go_on(runs, "study=same", "budget.steps=1", "optim.lr=1e-9")
    origin = run.record["continues"]
    assert (origin["run"], origin["checkpoint"]) == (f"a/{ended.name}", "step-12")
    assert origin["before"]["val/loss"] == pytest.approx(ended.summary["val/loss"], rel=1e-6)
    weights = [load_file(one.path / "checkpoints/last/model.safetensors") for one in (ended, run)]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, rtol=0, atol=1e-6)


def test_a_stretched_context(runs: Path) -> None:
    run = go_on(runs, "study=long", "position=yarn", "position.factor=2.0", "scale.context=32", "eval.contexts=[1,2]")
    settings: dict[str, Any] = run.config
    assert settings["position"] | {"factor": 2.0, "original": 16, "base": 500.0} == settings["position"]
    assert settings["scale"]["width"] == 32 and settings["tokenizer"]["name"] == "byte"
    before = run.record["continues"]["before"]
    for name in ("val/loss", "val/loss_2x"):
        assert 0 < run.summary[name] < before[name] < 5.0  # of log 256 = 5.5 with new weights
    again = continuation.compose([f"runs_dir={runs}", "study=long", "resume_from=a", "position=yarn"])
    assert again.resume_from == "a/" + next((runs / "a").iterdir()).name


def test_a_table_of_another_encoding_is_new(runs: Path) -> None:
    run = go_on(runs, "study=learned", "position=learned", "budget.steps=1")
    assert "position.table" in load_file(run.path / "checkpoints/last/model.safetensors")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["mlp.d_ff=16"], "mlp.down_proj.weight is 32 x 88 in that run and is 32 x 16 here: leave out the setting"),
        (["mlp=gelu"], "is 32 x 88 in that run and is 32 x 128 here"),
        (["scale.depth=3"], "is not there in that run and is 32 x 32 here"),
        (["tokenizer=char"], "tokenizer must stay as it is in that run"),
        (["model=gpt2"], "model=... cannot be given with resume_from"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_written(runs: Path, words: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)) as refused:
        go_on(runs, "study=refused", *words)
    assert "\n" not in str(refused.value) and not (runs / "refused").exists()
