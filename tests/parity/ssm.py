"""State spaces against transformers; RWKV-7's time mixing against its paper, token by token in fp64."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn
from transformers.models.mamba import modeling_mamba
from transformers.models.mamba2 import modeling_mamba2

from gpt_lab.parts.base import Flow
from tests.parity.case import Comparison, parity
from tests.parity.linear import HEADS, WIDTH, K, against_formula, against_module, part

Tensors = Mapping[str, Tensor]


def slow(ours: Any, name: str) -> Any:
    """With steps so short that a memory lasts."""
    with torch.no_grad():
        ours.get_parameter(name).sub_(3.0)
    return ours


def _renamed(tensors: Tensors, names: Mapping[str, str]) -> dict[str, Tensor]:
    """Theirs by our names; a convolution of theirs is (C, 1, W), what is flat here may be of two dimensions there."""
    kept = {ours: tensors[theirs] for ours, theirs in names.items()}
    return {n: t[:, 0] if n == "conv.weight" else t.flatten() if n == "a_log" else t for n, t in kept.items()}


BOTH = {"conv.weight": "conv1d.weight", "conv.bias": "conv1d.bias", "in_proj.weight": "in_proj.weight"}
BOTH |= {"o_proj.weight": "out_proj.weight", "a_log": "A_log", "skip": "D"}


def _mamba2(theirs: Mapping[str, int], **options: Any) -> Comparison:
    config = transformers.Mamba2Config(hidden_size=WIDTH, num_hidden_layers=1, chunk_size=8, **theirs)
    reference = modeling_mamba2.Mamba2Mixer(config, 0).eval()
    names = BOTH | {"dt": "dt_bias", "norm.weight": "norm.weight"}
    return against_module(slow(part("mamba2", **options), "dt"), reference, functools.partial(_renamed, names=names))


@parity("attention", "mamba2", "transformers.Mamba2Mixer")
def mamba2() -> Comparison:
    return _mamba2({"n_groups": 1, "head_dim": K, "num_heads": 2 * HEADS, "state_size": 128})


@parity("attention", "mamba2", "transformers.Mamba2Mixer", "groups=2 head_dim=4 state_dim=5 expand=3 conv=2 chunk=16")
def mamba2_in_groups() -> Comparison:
    theirs = {"n_groups": 2, "head_dim": 4, "num_heads": 24, "state_size": 5, "expand": 3, "conv_kernel": 2}
    return _mamba2(theirs, groups=2, head_dim=4, state_dim=5, expand=3, conv=2, chunk=16)


def _mamba(theirs: Mapping[str, int], **options: Any) -> Comparison:
    config = transformers.MambaConfig(hidden_size=WIDTH, num_hidden_layers=1, **theirs)
    reference = modeling_mamba.MambaMixer(config, 0).eval()
    same = ("x_proj.weight", "dt_proj.weight", "dt_proj.bias")
    names = BOTH | dict(zip(same, same, strict=True))
    ours = slow(part("mamba", **options), "dt_proj.bias")
    return against_module(ours, reference, functools.partial(_renamed, names=names))


@parity("attention", "mamba", "transformers.MambaMixer")
def mamba() -> Comparison:
    return _mamba({})


@parity("attention", "mamba", "transformers.MambaMixer", "rank=3 state_dim=5 expand=3 conv=2 chunk=16")
def mamba_in_chunks() -> Comparison:
    theirs = {"time_step_rank": 3, "state_size": 5, "expand": 3, "conv_kernel": 2}
    return _mamba(theirs, rank=3, state_dim=5, expand=3, conv=2, chunk=16)


class Layers(nn.Module):
    """The sum of a first layer and a later one, which takes its values; they read different channels of the input."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.layers = nn.ModuleList([part("rwkv7", **options), part("rwkv7", layer=1, **options)])
        with torch.no_grad():
            for layer in self.layers:
                layer.get_parameter("o_proj.weight").mul_(0.2)  # outputs of size 1

    def forward(self, x_BTD: Tensor, flow: Flow) -> Tensor:
        flow = flow._replace(shared={})
        first, second = self.layers
        out_BTD: Tensor = first(x_BTD, flow) + second(x_BTD.roll(1, -1), flow._replace(layer=1))
        return out_BTD


