"""Weights that are kept in few bits: what products, optimizers, checkpoints and readers see of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt_lab.cost import memory
from gpt_lab.model.gpt import GPT, initialize
from gpt_lab.train.few_bits import kept_weights
from gpt_lab.train.few_bits.formats import Format, KeptBF16, KeptInt8
from gpt_lab.train.few_bits.kept_weights import Kept, keep, weight_bytes, widened
from tests.helpers import tiny_config

WAYS: dict[str, Format] = {"bf16_sr": KeptBF16(), "int8_weights": KeptInt8()}
BOTH = pytest.mark.parametrize("name", WAYS)


def model(**settings: Any) -> GPT:
    cfg = tiny_config(**{"scale.depth": 1, **settings})
    made = GPT(cfg, 61)
    initialize(made, cfg)
    return made


def kept(made: nn.Module) -> list[Kept]:
    return [part for part in made.modules() if isinstance(part, Kept)]


def held_bytes(made: nn.Module) -> int:
    """Bytes of all memory behind parameters and buffers that could hold a weight."""
    own = [*made.parameters(), *(buffer for name, buffer in made.named_buffers() if name.endswith(("kept", "scale")))]
    return sum({tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in own}.values())


@BOTH
@pytest.mark.parametrize("tied", [True, False])
def test_the_memory_is_counted_to_the_byte(name: str, tied: bool) -> None:
    made = model(**{"model.tied": tied, "model.bias": True})
    expected, all_of_it = weight_bytes(made, WAYS[name]), weight_bytes(made, None)
    matrices = [module.weight for module in kept_weights.fitting(made, WAYS[name])]
    numbers, rows = sum(w.numel() for w in matrices), sum(len(w) for w in matrices)
    each, row = {"bf16_sr": (2, 0), "int8_weights": (1, 4)}[name]
    assert expected == all_of_it - (4 - each) * numbers + row * rows
    assert held_bytes(made) == all_of_it
    keep(made, WAYS[name])
    nothing = 4  # one number, which all parameters without memory show
    assert held_bytes(made) == expected + nothing
    made(torch.arange(8)[None]).sum().backward()
    with widened(kept(made), 0, 0):
        pass
    assert held_bytes(made) == expected + nothing


@BOTH
def test_the_memory_bound_of_a_run_counts_them(name: str) -> None:
    """What is refused beforehand would surely have failed: the bound falls by what is saved, and by no more."""
    bounds = {}
    for precision in ("fp32", name):
        cfg = tiny_config(precision=precision)
        sizes = memory.sizes_of(cfg, 256, None)
        bounds[precision] = sum(memory.terms(cfg, sizes).values())
    made = GPT(tiny_config(), 256)
    saved = weight_bytes(made, None) - weight_bytes(made, WAYS[name])
    assert 0 < bounds["fp32"] - bounds[name] <= 1.05 * saved


def reference(part: Kept) -> Tensor:
    return part.way.decode(part.kept, part.scale).requires_grad_()


@BOTH
@pytest.mark.parametrize("lowered", [False, True])
def test_products_and_gradients_are_those_of_the_values(name: str, lowered: bool) -> None:
    layer = nn.Linear(24, 10)
    keep(layer, WAYS[name])
    assert isinstance(layer, Kept)
    x, other = (torch.randn(3, 5, 24, generator=torch.Generator().manual_seed(1)).requires_grad_() for _ in range(2))
    plain = reference(layer)
    with torch.autocast("cpu", torch.bfloat16, enabled=lowered):
        y, expected = layer(x), F.linear(other, plain, layer.bias)
    assert y.dtype == expected.dtype
    for output in (y, expected):
        output.float().square().sum().backward()
    close = {"rtol": 0.05, "atol": 0.05} if lowered else {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(y, expected, **close)
    torch.testing.assert_close(x.grad, other.grad, **close)
    assert layer.held.grad is not None and layer.held.grad.dtype == torch.float32
    torch.testing.assert_close(layer.held.grad, plain.grad, **close)


@BOTH
def test_whoever_reads_the_weight_has_the_values(name: str) -> None:
    layer = nn.Linear(24, 10, bias=False)
    first = layer.weight.detach().clone()
    keep(layer, WAYS[name])
    assert isinstance(layer, Kept)
    assert torch.equal(layer.weight, reference(layer))
    torch.testing.assert_close(layer.weight, first, rtol=2**-8, atol=1 / 127)
    (layer.weight * first).sum().backward()
    assert torch.equal(layer.held.grad, first)  # type: ignore[arg-type]


def test_a_tied_embedding_is_one_weight_in_bf16() -> None:
    exact, made, rounded = model(), model(), model()
    keep(made, KeptBF16())
    assert isinstance(made.embed, Kept)
    table = exact.embed.weight.detach()
    assert torch.equal(made.embed.weight, table.bfloat16().float())
    assert made.embed(torch.tensor([3])).dtype == torch.float32
    tokens = torch.arange(12)[None]
    made(tokens).square().sum().backward()
    rounded.load_state_dict(made.state_dict())
    rounded(tokens).square().sum().backward()
    for (name, p), q in zip(rounded.named_parameters(), made.parameters(), strict=True):
        torch.testing.assert_close(q.grad, p.grad, rtol=1e-4, atol=1e-5, msg=name)


def test_what_stays_fp32() -> None:
    made = model(**{"model.tied": False, "position": "learned", "mlp": "moe"})
    keep(made, KeptInt8())
    shown = {name for name, part in made.named_modules() if isinstance(part, Kept)}
    assert "head" not in shown and "embed" not in shown
    assert {"blocks.0.attention.qkv", "blocks.0.attention.o_proj"} <= shown


def test_a_weight_of_two_modules_is_left_alone() -> None:
    one, other = nn.Linear(4, 4), nn.Linear(4, 4)
    other.weight = one.weight
    pair = nn.Sequential(one, other, nn.Linear(4, 4))
    keep(pair, KeptInt8())
    assert [isinstance(part, Kept) for part in pair] == [False, False, True]


@BOTH
def test_saved_and_loaded_it_is_what_it_was(name: str) -> None:
    made, plain, again = model(), model(), model()
    keep(made, WAYS[name])
    for step in range(3):
        with widened(kept(made), 0, step), torch.no_grad():
            for p in made.parameters():
                p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(step)) * 1e-2)
    saved = made.state_dict()
    assert saved.keys() == plain.state_dict().keys()
    keep(again, WAYS[name])
    again.load_state_dict(saved)
    for a, b in zip(kept(made), kept(again), strict=True):
        assert torch.equal(a.kept, b.kept)
        assert (a.scale is None and b.scale is None) or torch.equal(a.scale, b.scale)  # type: ignore[arg-type]
    plain.load_state_dict(saved)  # a model that knows nothing of all this
    tokens = torch.arange(12)[None]
    torch.testing.assert_close(plain(tokens), made(tokens), rtol=1e-4, atol=1e-5)


@BOTH
def test_rounding_draws_by_seed_and_step(name: str) -> None:
    def moved(seed: int, step: int) -> Tensor:
        made = model()
        keep(made, WAYS[name])
        with widened(kept(made), seed, step), torch.no_grad():
            for p in made.parameters():
                p.add_(torch.linspace(-1e-3, 1e-3, p.numel()).view(p.shape))
        return torch.cat([part.kept.flatten().float() for part in kept(made)])

    assert torch.equal(moved(0, 1), moved(0, 1))
    assert not torch.equal(moved(0, 1), moved(0, 2))
    assert not torch.equal(moved(0, 1), moved(1, 1))


@pytest.mark.slow
@pytest.mark.compiles
def test_compiled_it_is_one_program_that_steps_do_not_outdate() -> None:
    layer = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16))
    keep(layer[0], KeptInt8())
    keep(layer[1], KeptBF16())
    made = []

    def backend(graph: Any, example: list[Tensor]) -> Any:
        made.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(layer.forward, backend=backend, fullgraph=True, dynamic=False)
    x = torch.randn(4, 16)
    for step in range(3):
        torch.testing.assert_close(compiled(x), layer(x))
        with widened(kept(layer), 0, step), torch.no_grad():
            for p in layer.parameters():
                p.mul_(1.1)
    assert len(made) == 1
