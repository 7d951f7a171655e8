"""Norms against torch's and transformers', and the eager RMSNorm against autograd."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from gpt_lab.parts.norm.layernorm import LayerNorm, NoNorm
from gpt_lab.parts.norm.rmsnorm import RMSNorm


def _with_grads(norm: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    x = x.detach().requires_grad_()
    out = norm(x)
    weights = torch.linspace(-1, 2, out.numel(), dtype=out.dtype).view_as(out)
    return [out, *torch.autograd.grad((out * weights).sum(), [x, *norm.parameters()])]


def _randomise(norm: nn.Module, other: nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for mine, theirs in zip(norm.parameters(), other.parameters(), strict=True):
            mine.copy_(torch.randn(mine.shape, generator=generator))
            theirs.copy_(mine)


@pytest.mark.parametrize("bias", [True, False])
def test_layernorm_is_torchs(bias: bool) -> None:
    norm, reference = LayerNorm(24, eps=1e-3, bias=bias), nn.LayerNorm(24, eps=1e-3, bias=bias)
    _randomise(norm, reference)
    for mine, theirs in zip(_with_grads(norm, x := torch.randn(2, 5, 24)), _with_grads(reference, x), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)


@pytest.mark.parametrize("eps", [1e-6, 0.5])
def test_rmsnorm_is_llamas_and_torchs(eps: float) -> None:
    x = 0.3 * torch.randn(3, 7, 24)
    for reference in (LlamaRMSNorm(24, eps), nn.RMSNorm(24, eps=eps)):
        norm = RMSNorm(24, eps=eps)
        _randomise(norm, reference)
        for mine, theirs in zip(_with_grads(norm, x), _with_grads(reference, x), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


def test_rmsnorm_without_gain_has_unit_rms() -> None:
    norm = RMSNorm(32, gain=False)
    assert not list(norm.parameters())
    out = norm(7 * torch.randn(4, 32))
    torch.testing.assert_close(out.square().mean(-1), torch.ones(4), rtol=1e-5, atol=1e-5)
    reference = nn.RMSNorm(32, eps=1e-6, elementwise_affine=False)
    for mine, theirs in zip(_with_grads(norm, x := torch.randn(4, 32)), _with_grads(reference, x), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


def test_rmsnorm_of_a_transposed_view() -> None:
    """Query norms see (B, H, T, K) views of (B, T, H, K) memory."""
    norm, reference = RMSNorm(8), nn.RMSNorm(8, eps=1e-6)
    _randomise(norm, reference)
    x = torch.randn(2, 5, 3, 8).transpose(1, 2)
    for mine, theirs in zip(_with_grads(norm, x), _with_grads(reference, x), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("gain", [True, False])
def test_rmsnorm_second_derivative(gain: bool) -> None:
    """Optimizers that need curvature differentiate the backward; the eager path must not cut that off."""
    norm = RMSNorm(6, gain=gain)
    x = torch.randn(3, 6, requires_grad=True)

    def curvature(function: nn.Module | None) -> torch.Tensor:
        out = F.rms_norm(x, (6,), norm.weight, 1e-6) if function is None else function(x)
        (grad,) = torch.autograd.grad(out.pow(3).sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(grad.square().sum(), x)
        return second

    torch.testing.assert_close(curvature(norm), curvature(None), rtol=1e-4, atol=1e-4)


def test_rmsnorm_in_bf16_and_under_autocast() -> None:
    norm, x = RMSNorm(24), torch.randn(3, 24)
    reference = norm(x)
    assert norm(x.bfloat16()).dtype == torch.bfloat16
    torch.testing.assert_close(norm(x.bfloat16()).float(), reference, rtol=0.02, atol=0.02)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(norm(x), reference)
        assert norm(x.bfloat16()).dtype == torch.bfloat16


def test_none_is_the_identity() -> None:
    x = torch.randn(2, 3)
    assert NoNorm(3)(x) is x
    assert not list(NoNorm(3).parameters())
