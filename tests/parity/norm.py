"""Norms, and what stands in their place, against torch, transformers and the formulas of papers in fp64."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from gpt_lab.parts.norm.layernorm import LayerNorm
from gpt_lab.parts.norm.pointwise import DynamicErf, DynamicTanh
from gpt_lab.parts.norm.rmsnorm import RMSNorm
from gpt_lab.parts.norm.vector_length import ScaleNorm, UnitNorm
from tests.parity.case import Comparison, gradients, parity

DIM = 24


def loud(norm: nn.Module) -> nn.Module:
    """Its parameters drawn around what they begin with."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.3)
    return norm


def inputs() -> Tensor:
    x = torch.randn(3, 5, DIM, generator=torch.Generator().manual_seed(1))
    return (x * torch.tensor([0.1, 1.0, 9.0])[:, None, None]).requires_grad_()


def against_module(norm: nn.Module, reference: nn.Module) -> Comparison:
    """The same parameters, in the same order, on both sides."""
    loud(norm)
    reference.load_state_dict(dict(zip(reference.state_dict(), norm.state_dict().values(), strict=True)))
    both = []
    for one in (norm, reference):
        x = inputs()
        y = one(x)
        both.append((y, gradients(y, [x, *one.parameters()])))
    return Comparison([(both[0][0], both[1][0])], list(zip(both[0][1], both[1][1], strict=True)))


def against_formula(norm: nn.Module, formula: Callable[..., Tensor]) -> Comparison:
    """`formula(row, **parameters)` gives a single vector, in fp64."""
    loud(norm)
    x = inputs()
    y = norm(x)
    leaves = [x, *norm.parameters()]
    exact = [t.detach().double().requires_grad_() for t in leaves]
    named = dict(zip((name for name, _ in norm.named_parameters()), exact[1:], strict=True))
    rows = [torch.stack([formula(row, **named) for row in rows]) for rows in exact[0]]
    expected = torch.stack(rows)
    return Comparison([(y, expected)], pairs(gradients(y, leaves), gradients(expected.float(), exact)))


def pairs(mine: Sequence[Tensor], theirs: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    return list(zip(mine, theirs, strict=True))


@parity("norm", "layernorm", "torch.nn.LayerNorm")
def layernorm() -> Comparison:
    return against_module(LayerNorm(DIM), nn.LayerNorm(DIM))


@parity("norm", "layernorm", "torch.nn.LayerNorm", "bias=false")
def layernorm_without_bias() -> Comparison:
    return against_module(LayerNorm(DIM, bias=False), nn.LayerNorm(DIM, bias=False))


@parity("norm", "rmsnorm", "transformers.LlamaRMSNorm")
def rmsnorm() -> Comparison:
    return against_module(RMSNorm(DIM), LlamaRMSNorm(DIM, 1e-6))


@parity("norm", "rmsnorm", "torch.nn.RMSNorm", "gain=false")
def rmsnorm_without_gain() -> Comparison:
    return against_module(RMSNorm(DIM, gain=False), nn.RMSNorm(DIM, eps=1e-6, elementwise_affine=False))


@parity("norm", "scalenorm", "formula.1910.05895")
def scalenorm() -> Comparison:
    """g x / |x|, the length summed number by number."""

    def formula(row: Tensor, gain: Tensor) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for each in row:
            total = total + each * each
        return torch.stack([gain * each / total**0.5 for each in row])

    return against_formula(ScaleNorm(DIM), formula)


@parity("norm", "unit", "torch.nn.functional.normalize")
def unit() -> Comparison:
    norm = UnitNorm(DIM)
    x, x_too = inputs(), inputs()
    y, y_too = norm(x), nn.functional.normalize(x_too, dim=-1)
    return Comparison([(y, y_too)], pairs(gradients(y, [x]), gradients(y_too, [x_too])))


@parity("norm", "dyt", "formula.2503.10622")
def dyt() -> Comparison:
    return against_formula(DynamicTanh(DIM), _tanh)


@parity("norm", "dyt", "formula.2503.10622", "bias=false alpha=0.5")
def dyt_without_bias() -> Comparison:
    return against_formula(DynamicTanh(DIM, bias=False, alpha=0.5), _tanh)


def _tanh(row: Tensor, alpha: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """tanh by exponentials."""
    found = []
    for each, gain, more in zip(row, weight, torch.zeros(DIM) if bias is None else bias, strict=True):
        high, low = torch.exp(alpha * each), torch.exp(-alpha * each)
        found.append(gain * (high - low) / (high + low) + more)
    return torch.stack(found)


@parity("norm", "derf", "formula.2512.10938")
def derf() -> Comparison:
    """erf is the integral of its derivative, 2 / sqrt(pi) exp(-t^2), from 0: by Simpson's rule."""

    def formula(row: Tensor, alpha: Tensor, weight: Tensor, bias: Tensor, shift: Tensor) -> Tensor:
        end = alpha * row + shift
        shares = torch.linspace(0, 1, 2001, dtype=torch.float64)
        weights = torch.full((2001,), 2.0, dtype=torch.float64)
        weights[1::2], weights[0], weights[-1] = 4.0, 1.0, 1.0
        slopes = 2 / math.sqrt(math.pi) * torch.exp(-((end[:, None] * shares) ** 2))
        return weight * (slopes * weights).sum(1) * end / 6000 + bias

    return against_formula(DynamicErf(DIM), formula)
