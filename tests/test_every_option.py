"""Every option of every group trains through the real trainer with falling loss, and every key changes something."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gpt_lab import registry
from gpt_lab.train.trainer import run_training
from tests.helpers import tiny_config

WORDS = "the cat sat on the mat and the dog lay by the door while rain fell on the roof. "
TRAINED = [(kind, name) for kind in registry.KINDS for name in registry.index()[kind]]
ELSEWHERE = {
    ("kernel", "flash_attn"): "needs CUDA: tests/test_kernels.py",
    ("kernel", "flex"): "trains on CUDA only: tests/test_kernels.py",
    ("precision", "tf32"): "needs CUDA: tests/train/test_precision.py",
    ("tracker", "auto"): "tests/trackers",
    ("tracker", "wandb"): "tests/trackers",
    ("tracker", "tensorboard"): "tests/trackers",
    ("tokenizer", "tiktoken"): "needs a file of ranks: tests/data",
    ("tokenizer", "hf"): "needs a tokenizer file: tests/data",
    ("data", "hf"): "needs a data set: tests/data",
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The same few sentences as text, JSON lines and parquet."""
    import pandas

    folder = tmp_path_factory.mktemp("corpus")
    lines = [WORDS * 4 + f"{i}." for i in range(60)]
    (folder / "a.txt").write_text("\n".join(lines))
    (folder / "a.jsonl").write_text("\n".join(json.dumps({"text": line}) for line in lines))
    pandas.DataFrame({"text": lines}).to_parquet(folder / "a.parquet")
    return {
        kind: str(folder / f"a.{end}") for kind, end in (("text", "txt"), ("jsonl", "jsonl"), ("parquet", "parquet"))
    }


def _train(corpus: dict[str, str], runs_dir: Path, **overrides: Any) -> list[dict[str, Any]]:
    """Metric rows of a short run on the little corpus."""
    settings: dict[str, Any] = {"data": {"name": "text", "path": corpus["text"]}, "tokenizer": "byte"}
    settings |= {
        "runs_dir": str(runs_dir),
        "compile": "off",
        "device": "cpu",
        "optim.lr": 0.003,
        "schedule.warmup": 0.0,
    }
    chosen = settings | overrides
    data = chosen["data"]
    if isinstance(data, str) and data in corpus:
        chosen["data"] = {"name": data, "path": corpus[data]}
    if chosen.get("optim") in ("sgd", {"name": "sgd"}):
        chosen["optim.lr"] = 0.3
    result = run_training(tiny_config(**chosen))
    assert result.state == "finished"
    lines = (result.run.path / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def _losses(rows: list[dict[str, Any]]) -> list[float]:
    return [row["train/loss"] for row in rows if "train/loss" in row]


@pytest.mark.parametrize(("kind", "name"), [pair for pair in TRAINED if pair not in ELSEWHERE])
def test_trains_with_falling_loss(kind: str, name: str, corpus: dict[str, str], tmp_path: Path) -> None:
    losses = _losses(_train(corpus, tmp_path, **{kind: name, "budget.steps": 20}))
    assert len(losses) == 20
    assert sum(losses[-4:]) < sum(losses[:4])


CHANGED: dict[tuple[str, str], dict[str, Any]] = {}
"""(kind, part): option -> (a value that must change the computation, settings under which it does)."""


def test_what_is_left_out_is_still_registered() -> None:
    assert set(ELSEWHERE) <= set(TRAINED)
