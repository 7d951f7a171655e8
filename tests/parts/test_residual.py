"""The wiring of each block, with stand-ins whose effect can be written down."""

import pytest
import torch
from torch import Tensor, nn

from gpt_lab import registry
from gpt_lab.parts.base import Flow, Shape
from gpt_lab.parts.dropout import row_keys

WIDTH = 6
SHAPE = Shape(depth=2, width=WIDTH, heads=1, context=4)


class Attention(nn.Module):
    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        return x.cumsum(1) * flow.positions_T[:, None]


class MLP(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sin() + 1


class Norm(nn.Module):
    """The n-th norm of a block multiplies by its own number, so that a swapped one shows."""

    made: int = 0

    def __init__(self, dim: int) -> None:
        super().__init__()
        Norm.made += 1
        self.dim, self.factor = dim, 1 + Norm.made

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


def _block(name: str, shape: Shape = SHAPE, **options: object) -> nn.Module:
    Norm.made = 0
    block: nn.Module = registry.build("residual", {"name": name, **options}, shape, 1, Attention(), MLP(), Norm)
    return block


def _flow(keys_B: Tensor | None = None) -> Flow:
    return Flow(None, torch.arange(4), keys_B=keys_B)  # type: ignore[arg-type]


def _expected(name: str, x: Tensor) -> Tensor:
    def f(x: Tensor) -> Tensor:
        return x.cumsum(1) * torch.arange(4)[:, None]

    def g(x: Tensor) -> Tensor:
        return x.sin() + 1

    match name:
        case "pre":
            x = x + f(2 * x)
            return x + g(3 * x)
        case "post":
            x = 2 * (x + f(x))
            return 3 * (x + g(x))
        case "sandwich":
            x = x + 3 * f(2 * x)
            return x + 5 * g(4 * x)
        case "olmo2":
            x = x + 2 * f(x)
            return x + 3 * g(x)
        case "parallel":
            return x + f(2 * x) + g(2 * x)
    raise AssertionError(f"residual={name} has no formula here")


SINGLE = ("pre", "post", "sandwich", "olmo2", "parallel")
"""The others are held against their papers in tests/parity/residual.py, or have a test of their own."""


@pytest.mark.parametrize("name", SINGLE)
def test_formula(name: str) -> None:
    block, x = _block(name), torch.randn(2, 4, WIDTH)
    torch.testing.assert_close(block(x, _flow()), _expected(name, x))
    assert all(norm.dim == WIDTH for norm in block.modules() if isinstance(norm, Norm))
    assert block.final_norm == (name != "post")


def test_parallel_with_two_norms() -> None:
    block, x = _block("parallel", shared_norm=False), torch.randn(2, 4, WIDTH)
    torch.testing.assert_close(block(x, _flow()), x + Attention()(2 * x, _flow()) + MLP()(3 * x))


def test_post_with_a_factor_on_the_stream() -> None:
    """DeepNorm's is (2 x depth)^(1/4), here of two layers."""
    x = torch.randn(2, 4, WIDTH)
    for alpha, factor in ((3.0, 3.0), (None, 4**0.25)):
        half = 2 * (factor * x + Attention()(x, _flow()))
        whole = 3 * (factor * half + MLP()(half))
        torch.testing.assert_close(_block("post", alpha=alpha)(x, _flow()), whole)


@pytest.mark.parametrize("name", SINGLE)
def test_dropout_acts_on_both_branches(name: str) -> None:
    """Where both branches are dropped, the block does nothing but its norms on the stream."""
    shape = Shape(depth=2, width=WIDTH, heads=1, context=4, dropout=0.5)
    block, x = _block(name, shape), torch.rand(64, 4, WIDTH) + 0.1
    plain = block(x, _flow())
    out = block(x, _flow(row_keys(0, 0, torch.arange(64))))
    untouched = 6 * x if name == "post" else x
    share = torch.isclose(out, untouched).double()[:, 1:].mean().item()
    assert share == pytest.approx(0.25, abs=0.05), "the two masks must be independent"
    block.eval()
    assert torch.equal(block(x, _flow(row_keys(0, 0, torch.arange(64)))), plain)
