"""A model made light writes what it wrote, and stays the model that it was."""

from __future__ import annotations

import copy

import pytest
import torch

from gpt_lab.certify.contract import VOCABULARY, small
from gpt_lab.infer.generate import complete
from gpt_lab.infer.light_layers import LightLinear, LightNorm, lighten
from gpt_lab.model.gpt import GPT, initialize


def tiny_model(more: list[str]) -> GPT:
    cfg = small(["model=llama", "scale.depth=2", *more])
    model = GPT(cfg, VOCABULARY)
    initialize(model, cfg)
    return model


@pytest.mark.parametrize("more", [[], ["model.bias=true", "model.dropout=0.1"], ["norm=layernorm"], ["mlp=moe"]])
def test_it_writes_the_same(more: list[str]) -> None:
    model = tiny_model(more).eval()
    light = copy.deepcopy(model)
    lighten(light)
    tokens = torch.arange(12).view(2, 6)
    with torch.no_grad():
        torch.testing.assert_close(light(tokens), model(tokens), rtol=1e-5, atol=1e-6)
    assert complete(light, [1, 2, 3], max_tokens=8, seed=1) == complete(model, [1, 2, 3], max_tokens=8, seed=1)
    before, after = model.state_dict(), light.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_what_is_watched_is_still_watched() -> None:
    model = tiny_model([]).eval()
    seen: list[int] = []
    model.blocks[0].mlp.down_proj.register_forward_hook(lambda *_: seen.append(1))
    lighten(model)
    with torch.no_grad():
        model(torch.arange(4)[None])
    assert seen == [1]
    assert isinstance(model.blocks[1].mlp.down_proj, LightLinear) and isinstance(model.norm, LightNorm)


def test_weights_that_change_are_used() -> None:
    model = tiny_model([]).eval()
    lighten(model)
    other = tiny_model(["seed=1"]).eval()
    model.load_state_dict(other.state_dict())
    tokens = torch.arange(6)[None]
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), other(tokens), rtol=1e-5, atol=1e-6)


def test_other_types_are_left_alone() -> None:
    model: GPT = tiny_model([]).to(torch.bfloat16).eval()
    lighten(model)
    assert isinstance(model.blocks[0].mlp.down_proj, torch.nn.Linear)
