"""Rows of different lengths that are read together: each has the logits that it has alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from gpt_lab import registry
from gpt_lab.certify.contract import drawn, small
from gpt_lab.infer.batch import Batch
from gpt_lab.infer.generate import context_limit, next_logits
from gpt_lab.model.gpt import GPT
from gpt_lab.parts.joined_states import JoinedKeyValues
from tests.parts.decoding import model

OPTIONS: dict[str, dict[str, Any]] = {
    "attention=gqa": {"attention.kv_heads": 2},
    "attention=sliding": {"attention.window": 5, "attention.pattern": "SL", "attention.sinks": True},
    "attention=hybrid": {
        "attention.pattern": "SG",
        "attention.letters": {"S": {"name": "sliding", "pattern": "S", "window": 4}, "G": {"name": "gated_deltanet"}},
    },
}
PRESETS = ("gpt_oss", "gemma3", "kimi_linear", "qwen3_next", "zamba2", "deepseek_v3")
"""Several attentions, positions by a pattern, blocks that layers share, a state beside attention's."""
SINGLE = {"mlp=moe", "mlp=mod", "attention=rwkv7"}
"""What computes in fp32 alone."""
SEPARATE = {"residual=block_recurrent"}
"""What is read row by row: its memory reads a block of tokens when it ends, which is at another step in each row."""


def variants() -> list[Any]:
    found = []
    for kind in ("attention", "position", "residual", "mlp"):
        for name in ("moe", "mod") if kind == "mlp" else registry.index()[kind]:
            words = [f"{kind}={name}"]
            if kind == "position" and name not in ("none", "learned", "sinusoidal"):
                words.append("attention=sliding")  # rings, whose keys lie in any order
            found.append(pytest.param(words, id=words[0]))
    return found


def alone(made: GPT, tokens: list[int]) -> Tensor:
    """Without any state."""
    return next_logits(made, torch.tensor([tokens]), None)[0]


def check(made: GPT, joined: bool) -> None:
    """Three rows of different lengths; one leaves, one joins, and at times only some are read."""
    draw = torch.Generator().manual_seed(1)
    new = lambda number: torch.randint(made.vocab_size, (number,), generator=draw).tolist()  # noqa: E731
    batch, texts = Batch(made), {"a": new(9), "b": new(2), "c": new(5)}
    found = {key: batch.add(ids, key) for key, ids in texts.items()}
    for step in range(12):
        if step == 4:
            batch.remove("a")
            del texts["a"]
        if step == 6:
            texts["d"] = new(3)
            found |= {"d": batch.add(texts["d"], "d")}
        chosen = [key for key in texts if step % 4 or key != "b"]
        limit = context_limit(made) or 99
        assert batch.together == sum(joined and len(ids) <= limit for ids in texts.values())
        read = {key: new(1)[0] for key in chosen}
        for key, token in read.items():
            texts[key].append(token)
        found = batch.step(read)
        assert found.keys() == set(chosen)
        if step in (0, 1, 3, 5, 7, 8, 11):
            for key in chosen:
                torch.testing.assert_close(found[key], alone(made, texts[key]), rtol=0, atol=1e-5)
    assert len(texts["c"]) > 16  # beyond the training context, where a learned position leaves the others
    for key in list(texts):
        batch.remove(key)
    assert len(batch) == batch.nbytes == 0


@pytest.mark.parametrize("words", variants())
def test_rows_are_read_as_each_alone(words: list[str]) -> None:
    chosen = dict(word.split("=") for word in words)
    settings = {key: value for word in words for key, value in OPTIONS.get(word, {}).items()}
    made = model(**chosen, **settings)
    if words[0] not in SINGLE:  # so that none of the error is rounding
        made = made.double()
    check(made, words[0] not in SEPARATE)


@pytest.mark.parametrize("preset", PRESETS)
def test_so_are_those_of_a_preset(preset: str) -> None:
    check(drawn(small([f"model={preset}", "scale.context=16", "scale.depth=4"])), joined=True)


def test_a_row_that_finds_no_room_leaves_the_others_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though some layers may have taken it in."""
    made = model()
    batch, texts = Batch(made), {"a": [1, 2, 3], "b": [4, 5]}
    for key, ids in texts.items():
        batch.add(ids, key)
    join, calls = JoinedKeyValues.add, []

    def in_one_layer(self: JoinedKeyValues, *arguments: Any) -> None:
        calls.append(self)
        if len(calls) > 1:
            raise MemoryError
        join(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(JoinedKeyValues, "add", in_one_layer)
        with pytest.raises(MemoryError):
            batch.add([6], "c")
    assert "c" not in batch and len(calls) == 2
    texts["c"] = [6]
    batch.add([6], "c")
    found = batch.step(dict.fromkeys(texts, 7))
    for key, ids in texts.items():
        assert torch.allclose(found[key], alone(made, [*ids, 7]), atol=1e-5)
