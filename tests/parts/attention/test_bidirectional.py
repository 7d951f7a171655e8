"""Attention that is not causal against torch's, and that a language model cannot have it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gpt_lab import registry
from gpt_lab.errors import ConfigError
from gpt_lab.infer.cache import Cache
from gpt_lab.parts.attention.bidirectional import Bidirectional, Cross
from gpt_lab.parts.base import Flow, Position, Shape
from gpt_lab.parts.position.alibi import Alibi
from gpt_lab.parts.position.rope import Rope
from gpt_lab.train.leak_probe import causality
from gpt_lab.train.precision import Precision
from tests.helpers import tiny_config

SHAPE = Shape(2, 32, 4, 16, bias=True)


@registry.register("attention", "bidirectional")
class Registered(Bidirectional):
    """As if language models could choose it."""


def drawn(module: nn.Module) -> Any:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0, 0.4)
    return module


def theirs(inside: torch.Tensor, bias: torch.Tensor, part: Any, **sizes: Any) -> nn.MultiheadAttention:
    made = nn.MultiheadAttention(32, 4, batch_first=True, **sizes)
    with torch.no_grad():
        made.in_proj_weight.copy_(inside)
        made.in_proj_bias.copy_(bias)
        made.out_proj.weight.copy_(part.o_proj.weight)
        made.out_proj.bias.copy_(part.o_proj.bias)
    return made


def test_self_attention_is_that_of_torch() -> None:
    part, x = drawn(Bidirectional(SHAPE, 0)), torch.randn(3, 9, 32, requires_grad=True)
    other = theirs(part.qkv.weight, part.qkv.bias, part)
    documents = torch.tensor([[0] * 9, [0] * 4 + [1] * 5, [0] * 8 + [1]])
    apart = (documents[:, :, None] != documents[:, None]).repeat_interleave(4, 0)
    for packed, mask in ((None, None), (documents, apart)):
        found = part(x, Flow(Position(SHAPE), torch.arange(9), packed))
        expected = other(x, x, x, attn_mask=mask, need_weights=False)[0]
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        grads = [torch.autograd.grad(y.square().sum(), x)[0] for y in (found, expected)]
        torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-4)


def test_cross_attention_is_that_of_torch() -> None:
    part, x, memory = drawn(Cross(SHAPE, 0)), torch.randn(2, 5, 32), torch.randn(2, 7, 32)
    inside = torch.cat((part.q_proj.weight, part.kv_proj.weight)), torch.cat((part.q_proj.bias, part.kv_proj.bias))
    other, seen = theirs(*inside, part), torch.arange(7).expand(2, -1) < torch.tensor([[7], [4]])
    expected = other(x, memory, memory, key_padding_mask=~seen, need_weights=False)[0]
    torch.testing.assert_close(part(x, memory, seen), expected, rtol=1e-5, atol=1e-5)
    changed = memory.clone()
    changed[1, 4:] = 9.0
    torch.testing.assert_close(part(x, changed, seen), part(x, memory, seen))
    assert Cross(SHAPE, 0, memory_width=12)(x, torch.randn(2, 7, 12)).shape == x.shape


def test_rotation_acts_by_distance() -> None:
    part, x = drawn(Bidirectional(SHAPE, 0)), torch.randn(1, 9, 32)
    rope = Rope(SHAPE)
    here, later = (part(x, Flow(rope, torch.arange(9) + start)) for start in (0, 5))
    torch.testing.assert_close(here, later, rtol=1e-4, atol=1e-5)
    assert (here - part(x, Flow(Position(SHAPE), torch.arange(9)))).abs().max() > 0.01


def test_what_it_refuses() -> None:
    part, x = Bidirectional(SHAPE, 0), torch.randn(1, 9, 32)
    with pytest.raises(ConfigError, match="cannot decode"):
        part(x, Flow(Position(SHAPE), torch.arange(9), states=Cache()))
    with pytest.raises(ConfigError, match="adds nothing to its scores: use position=rope"):
        part(x, Flow(Alibi(SHAPE), torch.arange(9)))


def test_a_language_model_with_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "bidirectional" not in registry.index()["attention"]
    (part,) = registry._scan(__name__, Path(__file__))
    monkeypatch.setitem(registry.index()["attention"], "bidirectional", part)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="^attention=bidirectional sees the future.*Nothing was trained$"):
        causality.check(tiny_config(attention="bidirectional"), 61, "cpu", Precision("fp32", "", "cpu"))
