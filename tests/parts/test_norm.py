"""Norms against torch's and transformers', and the eager RMSNorm against autograd."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from gpt_lab import registry
from gpt_lab.model.gpt import GPT, initialize
from gpt_lab.parts.norm.layernorm import LayerNorm, NoNorm
from gpt_lab.parts.norm.rmsnorm import RMSNorm
from gpt_lab.parts.norm.vector_length import ScaleNorm, UnitNorm
from tests.helpers import tiny_config


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


def test_scalenorm_begins_as_rmsnorm_and_unit_ends_at_length_1() -> None:
    x = 5 * torch.randn(3, 7, 24)
    torch.testing.assert_close(ScaleNorm(24)(x), RMSNorm(24, gain=False)(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(UnitNorm(24)(x).norm(dim=-1), torch.ones(3, 7))
    assert not list(UnitNorm(24).parameters())
    assert ScaleNorm(24, eps=1e3)(x).abs().max() < 0.1, "eps is the smallest length that is divided by"
    for norm in (ScaleNorm(24), UnitNorm(24)):
        assert norm(torch.zeros(2, 24)).abs().max() == 0


def test_bounded_functions_are_bounded_and_act_on_each_number_alone() -> None:
    for name in ("dyt", "derf"):
        norm = registry.build("norm", {"name": name}, 6)
        x = torch.tensor([[-1e4, -1.0, 0.0, 0.1, 1.0, 1e4]])
        y = norm(x)
        torch.testing.assert_close(y[:, [0, 2, 5]], torch.tensor([[-1.0, 0.0, 1.0]]))
        assert torch.equal(norm(x.flip(-1)), y.flip(-1))


@pytest.mark.parametrize("name", registry.index()["norm"])
def test_types_are_kept_and_large_numbers_stay_finite(name: str) -> None:
    norm = registry.build("norm", {"name": name}, 24)
    x = 3000 * torch.randn(5, 24)
    expected = norm(x)
    assert norm(x.bfloat16()).dtype == torch.bfloat16
    torch.testing.assert_close(norm(x.bfloat16()).float(), expected, rtol=0.03, atol=0.03)
    with torch.autocast("cpu", torch.bfloat16):
        assert norm(x.bfloat16()).isfinite().all()
        torch.testing.assert_close(norm(x).float(), expected, rtol=0.03, atol=0.03)


@pytest.mark.parametrize("name", registry.index()["norm"])
def test_any_norm_can_be_on_the_embeddings(name: str) -> None:
    """model.embed_norm with each of them: one more norm, which reads embeddings with their positions."""
    without, model = (_model(name, **{"position": "learned", "model.embed_norm": there}) for there in (False, True))
    more = {key for key, _ in model.named_parameters()} - {key for key, _ in without.named_parameters()}
    norm = model.embed_norm
    assert isinstance(norm, nn.Module) and without.embed_norm is None
    assert more == {f"embed_norm.{key}" for key, _ in norm.named_parameters()}
    read: list[torch.Tensor] = []
    norm.register_forward_hook(lambda _norm, args, out: read.extend((args[0], out)))
    model.blocks[0].register_forward_hook(lambda _block, args, out: read.append(args[0]))
    tokens = torch.randint(61, (2, 16), generator=torch.Generator().manual_seed(0))
    model(tokens).sum().backward()
    embedded = model.position.embed(model.embed(tokens), torch.arange(16))
    torch.testing.assert_close(read[0], embedded if model.embed_gain is None else model.embed_gain(embedded))
    assert torch.equal(read[1], read[2])
    assert all(p.grad is not None and p.grad.isfinite().all() for p in norm.parameters())


@pytest.mark.parametrize(("settings", "first"), [({}, 32**0.5), ({"norm.embed_scale": 3.0}, 3.0)])
def test_bounded_functions_come_with_a_learned_factor_on_the_embeddings(
    settings: dict[str, float], first: float
) -> None:
    tokens = torch.randint(61, (2, 16), generator=torch.Generator().manual_seed(0))
    for name in ("dyt", "derf"):
        model = _model(name, **settings)
        scale = dict(model.named_parameters())["embed_gain.scale"]
        assert scale.item() == pytest.approx(first)
        read: list[torch.Tensor] = []
        model.blocks[0].register_forward_hook(lambda _block, args, out, read=read: read.append(args[0]))
        model(tokens).square().sum().backward()
        torch.testing.assert_close(read[0], first * model.embed(tokens))
        assert scale.grad is not None and scale.grad != 0
    assert _model("rmsnorm").embed_gain is None


def _model(norm: str, **settings: object) -> GPT:
    cfg = tiny_config(norm=norm, **settings)
    model = GPT(cfg, 61)
    initialize(model, cfg)
    return model
