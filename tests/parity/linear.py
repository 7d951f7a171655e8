"""Recurrent mixers: the delta rules against transformers; the others against their papers, token by token in fp64."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn
from transformers.models.kimi_linear import modeling_kimi_linear
from transformers.models.qwen3_next import modeling_qwen3_next

from gpt_lab import registry
from gpt_lab.parts.base import Flow, Shape
from tests.parity.case import Comparison, gradients, parity

WIDTH, HEADS, LENGTH = 32, 4, 29
K = WIDTH // HEADS
SHAPE = Shape(4, WIDTH, HEADS, LENGTH)


def loud(module: nn.Module) -> Any:
    """Weights so large that outputs are of size 1."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            drawn = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(drawn * 0.25 if parameter.ndim > 1 else 0.5 + 0.3 * drawn)
    return module.eval()


def inputs(dtype: torch.dtype = torch.float32) -> Tensor:
    # the first token reads (q k) v and its norm: where q k happens to be near 0, rounding is all there is
    drawn = torch.randn(2, LENGTH, WIDTH, generator=torch.Generator().manual_seed(3))
    return drawn.to(dtype).requires_grad_()


def part(name: str, layer: int = 0, **options: Any) -> Any:
    return loud(registry.build("attention", {"name": name} | options, SHAPE, layer))


def flow(position: str = "none") -> Flow:
    return Flow(registry.build("position", {"name": position}, SHAPE), torch.arange(LENGTH))


def against_module(ours: Any, theirs: Any, pull: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]) -> Comparison:
    """Both with the weights of ours; `pull` names each of theirs, or what stands for it, by ours."""
    mine = dict(ours.named_parameters())
    with torch.no_grad():
        for name, tensor in pull(dict(theirs.named_parameters())).items():
            tensor.copy_(mine[name].view_as(tensor))
    x, y = inputs(), inputs()
    found, expected = ours(x, flow()), theirs(y)
    names = list(mine)
    weights = dict(theirs.named_parameters())
    grads = dict(zip(weights, gradients(expected, list(weights.values())), strict=True))
    pulled = pull(grads)
    assert pulled.keys() == mine.keys()
    return Comparison(
        [(found, expected)],
        [
            (gradients(found, [x])[0], gradients(expected, [y])[0]),
            *(
                (a, pulled[n].reshape(a.shape))
                for n, a in zip(names, gradients(found, list(mine.values())), strict=True)
            ),
        ],
    )


