"""Small corpora and configs for the tests of data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gpt_lab.data.shakespeare import Shakespeare
from gpt_lab.schema import RunConfig
from tests.helpers import tiny_config


@pytest.fixture(scope="session")
def plays() -> list[str]:
    """The cleaned text of every tenth play."""
    return ["".join(document.pieces) for document in list(Shakespeare().documents())[::10]]


@pytest.fixture
def story(tmp_path: Path, plays: list[str]) -> Path:
    """The first 20 000 characters of one play, in a file."""
    path = tmp_path / "story.txt"
    path.write_text(plays[0][:20_000], encoding="utf-8")
    return path


@pytest.fixture
def config(story: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., RunConfig]:
    """A config on `story` with byte tokens, whose shards are kept in a folder of this test's own."""
    monkeypatch.setenv("GPT_LAB_CACHE", str(tmp_path / "cache"))

    def make(**overrides: object) -> RunConfig:
        return tiny_config(**{"data": {"name": "text", "path": str(story)}, "tokenizer": "byte"} | overrides)

    return make
