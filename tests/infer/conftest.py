"""A run folder as training leaves it, without training."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpt_lab.data.tokenizers.simple import Char
from tests.made_run import MakeRun, run_maker


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """As run_maker, of a folder of the test's own."""
    return run_maker(tmp_path)


@pytest.fixture
def letters() -> Char:
    tokenizer = Char(eot=False)
    tokenizer.fit(["ROMEO: él 東京 😀\n"])
    return tokenizer
