"""Filling in masks: samples by their own streams, the prompt kept, any length, against a model that is known."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from gpt_lab.errors import LabError
from gpt_lab.infer.generate import ENDED, Usage, complete, generate
from gpt_lab.infer.several import generate_several
from gpt_lab.model.gpt import GPT, initialize
from tests.helpers import tiny_config

VOCAB = 19


@pytest.fixture
def model() -> GPT:
    cfg = tiny_config(objective="masked_diffusion")
    made = GPT(cfg, VOCAB)
    initialize(made, cfg)
    return made.eval()


def test_each_sample_is_the_same_whatever_their_number(model: GPT) -> None:
    alone = complete(model, [1, 2, 3], max_tokens=21, seed=4)
    several = complete(model, [1, 2, 3], max_tokens=21, seed=4, samples=3)
    assert several[0] == alone[0] and several[1] != alone[0]
    assert all(len(ids) == 21 and max(ids) < VOCAB for ids in several), "over three blocks, past the context"
    assert complete(model, [1, 2, 3], max_tokens=21, seed=5) != alone


def test_what_was_filled_in_is_read_by_what_follows(model: GPT, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that puts the place's own number everywhere; blocks are of half the context of 16."""
    windows: list[Tensor] = []

    def forward(tokens_BT: Tensor) -> Tensor:
        windows.append(tokens_BT.clone())
        return 50.0 * torch.nn.functional.one_hot(torch.arange(16) % VOCAB, VOCAB).float().expand(
            len(tokens_BT), -1, -1
        )

    monkeypatch.setattr(model, "forward", forward)
    (ids,) = complete(model, [7, 7], max_tokens=20)
    assert ids == [*range(2, 10), *range(8, 16), *range(12, 16)], "after two tokens, then after the last 8, then 12"
    assert [(w == VOCAB).sum().item() for w in windows] == [*range(14, 6, -1), *range(8, 0, -1), *range(4, 0, -1)]
    assert all((w[0, :2] == 7).all() for w in windows[:8]) and windows[8][0, :8].tolist() == ids[:8]


def test_a_sample_that_the_caller_wants_no_more_of(model: GPT, monkeypatch: pytest.MonkeyPatch) -> None:
    def lengths(steps: Iterator[list[int]], rows: int) -> list[int]:
        found = [0] * rows
        for step, given in enumerate(steps):
            found = [n + (token != ENDED) for n, token in zip(found, given, strict=True)]
            usage.finished |= {1: {0}, 3: {rows - 1}}.get(step, set())
        return found

    usage = Usage()
    assert lengths(generate(model, [7], max_tokens=6, samples=2, usage=usage), 2) == [2, 4]
    usage = Usage()
    steps = generate_several(model, [[7], [8, 9]], max_tokens=6, samples=2, usage=usage)
    assert lengths(steps, 4) == [2, 6, 6, 4]


def test_it_stops_and_says_what_is_not_finite(model: GPT, monkeypatch: pytest.MonkeyPatch) -> None:
    places = torch.nn.functional.one_hot(torch.arange(16) % VOCAB, VOCAB).float()
    monkeypatch.setattr(model, "forward", lambda tokens_BT: 50.0 * places.expand(len(tokens_BT), -1, -1))
    assert complete(model, [7, 7], max_tokens=12, stop=5, samples=2) == [[2, 3, 4]] * 2
    assert ENDED not in [step[0] for step in generate(model, [7], max_tokens=3)]
    monkeypatch.setattr(model, "forward", lambda tokens_BT: places.expand(len(tokens_BT), -1, -1) * float("nan"))
    with pytest.raises(LabError, match="not finite"):
        complete(model, [7], max_tokens=2)
