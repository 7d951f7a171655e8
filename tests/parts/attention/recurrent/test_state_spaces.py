"""The selective scan against its definition; initial values of state spaces and RWKV-7; values of the first layer."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gpt_lab.cost.flops import cost
from gpt_lab.errors import ConfigError
from gpt_lab.model.gpt import GPT, initialize
from gpt_lab.parts.attention.recurrent._scan import scan
from gpt_lab.train.leak_probe import causality
from gpt_lab.train.precision import Precision
from tests.helpers import tiny_config
from tests.parts import decoding

B, E, K = 2, 3, 4


def drawn(length: int, steepest: float = 1.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(length)
    uniform = torch.rand(B, length, E, generator=generator)
    x, b, c = (torch.randn(B, length, size, generator=generator) for size in (E, K, K))
    rates = -steepest * torch.rand(E, K, generator=generator)
    return [t.requires_grad_() for t in (x, uniform, rates, b, c, torch.randn(B, E, K, generator=generator))]


def defined(given: list[Tensor], begins_BT: Tensor | None) -> tuple[Tensor, Tensor]:
    x, step, a, b, c, state = (t.double() for t in given)
    read = []
    for t in range(x.shape[1]):
        if begins_BT is not None:
            state = state * ~begins_BT[:, t, None, None]
        state = (step[:, t, :, None] * a).exp() * state + (step * x)[:, t, :, None] * b[:, t, None]
        read.append((state * c[:, t, None]).sum(-1))
    return torch.stack(read, dim=1), state


def test_scan_is_its_definition() -> None:
    """Outputs, last state and every gradient, at lengths that are no power of 2, also where a state is gone at once."""
    for length, packed, steepest in itertools.product((1, 2, 3, 16, 37), (False, True), (1.0, 400.0)):
        given = drawn(length, steepest)
        begins_BT = torch.arange(length) % 11 == torch.tensor([[5], [0]]) if packed else None
        x, step, a, b, c, state = given
        expected = defined(given, begins_BT)
        found = scan(x, step, a, b, c, chunk=16, state_BEK=state, begins_BT=begins_BT)
        slopes = []
        for side in (found, expected):
            torch.testing.assert_close(side[0].float(), expected[0].float(), rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(side[1].float(), expected[1].float(), rtol=1e-5, atol=1e-5)
            weights = [torch.randn(t.shape, generator=torch.Generator().manual_seed(2)) for t in side]
            total = sum((one * weight).sum() for one, weight in zip(side, weights, strict=True))
            assert isinstance(total, Tensor)
            slopes.append(torch.autograd.grad(total, given))
        for mine, theirs in zip(*slopes, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


def test_no_state_before_is_zero() -> None:
    x, step, a, b, c, state = drawn(21)
    torch.testing.assert_close(
        scan(x, step, a, b, c, chunk=16), scan(x, step, a, b, c, chunk=16, state_BEK=torch.zeros_like(state))
    )


def made(name: str, **settings: object) -> GPT:
    cfg = tiny_config(attention=name, **settings)
    model = GPT(cfg, 37)
    initialize(model, cfg)
    return model


def test_initial_values() -> None:
    """Rates and steps as the authors draw them."""
    mamba = made("mamba", **{"attention.dt_min": 0.01, "attention.dt_max": 0.02}).blocks[0].attention
    assert torch.equal(mamba.a_log.view(64, 16)[9].exp().round(), torch.arange(1.0, 17.0))
    assert mamba.dt_proj.weight.abs().max() <= 2**-0.5 and mamba.dt_proj.weight.std() > 0.3
    steps = F.softplus(mamba.dt_proj.bias)
    assert 0.0099 < steps.min() < 0.013 and 0.017 < steps.max() < 0.0201
    assert mamba.skip.eq(1).all() and mamba.conv.bias.abs().max() > 0.1
    mamba2 = made("mamba2", **{"scale.width": 64, "attention.head_dim": 2}).blocks[0].attention
    rates, steps = mamba2.a_log.exp(), F.softplus(mamba2.dt)
    assert len(rates) == 64 and 1 <= rates.min() < 2.5 and 14 < rates.max() <= 16
    assert 0.000999 < steps.min() < 0.002 and 0.05 < steps.max() <= 0.1001
    first, last = (block.attention for block in made("rwkv7").blocks)
    fastest = [-math.exp(-0.5) * layer.decay.up.bias.sigmoid().max() for layer in (first, last)]
    slowest = [-math.exp(-0.5) * layer.decay.up.bias.sigmoid().min() for layer in (first, last)]
    assert all(-0.6065 < value < -0.4 for value in fastest) and all(-0.002 < value < 0 for value in slowest)
    assert not hasattr(first, "value_mix") and last.value_mix.up.bias.mean() > 0.7
    assert last.mix_r[0] == 1 and (first.mix_w > last.mix_w)[1:].all()
    assert torch.equal(last.norm.weight, torch.ones(32)) and (first.norm.weight < 0.7).all()


@pytest.mark.parametrize("name", ["mamba", "mamba2", "rwkv7"])
def test_a_model_of_them(name: str) -> None:
    """In pieces, beside other rows, after other documents, from one prompt; and it trains, in bf16 too."""
    model = decoding.model(attention=name, **{"attention.chunk": 16})
    decoding.check(model)
    decoding.check_trains(model)


def test_values_of_the_first_layer_reach_later_ones() -> None:
    """Through recomputed layers too; a layer that finds none says so before anything is trained."""
    model = made("rwkv7").train()
    tokens_BT, grads = decoding.text(2, 12) % 37, []
    for model.checkpointing in (False, True):
        model.zero_grad()
        model(tokens_BT).square().mean().backward()
        grads.append([parameter.grad for parameter in model.parameters()])
    for kept, again in zip(*grads, strict=True):
        assert kept is not None and again is not None and torch.equal(kept, again)
    letters: dict[str, dict[str, object]] = {"A": {"name": "mha"}, "R": {"name": "rwkv7"}}
    attention = {"name": "hybrid", "pattern": "AR", "letters": letters}
    precision = Precision("fp32", "a test", "cpu")
    with pytest.raises(ConfigError, match="attention=rwkv7 mixes in the values of layer 0, which has none: give it"):
        causality.check(tiny_config(attention=attention), 37, "cpu", precision)
    letters["R"]["value_residual"] = False
    causality.check(tiny_config(attention=attention), 37, "cpu", precision)


def test_cost() -> None:
    """Of a layer by hand: width 32, inner 64, head dimension 8, two FLOPs a multiply-add, three passes in training."""
    bare = cost(tiny_config(attention="none", mlp="none"), 37)
    norms = 32 * 2
    for name, matrices, rest, state in (
        # in, x, dt and out projections; convolution, dt's bias, A, D
        ("mamba", 32 * 128 + 64 * 34 + 2 * 64 + 64 * 32, 64 * 5 + 64 + 64 * 16 + 64, 64 * 16),
        # in and out projections; convolution, A, dt, D, norm
        ("mamba2", 32 * (128 + 256 + 8) + 64 * 32, 320 * 5 + 3 * 8 + 64, 2 * 64 * 128),
        # four projections, decay, rate and gate of rank 32; six mixes, two biases, three vectors, norm
        ("rwkv7", 4 * 32**2 + 3 * 2 * 32**2, 13 * 32, 4 * 32 * 8),
    ):
        options = {"value_residual": False} if name == "rwkv7" else {}
        found = cost(tiny_config(attention={"name": name, **options}, mlp="none"), 37)
        assert found.non_embedding - bare.non_embedding == 2 * (matrices + rest) + norms
        assert found.train_flops_per_token - bare.train_flops_per_token == 2 * 3 * 2 * (matrices + state)
        assert found.mfu_flops_per_token == found.train_flops_per_token
