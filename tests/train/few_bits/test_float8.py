"""Linear layers of 8-bit floats, on the CPU, whose arithmetic is the device's: e4m3 and e5m2 by torch._scaled_mm."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from gpt_lab.errors import ConfigError
from gpt_lab.model.gpt import GPT
from gpt_lab.train.few_bits.float8 import GRADIENTS, VALUES, Float8Linear, convert, product
from tests.helpers import tiny_config


def drawn(*sizes: int, seed: int = 0) -> Tensor:
    return torch.randn(*sizes, generator=torch.Generator().manual_seed(seed))


def rounded(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Each row as 8-bit floats tell it, by numpy-like arithmetic in fp64."""
    scale = values.abs().amax(-1, keepdim=True).double().clamp(min=1e-12) / torch.finfo(dtype).max
    return (values.double() / scale).float().to(dtype).double() * scale


@pytest.mark.parametrize("kind", [VALUES, GRADIENTS])
@pytest.mark.parametrize("inner", [64, 50])
def test_a_product_is_that_of_the_rounded_factors(kind: torch.dtype, inner: int) -> None:
    left, right = drawn(7, inner), drawn(32, inner, seed=1)
    left[3], right[5] = 0.0, right[5] * 1e6
    found = product(left, right, kind).double()
    exact = rounded(left, kind) @ rounded(right, VALUES).t()
    torch.testing.assert_close(found, exact, rtol=2**-8, atol=1e-5 * exact.abs().max().item())
    apart = (found - left.double() @ right.double().t()).norm() / found.norm()
    assert 0.001 < apart < (0.05 if kind is VALUES else 0.09)


def layer(bias: bool = True) -> tuple[nn.Linear, nn.Linear]:
    """A layer and its twin of 8-bit floats."""
    plain, low = (nn.Linear(48, 32, bias=bias) for _ in range(2))
    low.load_state_dict(plain.state_dict())
    convert(low)
    assert isinstance(low, Float8Linear)
    return plain, low


def lowered(one: nn.Linear, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = one(x)
    (y.float() * drawn(*y.shape, seed=5)).sum().backward()
    assert x.grad is not None and one.weight.grad is not None
    return y.detach().float(), x.grad, one.weight.grad, None if one.bias is None else one.bias.grad


@pytest.mark.parametrize("bias", [True, False])
def test_outputs_and_gradients_are_a_linear_layers(bias: bool) -> None:
    """To the few percent that 3 and 2 bits of mantissa leave; rows of another number than 16 included."""
    plain, low = layer(bias)
    both = (lowered(one, drawn(3, 7, 48)) for one in (plain, low))
    for exact, found, most in zip(*both, (0.05, 0.1, 0.1, 0.01), strict=True):
        if exact is None or found is None:
            assert exact is found
            continue
        assert found.dtype == torch.float32 and found.shape == exact.shape and found.isfinite().all()
        assert 0 <= (found - exact).norm() / exact.norm() < most


def test_no_row_knows_of_another() -> None:
    """With one scale for all of them, a later token would change how an earlier one is rounded."""
    _, low = layer()
    x = drawn(2, 8, 48)
    other = x.clone()
    other[:, 5:] = 1e4
    assert torch.equal(lowered(low, x)[0][:, :5], lowered(low, other)[0][:, :5])


def test_without_autocast_it_is_a_linear_layer() -> None:
    plain, low = layer()
    x = drawn(5, 48)
    assert torch.equal(plain(x), low(x))


def test_layers_that_the_hardware_can_take_are_converted() -> None:
    model = GPT(tiny_config(**{"model.tied": False, "mlp.d_ff": 40}), 64)
    convert(model)
    found = {name for name, part in model.named_modules() if isinstance(part, Float8Linear)}
    assert found == {f"blocks.{layer}.attention.{name}" for layer in range(2) for name in ("qkv", "o_proj")}
    assert type(model.head) is nn.Linear, "40 is no multiple of 16, and the head stays as it is"


def test_a_model_without_such_layers_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"make scale.width one, or use precision=bf16"):
        convert(GPT(tiny_config(**{"scale.width": 24}), 64))
