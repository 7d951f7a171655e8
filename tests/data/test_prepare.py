"""`prepare` builds once and says what there is."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from gpt_lab.config.schema import RunConfig
from gpt_lab.data.prepare import prepare


def printed(cfg: RunConfig) -> str:
    console = Console(file=io.StringIO(), width=100)
    prepare(cfg, console)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_prepare(config: Callable[..., RunConfig]) -> None:
    cfg = config(tokenizer={"name": "bpe", "vocab_size": 9000})
    first = printed(cfg)
    assert "warning: tokenizer.vocab_size=9000: the corpus fills only" in first
    assert "built in " in first
    for word in ("documents", "tokens", "bytes per token", "windows of 16", "vocabulary", "trigram, bits per byte"):
        assert word in first
    assert "batch.packing=stream: " in first and "% of the documents cut, 100% of the places filled" in first
    second = printed(cfg)
    assert "already there: " in second
    assert second.split("already there")[0] == first.split("built in")[0]


def test_each_source_of_a_mixture(config: Callable[..., RunConfig], story: Path) -> None:
    text = {"name": "text", "path": str(story)}
    sources = {"a": text, "b": {**text, "val_fraction": 0.2, "weight": 2}}
    shown = printed(config(data={"name": "mix", "sources": sources}, **{"batch.packing": "best_fit"}))
    assert "data.sources.a tokenizer=byte" in shown and "data.sources.b tokenizer=byte" in shown
    assert shown.count("built in ") == 2 and "bytes lost" in shown
    assert "batch.packing=best_fit: " in shown


def test_nothing_to_prepare(config: Callable[..., RunConfig]) -> None:
    assert printed(config(data="synthetic")) == "data=synthetic is made while training: there is nothing to prepare\n"
