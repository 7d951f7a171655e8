"""A corpus small enough for tests of training, and runs on it."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gpt_lab.config.schema import RunConfig
from tests.helpers import tiny_config


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _unprobed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is trained here is probed for leaks in leak_probe/: in each run it would be a tenth of the time."""
    if "leak_probe" not in request.path.parts:
        monkeypatch.setattr("gpt_lab.train.leak_probe.causality.check", lambda *args: None)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About 20 KB of words that follow one another by a rule, so that training learns fast."""
    words = ["to", "be", "or", "not", "that", "is", "the", "question", "whether", "tis", "nobler", "in", "mind"]
    draw = random.Random(0)
    lines, at = [], 0
    for _ in range(500):
        line = []
        for _ in range(8):
            at = (at + draw.choice((1, 1, 1, 5))) % len(words)
            line.append(words[at])
        lines.append(" ".join(line))
    path = tmp_path_factory.mktemp("corpus") / "words.txt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def make(corpus: Path, tmp_path: Path) -> Callable[..., RunConfig]:
    """tiny_config on the corpus, with its runs in the test's folder."""

    def make_config(**overrides: Any) -> RunConfig:
        text = {"name": "text", "path": str(corpus)}
        return tiny_config(**{"data": text, "runs_dir": str(tmp_path / "runs"), **overrides})

    return make_config
