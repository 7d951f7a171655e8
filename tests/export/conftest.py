"""Runs to export, made once for all tests of a process."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpt_lab.cli.train import run as train

TEXT = "Now is the winter of our discontent, 1592.\n\nMade  glorious summer by this sun of York;\n" * 40
TINY = ["scale.depth=2", "scale.width=32", "scale.heads=4", "scale.context=32", "batch.tokens=64", "tracker=none"]
SHORT = ["budget.steps=1", "eval.every=1", "eval.tokens=64", "sample.tokens=0", "device=cpu", "compile=off"]


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs: one of Llama's shape, one that no family has."""
    folder = tmp_path_factory.mktemp("runs")
    text = folder / "text.txt"
    text.write_text(TEXT)
    words = [*TINY, *SHORT, "data=text", f"data.path={text}", f"runs_dir={folder}"]
    assert train([*words, "study=llama", "model.vocab_multiple=64", "tokenizer.vocab_size=270"]) == 0
    assert train([*words, "study=odd", "tokenizer=char", "attention=retention"]) == 0
    return folder
