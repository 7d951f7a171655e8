"""Runs to measure, without training."""

from __future__ import annotations

import pytest

from gpt_lab.data.tokenizers.simple import Byte
from gpt_lab.evaluate.subject import Subject, of_run
from tests.infer.conftest import MakeRun, make_run

__all__ = ["make_run"]


@pytest.fixture
def subject(make_run: MakeRun) -> Subject:
    """A model with random weights that reads 48 bytes."""
    return of_run(make_run("one", tokenizer=Byte(), **{"scale.context": 48}), device="cpu")
