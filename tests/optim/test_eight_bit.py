"""8-bit moments: what codes mean, and that training hardly notices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gpt_lab.optim.adam import Adam, AdamW
from gpt_lab.optim.eight_bit import BLOCK, LEAST, decode, encode, levels
from gpt_lab.optim.groups import Group
from gpt_lab.train import checkpoint
from gpt_lab.train.speed.eager import light_step
from tests.optim.problems import as_groups, problem, run

CPU = torch.device("cpu")


@pytest.mark.parametrize("signed", [True, False])
def test_the_256_levels(signed: bool) -> None:
    """Dettmers et al.: each decade below has half as many; both ends of the largest, and 0."""
    found = levels(signed, CPU)
    assert len(found) == 256 and (found[1:] > found[:-1]).all()
    assert found.max() == 1 and (found == 0).sum() == 1
    decades = [((found > 10.0**-k) & (found < 10.0 ** (1 - k))).sum().item() for k in range(1, 8)]
    assert decades == [2 ** (6 - i) * (1 if signed else 2) for i in range(7)]
    assert found.min().item() == pytest.approx(-0.99, abs=0.01) if signed else found.min() == 0


@pytest.mark.parametrize("signed", [True, False])
def test_each_number_becomes_the_nearest_level_of_its_block(signed: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(3, 171, generator=generator) * 10.0 ** torch.randint(-3, 3, (3, 1), generator=generator)
    values = values if signed else values.square()
    codes, scale = encode(values, signed)
    assert codes.dtype == torch.uint8 and codes.shape == (3, BLOCK) and scale.shape == (3,)
    back = decode(codes, scale, signed, values)
    flat, known = values.flatten(), levels(signed, CPU)
    for i in range(0, len(flat), 7):
        block = flat[i // BLOCK * BLOCK : (i // BLOCK + 1) * BLOCK]
        best = (known * block.abs().max() - flat[i]).abs().min()
        assert (back.flatten()[i] - flat[i]).abs() <= best * (1 + 1e-4) + 1e-30 or (
            not signed and back.flatten()[i] > 0
        )
    assert (back - values).abs().max() <= 0.01 * values.abs().max()


@pytest.mark.parametrize("signed", [True, False])
def test_codes_are_those_of_a_binary_search(signed: bool) -> None:
    """Around every border, to the last bit."""
    known = levels(signed, CPU)
    borders = (known[1:] + known[:-1]) / 2
    near = [torch.nextafter(borders, torch.tensor(side)) for side in (-2.0, 2.0)]
    values = torch.cat((borders, *near, known, torch.ones(1)))
    codes, scale = encode(torch.cat((values, torch.zeros(-len(values) % BLOCK))), signed)
    assert (scale <= 1).all()
    blocks = (scale == 1).repeat_interleave(BLOCK)[: len(values)]
    expected = torch.bucketize(values, borders, right=True).clamp(min=0 if signed else 1)
    expected = torch.where(values == 0, torch.bucketize(values, borders, right=True), expected)
    assert blocks.any() and torch.equal(codes.flatten()[: len(values)][blocks].long(), expected[blocks])


def test_zeros_stay_and_a_tiny_square_does_not_become_one() -> None:
    assert torch.equal(decode(*encode(torch.zeros(300), True), True, torch.zeros(300)), torch.zeros(300))
    squares = torch.full((BLOCK,), 1e-12)
    squares[0], squares[1] = 1.0, 0.0
    back = decode(*encode(squares, False), False, squares)
    assert back[1] == 0 and (back[2:] > 0).all(), "a root of 0 would divide"


@pytest.mark.parametrize("recipe", [AdamW, Adam])
def test_a_run_hardly_notices(recipe: Any) -> None:
    """30 steps on noisy least squares end as near to the solution; small tensors are not quantized at all."""
    ends = {}
    for state in ("fp32", "int8"):
        generator = torch.Generator().manual_seed(0)
        large, small = nn.Parameter(torch.zeros(LEAST // 64, 64)), nn.Parameter(torch.zeros(8, 64))
        goal = torch.randn(LEAST // 64, 64, generator=generator)
        found = [Group("matrix", [("up_proj.weight", large)]), Group("matrix", [("router.weight", small)])]
        optimizer = recipe(lr=0.05, weight_decay=0.01, state=state).build(found)

        def loss(large: Tensor = large, small: Tensor = small, goal: Tensor = goal, draw: Any = generator) -> Tensor:
            x = torch.randn(32, 64, generator=draw)
            return (x @ (large - goal).T).square().mean() + (x @ (small - goal[:8]).T).square().mean()

        run(optimizer, loss, steps=12, whole=12)
        ends[state] = (large.detach() - goal).norm().item(), small.detach().clone()
    assert ends["int8"][0] == pytest.approx(ends["fp32"][0], rel=0.01)
    torch.testing.assert_close(ends["int8"][1], ends["fp32"][1], rtol=1e-4, atol=1e-6)


def test_codes_come_back_from_a_checkpoint(tmp_path: Path) -> None:
    """As codes: torch would make floats of them."""
    model, other = nn.Linear(64, 80, bias=False), nn.Linear(64, 80, bias=False)
    optimizers = []
    for one in (model, other):
        found = [Group("matrix", [("up_proj.weight", one.weight)])]
        optimizers.append(AdamW(lr=0.05, state="int8").build(found))
    model.weight.grad = torch.randn(80, 64, generator=torch.Generator().manual_seed(0))
    light_step(optimizers[0])()
    checkpoint.save(tmp_path / "step-1", model, optimizers[0], None, {"step": 1})
    checkpoint.load(tmp_path / "step-1", other, optimizers[1], None)
    kept = optimizers[1].state[other.weight]
    assert {name: value.dtype for name, value in kept.items() if name != "step"} == {
        "mean": torch.uint8,
        "mean_scale": torch.float32,
        "square": torch.uint8,
        "square_scale": torch.float32,
    }
    other.weight.grad = model.weight.grad.clone()
    for optimizer in optimizers:
        light_step(optimizer)()
    assert torch.equal(model.weight, other.weight)


def test_it_is_adamw_where_nothing_is_quantized() -> None:
    ours, loss = problem(torch.float32)
    theirs, other_loss = problem(torch.float32)
    run(AdamW(lr=0.05, state="int8").build(as_groups(ours)), loss)
    run(AdamW(lr=0.05).build(as_groups(theirs)), other_loss)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
