"""Roles, and dropout whose mask depends on nothing but (row key, place, element)."""

import itertools

import pytest
import torch

from gpt_lab.parts.base import role
from gpt_lab.parts.dropout import KeyedDropout, dropped, row_keys, salt


@pytest.mark.parametrize(
    ("name", "ndim", "expected"),
    [
        ("embed.weight", 2, "embedding"),
        ("position.table", 2, "embedding"),
        ("head.weight", 2, "head"),
        ("blocks.3.attention.o_proj.weight", 2, "residual"),
        ("blocks.3.mlp.down_proj.weight", 2, "residual"),
        ("blocks.3.attention.qkv.weight", 2, "matrix"),
        ("blocks.3.mlp.gate_proj.weight", 2, "matrix"),
        ("blocks.3.attention.o_proj.bias", 1, "vector"),
        ("norm.weight", 1, "vector"),
    ],
)
def test_role(name: str, ndim: int, expected: str) -> None:
    assert role(name, ndim) == expected


def test_salts_are_distinct() -> None:
    places = [salt(layer, site) for layer in range(5) for site in ("attention", "attention_out", "mlp_out", "embed")]
    assert len(set(places)) == len(places)


def test_row_keys_differ_by_seed_step_and_row() -> None:
    rows = torch.arange(64)
    keys = torch.cat([row_keys(seed, step, rows) for seed in (0, 1, 2**40) for step in (0, 1, 1000)])
    assert keys.dtype == torch.int64
    assert len(keys.unique()) == len(keys)
    assert torch.equal(row_keys(1, 7, rows)[10:20], row_keys(1, 7, rows[10:20]))


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_rate_and_independence(p: float) -> None:
    keys = row_keys(0, 0, torch.arange(4))
    masks = [dropped(keys, place, (64, 64), p).double() for place in (0, 1)]
    masks += [dropped(row_keys(0, 1, torch.arange(4)), 0, (64, 64), p).double()]
    sample = [mask.flatten() for mask in masks] + [masks[0][[1, 2, 3, 0]].flatten(), masks[0].roll(1, -1).flatten()]
    sigma = (p * (1 - p) / sample[0].numel()) ** 0.5
    for mask in sample:
        assert abs(mask.mean().item() - p) < 5 * sigma
    for a, b in itertools.combinations(sample, 2):
        correlation = torch.corrcoef(torch.stack([a, b]))[0, 1].item()
        assert abs(correlation) < 5 / a.numel() ** 0.5


def test_keeps_the_expectation_and_scales() -> None:
    layer = KeyedDropout(0.25, "mlp_out")
    x = torch.ones(8, 100, 100)
    out = layer(x, row_keys(0, 0, torch.arange(8)), 0)
    assert out.unique().tolist() == [0.0, pytest.approx(1 / 0.75)]
    assert out.mean().item() == pytest.approx(1.0, abs=0.01)


def test_identity_when_off() -> None:
    x, keys = torch.randn(2, 3), row_keys(0, 0, torch.arange(2))
    assert KeyedDropout(0.0, "mlp_out")(x, keys, 0) is x
    assert KeyedDropout(0.5, "mlp_out")(x, None, 0) is x
    assert KeyedDropout(0.5, "mlp_out").eval()(x, keys, 0) is x


def test_same_mask_for_any_micro_batch() -> None:
    layer, x, keys = KeyedDropout(0.5, "mlp_out"), torch.randn(6, 5, 7), row_keys(3, 4, torch.arange(6))
    parts = [layer(x[i : i + 2], keys[i : i + 2], 0) for i in range(0, 6, 2)]
    assert torch.equal(layer(x, keys, 0), torch.cat(parts))


def test_gradient_is_the_mask() -> None:
    layer, keys = KeyedDropout(0.5, "mlp_out"), row_keys(3, 4, torch.arange(2))
    x = torch.randn(2, 50, requires_grad=True)
    out = layer(x, keys, 0)
    (grad,) = torch.autograd.grad(out.sum(), x)
    assert torch.equal(grad, torch.where(out == 0, 0.0, 2.0))


def test_mask_is_pinned() -> None:
    """A changed hash would change every run with dropout without a word."""
    mask = dropped(row_keys(42, 7, torch.arange(2)), 5, (16,), 0.5)
    assert ["".join("01"[bit] for bit in row) for row in mask.int().tolist()] == [
        "1001111010001101",
        "1001101100011000",
    ]