def _qwen(key_heads: int, expand: int, **options: Any) -> Comparison:
    """Theirs keeps q, k, v and z of a key head together; the convolution has all q, then all k, then all v."""
    ours = part("gated_deltanet", key_heads=key_heads, expand_k=expand, expand_v=expand, **options)
    dim, shared = expand * K, HEADS // key_heads
    config = transformers.Qwen3NextConfig(
        hidden_size=WIDTH,
        linear_num_key_heads=key_heads,
        linear_num_value_heads=HEADS,
        linear_key_head_dim=dim,
        linear_value_head_dim=dim,
        rms_norm_eps=1e-6,
        layer_types=["linear_attention"],
        num_hidden_layers=1,
    )
    theirs = modeling_qwen3_next.Qwen3NextGatedDeltaNet(config, 0).eval()
    sizes = (dim, dim, shared * dim, shared * dim)

    def pull(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        q, k, v, z = tensors["in_proj_qkvz.weight"].view(key_heads, sum(sizes), WIDTH).split(sizes, dim=1)
        b, a = tensors["in_proj_ba.weight"].view(key_heads, 2 * shared, WIDTH).split(shared, dim=1)
        conv = tensors["conv1d.weight"][:, 0].split((key_heads * dim, key_heads * dim, HEADS * dim))
        return {
            "a_log": tensors["A_log"],
            "dt": tensors["dt_bias"],
            **{f"{x}_proj.weight": t for x, t in zip("qkv", (q, k, v), strict=True)},
            **{f"{x}_conv.weight": t for x, t in zip("qkv", conv, strict=True)},
            "norm.weight": tensors["norm.weight"],
            "o_proj.weight": tensors["out_proj.weight"],
            "beta_proj.weight": b,
            "decay_proj.weight": a,
            "gate_proj.weight": z,
        }

    return against_module(ours, theirs, pull)


@parity("attention", "gated_deltanet", "transformers.Qwen3NextGatedDeltaNet")
def gated_deltanet() -> Comparison:
    return _qwen(HEADS, 1)


@parity(
    "attention", "gated_deltanet", "transformers.Qwen3NextGatedDeltaNet", "key_heads=2 expand_k=2 expand_v=2 chunk=16"
)
def gated_deltanet_as_in_qwen() -> Comparison:
    return _qwen(2, 2, chunk=16)


def _kimi(**options: Any) -> Comparison:
    config = transformers.KimiLinearConfig(
        hidden_size=WIDTH,
        linear_head_dim=K,
        linear_num_heads=HEADS,
        layer_types=["linear_attention"],
        mlp_layer_types=["dense"],
        num_hidden_layers=1,
    )
    theirs = modeling_kimi_linear.KimiLinearDeltaAttention(config, 0).eval()

    def pull(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        conv = tensors["conv1d.weight"][:, 0].chunk(3)
        return {
            "a_log": tensors["forget_gate.A_log"],
            "dt": tensors["forget_gate.dt_bias"],
            **{f"{x}_proj.weight": tensors[f"{x}_proj.weight"] for x in "qkvo"},
            **{f"{x}_conv.weight": t for x, t in zip("qkv", conv, strict=True)},
            "norm.weight": tensors["o_norm.weight"],
            "beta_proj.weight": tensors["b_proj.weight"],
            "decay_down.weight": tensors["forget_gate.f_a_proj.weight"],
            "decay_up.weight": tensors["forget_gate.f_b_proj.weight"],
            "gate_down.weight": tensors["g_a_proj.weight"],
            "gate_up.weight": tensors["g_b_proj.weight"],
        }

    return against_module(part("kda", **options), theirs, pull)


@parity("attention", "kda", "transformers.KimiLinearDeltaAttention")
def kda() -> Comparison:
    return _kimi()


@parity("attention", "kda", "transformers.KimiLinearDeltaAttention", "chunk=16")
def kda_in_chunks() -> Comparison:
    return _kimi(chunk=16)


def against_formula(
    ours: Any, formula: Callable[[Tensor, Mapping[str, Tensor]], Tensor], position: str = "none"
) -> Comparison:
    """Ours in fp32 and a formula of input and weights, (T, D) to (T, D), in fp64."""
    weights = {name: p.detach().double().requires_grad_() for name, p in ours.named_parameters()}
    x, y = inputs(), inputs(torch.float64)
    found = ours(x, flow(position))
    expected = torch.stack([formula(row, weights) for row in y])
    mine = gradients(found, [x, *dict(ours.named_parameters()).values()])
    theirs = gradients(expected.float(), [y, *weights.values()])
    return Comparison([(found, expected.float())], list(zip(mine, theirs, strict=True)))


def heads(x_TE: Tensor) -> Tensor:
    return x_TE.unflatten(-1, (HEADS, -1))


def rms(y: Tensor, eps: float) -> Tensor:
    return y / (y.square().mean(-1, keepdim=True) + eps).sqrt()


def convolved(x_TE: Tensor, weight_EW: Tensor) -> Tensor:
    """SiLU of a causal convolution: torch's correlation with zeros before the first token."""
    taps = weight_EW.shape[1]
    return F.silu(F.conv1d(F.pad(x_TE.t(), (taps - 1, 0)), weight_EW[:, None], groups=len(weight_EW)).t())


@parity("attention", "linear", "formula.Katharopoulos2020")
def linear() -> Comparison:
    def formula(x: Tensor, w: Mapping[str, Tensor]) -> Tensor:
        q, k, v = (heads(x @ w[f"{n}_proj.weight"].t()) for n in "qkv")
        weights = torch.einsum("thk,shk->hts", F.elu(q) + 1, F.elu(k) + 1).tril()
        weights = weights / (weights.sum(-1, keepdim=True) + 1e-6)
        return torch.einsum("hts,shv->thv", weights, v).flatten(1) @ w["o_proj.weight"].t()

    return against_formula(part("linear"), formula)


def turned(x_THK: Tensor) -> Tensor:
    """Rotated as a complex number by exp(i n theta), halves of a head being real and imaginary part."""
    half = x_THK.shape[-1] // 2
    angle = torch.arange(len(x_THK)).double()[:, None] * 10000.0 ** (-torch.arange(half).double() / half)
    z = torch.complex(x_THK[..., :half], x_THK[..., half:]) * torch.polar(torch.ones_like(angle), angle)[:, None]
    return torch.cat((z.real, z.imag), dim=-1)


@parity("attention", "linear", "formula.Su2021", "position=rope")
def linear_rotated() -> Comparison:
    def formula(x: Tensor, w: Mapping[str, Tensor]) -> Tensor:
        q, k, v = (heads(x @ w[f"{n}_proj.weight"].t()) for n in "qkv")
        q, k = F.elu(q) + 1, F.elu(k) + 1
        above = torch.einsum("thk,shk->hts", turned(q), turned(k)).tril()
        below = torch.einsum("thk,shk->hts", q, k).tril().sum(-1, keepdim=True)
        return torch.einsum("hts,shv->thv", above / (below + 1e-6), v).flatten(1) @ w["o_proj.weight"].t()

    return against_formula(part("linear"), formula, "rope")


@parity("attention", "retention", "formula.Sun2023", "position=rope")
def retention() -> Comparison:
    def formula(x: Tensor, w: Mapping[str, Tensor]) -> Tensor:
        """The parallel form of the paper: (Q K^T * D) V with D = gamma^(n - m)."""
        q, k, v, g = (heads(x @ w[f"{n}_proj.weight"].t()) for n in ("q", "k", "v", "gate"))
        place = torch.arange(len(x)).double()
        gamma = 1 - 2.0 ** (-5 - torch.arange(HEADS).double())
        decay = (gamma[:, None, None] ** (place[:, None] - place).clamp(min=0)).tril()
        y = torch.einsum("hts,shv->thv", torch.einsum("thk,shk->hts", turned(q), turned(k)) * decay / K**0.5, v)
        return (rms(y, 1e-6) * F.silu(g)).flatten(1) @ w["o_proj.weight"].t()

    return against_formula(part("retention"), formula, "rope")


@parity("attention", "gla", "formula.Yang2023")
def gla() -> Comparison:
    def formula(x: Tensor, w: Mapping[str, Tensor]) -> Tensor:
        q, k, v, g = (heads(x @ w[f"{n}_proj.weight"].t()) for n in ("q", "k", "v", "gate"))
        alpha = heads(torch.sigmoid(x @ w["decay_down.weight"].t() @ w["decay_up.weight"].t() + w["decay_up.bias"]))
        state, read = torch.zeros(HEADS, K // 2, K).double(), []
        for t in range(len(x)):
            state = alpha[t, :, :, None] ** (1 / 16) * state + k[t, :, :, None] * v[t, :, None]
            read.append((q[t, :, :, None] * state).sum(1) / (K // 2) ** 0.5)
        return (rms(torch.stack(read), 1e-5) * w["norm.weight"] * F.silu(g)).flatten(1) @ w["o_proj.weight"].t()

    return against_formula(part("gla"), formula)


def _delta(factor: float, **options: Any) -> Comparison:
    def formula(x: Tensor, w: Mapping[str, Tensor]) -> Tensor:
        q, k, v = (heads(convolved(x @ w[f"{n}_proj.weight"].t(), w[f"{n}_conv.weight"])) for n in "qkv")
        q, k = (t / (t.square().sum(-1, keepdim=True) + 1e-6).sqrt() for t in (q, k))
        beta = factor * torch.sigmoid(x @ w["beta_proj.weight"].t())
        state, read = torch.zeros(HEADS, v.shape[-1], K).double(), []
        for t in range(len(x)):
            # S_t = S_{t-1} (I - beta k k^T) + beta v k^T
            key, step = k[t, :, None, :], beta[t, :, None, None]
            erased = torch.eye(K).double() - step * key.transpose(1, 2) @ key
            state = state @ erased + step * v[t, :, :, None] @ key
            read.append((state @ q[t, :, :, None])[..., 0] / K**0.5)
        return (rms(torch.stack(read), 1e-6) * w["norm.weight"]).flatten(1) @ w["o_proj.weight"].t()

    return against_formula(part("delta", **options), formula)


@parity("attention", "delta", "formula.Yang2024")
def delta() -> Comparison:
    return _delta(1.0)


@parity("attention", "delta", "formula.Yang2024", "negative_eigenvalues=true expand_v=2")
def delta_signed() -> Comparison:
    return _delta(2.0, negative_eigenvalues=True, expand_v=2.0)