def heads(x_TD: Tensor) -> Tensor:
    return x_TD.unflatten(-1, (HEADS, K))


def _time_mixing(x: Tensor, w: Tensors, first: Tensor | None) -> tuple[Tensor, Tensor]:
    """Section 4.1 of the paper for one sequence; `removal` is its xi, `replacement` its alpha, `bonus` its rho."""
    before = F.pad(x, (0, 0, 1, 0))[:-1]

    def mixed(name: str) -> Tensor:
        return x + (before - x) * w[f"mix_{name}"]

    def low_rank(name: str, read: Tensor, between: Callable[[Tensor], Tensor]) -> Tensor:
        return between(read @ w[f"{name}.down.weight"].t()) @ w[f"{name}.up.weight"].t()

    r, k, v = (mixed(name) @ w[f"{name}_proj.weight"].t() for name in "rkv")
    decay = torch.exp(
        -torch.exp(torch.tensor(-0.5).double())
        * torch.sigmoid(low_rank("decay", mixed("w"), torch.tanh) + w["decay.up.bias"])
    )
    rate = torch.sigmoid(low_rank("rate", mixed("a"), lambda t: t) + w["rate.up.bias"])
    gate = low_rank("gate", mixed("g"), torch.sigmoid)
    if first is None:
        first = v
    else:
        share = torch.sigmoid(low_rank("value_mix", mixed("v"), lambda t: t) + w["value_mix.up.bias"])
        v = v + (first - v) * share
    removal = heads(k * w["removal"])
    removal = removal / removal.norm(dim=-1, keepdim=True)
    k = heads(k * (1 + (rate - 1) * w["replacement"]))
    r, wide, rate, decay = heads(r), heads(v), heads(rate), heads(decay)
    state, read = torch.zeros(HEADS, K, K).double(), []
    for t in range(len(x)):
        # S_t = S_{t-1} (diag(w_t) - kappa_t^T (a_t * kappa_t)) + v_t^T k_t, y_t = S_t r_t; a row of S is a value
        moved = torch.diag_embed(decay[t]) - removal[t, :, :, None] * (rate * removal)[t, :, None]
        state = state @ moved + wide[t, :, :, None] * k[t, :, None]
        read.append((state @ r[t, :, :, None])[..., 0])
    y = torch.stack(read)
    y = (y - y.mean(-1, keepdim=True)) / (y.var(-1, keepdim=True, correction=0) + K * 1e-5).sqrt()
    y = y.flatten(1) * w["norm.weight"] + w["norm.bias"]
    y = y + ((r * k * heads(w["bonus"])).sum(-1, keepdim=True) * wide).flatten(1)
    return (y * gate) @ w["o_proj.weight"].t(), first


def _rwkv7(**options: Any) -> Comparison:
    def formula(x: Tensor, w: Tensors) -> Tensor:
        first, total = None, torch.zeros(())
        for number in range(2):
            prefix = f"layers.{number}."
            own = {name.removeprefix(prefix): t for name, t in w.items() if name.startswith(prefix)}
            y, values = _time_mixing(x.roll(number, -1), own, first)
            total, first = total + y, values if options.get("value_residual", True) else None
        return total

    return against_formula(Layers(**options), formula)


@parity("attention", "rwkv7", "formula.Peng2025")
def rwkv7() -> Comparison:
    return _rwkv7()


@parity("attention", "rwkv7", "formula.Peng2025", "value_residual=false decay_rank=3 rate_rank=5 gate_rank=7 chunk=16")
def rwkv7_without_the_first_values() -> Comparison:
    return _rwkv7(value_residual=False, decay_rank=3, rate_rank=5, gate_rank=7, chunk=16)
