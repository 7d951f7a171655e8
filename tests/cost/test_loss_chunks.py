"""Whether a run's loss is made in chunks: what auto says, what cannot, what memory is told."""

from __future__ import annotations

from typing import Any

import pytest

from gpt_lab.cost import memory
from gpt_lab.cost.loss_chunks import CHUNK, WHOLE, loss_chunk
from gpt_lab.errors import ConfigError
from tests.helpers import tiny_config

VOCAB = 50304


def test_auto_leaves_small_logits_whole() -> None:
    cfg = tiny_config()
    most = WHOLE // VOCAB
    assert loss_chunk(cfg, VOCAB, most) == (None, f"logits of {most:,} tokens take 0.27 GB in fp32")
    chunk, reason = loss_chunk(cfg, VOCAB, most + 1)
    assert chunk == CHUNK["cpu"] // VOCAB == 333
    assert reason.endswith("333 tokens at a time")
    assert loss_chunk(cfg, VOCAB, most + 1, "cuda")[0] == CHUNK["cuda"] // VOCAB


def test_it_can_be_asked_for_and_left_out() -> None:
    assert loss_chunk(tiny_config(chunked_loss="on"), VOCAB, 64) == (64, "asked for")
    assert loss_chunk(tiny_config(chunked_loss="off"), VOCAB, 10**6) == (None, "asked for")
    assert loss_chunk(tiny_config(objective="mtp", chunked_loss="on"), 10**9, 64) == (1, "asked for")


@pytest.mark.parametrize(
    "settings, twice, words",
    [
        ({"objective": "distill"}, False, "objective=distill needs all logits at once"),
        ({"optim": "adahessian"}, True, "optim=adahessian differentiates twice"),
        ({"parallel": "fsdp", "gpus_per_trial": 2}, False, "under parallel=fsdp a layer is whole"),
    ],
    ids=["distill", "twice", "fsdp"],
)
def test_what_cannot_is_left_whole_and_refused_where_asked_for(
    settings: dict[str, Any], twice: bool, words: str
) -> None:
    chunk, reason = loss_chunk(tiny_config(**settings), VOCAB, 10**6, "cpu", twice)
    assert chunk is None and reason.startswith(words)
    with pytest.raises(ConfigError, match=f"chunked_loss=on: {words}.*: leave it at auto"):
        loss_chunk(tiny_config(chunked_loss="on", **settings), VOCAB, 64, "cpu", twice)


def test_memory_counts_a_chunk_of_logits() -> None:
    whole, chunked = (
        tiny_config(chunked_loss=way, **{"batch.tokens": 16 * 1024, "scale.context": 1024}) for way in ("off", "auto")
    )
    counted = [memory.terms(cfg, memory.sizes_of(cfg, VOCAB, None)) for cfg in (whole, chunked)]
    assert counted[0]["logits of 16,384 tokens at a time"] == 16384 * VOCAB * 4
    assert counted[1]["logits of 333 tokens at a time"] == 333 * VOCAB * 4
