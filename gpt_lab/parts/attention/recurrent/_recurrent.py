"""What mixers with a matrix of memory per head share: projections, short convolutions, state, norm and gate.

Shape letters as in parts/base.py and _chunks.py: H heads, K key dimension, V value dimension.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt_lab.errors import ConfigError
from gpt_lab.parts.attention.recurrent._chunks import recurrence, runs
from gpt_lab.parts.attention.recurrent._conv import ShortConvolution
from gpt_lab.parts.base import Flow, Shape
from gpt_lab.parts.norm.rmsnorm import RMSNorm
from gpt_lab.parts.states import Recurrence


class Gates(NamedTuple):
    """How the memory changes at each token: see `recurrence`."""

    log_decay: Tensor | None = None
    beta_BHT: Tensor | None = None


class RecurrentMixer(nn.Module):
    """Causal mixing through a state (K, V) per head, of constant size: no token looks back at earlier ones.

    chunk: tokens that are computed together; changes speed and memory, not the result.

    Args:
        key_heads: heads of queries and keys, each used by as many value heads; None: as many.
        expand_k: width of all keys, as a multiple of the model's, where there are as many key heads as heads.
        expand_v: width of all values, as a multiple of the model's.
        taps: length of the short convolutions over queries, keys and values, each followed by SiLU; None: neither.
        eps: of the norm of what is read, by head.
        gain: whether that norm has one.
    """

    by_row = True
    scale: float | None = 1.0
    """What an init makes of the scores' scale changes nothing: the norm of what is read divides it out. None: not so
    here."""
    reads_per_token = 2
    """Products of a vector with the state at each token, its own writing included."""

    def __init__(
        self,
        shape: Shape,
        layer: int,
        key_heads: int | None = None,
        expand_k: float = 1.0,
        expand_v: float = 1.0,
        taps: int | None = None,
        eps: float = 1e-6,
        gain: bool = True,
        *,
        chunk: Literal[16, 32, 64, 128] = 32,
    ) -> None:
        super().__init__()
        self.layer, self.chunk = layer, chunk
        self.heads = shape.heads
        self.key_heads = shape.heads if key_heads is None else key_heads
        if shape.heads % self.key_heads:
            raise ConfigError(f"attention.key_heads={self.key_heads} must divide scale.heads={shape.heads}")
        self.key_dim = _head_dim(shape, "expand_k", expand_k)
        self.value_dim = _head_dim(shape, "expand_v", expand_v)
        self.key_width, self.value_width = self.key_heads * self.key_dim, self.heads * self.value_dim
        self.q_proj = nn.Linear(shape.width, self.key_width, bias=shape.bias)
        self.k_proj = nn.Linear(shape.width, self.key_width, bias=shape.bias)
        self.v_proj = nn.Linear(shape.width, self.value_width, bias=shape.bias)
        self.convolves = taps is not None
        if taps is not None:
            self.q_conv = ShortConvolution(self.key_width, taps)
            self.k_conv = ShortConvolution(self.key_width, taps)
            self.v_conv = ShortConvolution(self.value_width, taps)
        self.norm = RMSNorm(self.value_dim, eps=eps, gain=gain)
        self.o_proj = nn.Linear(self.value_width, shape.width, bias=shape.bias)

    def forward(self, x_BTD: Tensor, flow: Flow) -> Tensor:
        state = flow.state("attention", Recurrence)
        runs_BT = None if flow.documents_BT is None else runs(flow.documents_BT)
        kept: dict[str, Tensor] = {}
        found = []
        for name, dim in (("q", self.key_dim), ("k", self.key_dim), ("v", self.value_dim)):
            part = self.get_submodule(f"{name}_proj")(x_BTD)
            if self.convolves:
                earlier = None if state is None else state.get(f"{name}_conv")
                part, kept[f"{name}_conv"] = self.get_submodule(f"{name}_conv")(part, earlier, runs_BT)
                part = F.silu(part)
            found.append(part.unflatten(-1, (-1, dim)))
        q_BHTK, k_BHTK = self.place(found[0], found[1], flow)
        gates = self.gates(x_BTD)
        y_BHTV, memory = recurrence(
            q_BHTK,
            k_BHTK,
            found[2].transpose(1, 2),
            gates.log_decay,
            gates.beta_BHT,
            chunk=self.chunk,
            state_BHKV=None if state is None else state.get("memory"),
            runs_BT=runs_BT,
        )
        if state is not None:
            state.keep(x_BTD.shape[1], memory=memory, **kept)
        y_BTHV = self.gate(self.norm(y_BHTV.transpose(1, 2)), x_BTD)
        out_BTD: Tensor = self.o_proj(y_BTHV.flatten(2).to(self.o_proj.weight.dtype))
        return out_BTD

    def place(self, q_BTHK: Tensor, k_BTHK: Tensor, flow: Flow) -> tuple[Tensor, Tensor]:
        """Queries, scaled, and keys, as the memory takes them: (B, H, T, K), one for each value head."""
        raise NotImplementedError

    def gates(self, x_BTD: Tensor) -> Gates:
        """Decay and step of the memory."""
        raise NotImplementedError

    def gate(self, y_BTHV: Tensor, x_BTD: Tensor) -> Tensor:
        """What is let through of what was read."""
        return y_BTHV

    def per_value_head(self, x_BTHK: Tensor) -> Tensor:
        """(B, T, key heads, K) to (B, H, T, K)."""
        x_BHTK = x_BTHK.transpose(1, 2)
        repeats = self.heads // self.key_heads
        return x_BHTK if repeats == 1 else x_BHTK.repeat_interleave(repeats, dim=1)

    def unit(self, q_BTHK: Tensor, k_BTHK: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys of length 1, queries over sqrt(K)."""
        q_BTHK, k_BTHK = (
            t * torch.rsqrt(t.square().sum(-1, keepdim=True) + 1e-6) for t in (q_BTHK.float(), k_BTHK.float())
        )
        return self.per_value_head(q_BTHK * self.key_dim**-0.5), self.per_value_head(k_BTHK)

    def flops_per_token(self, context: int) -> float:
        """Forward matmul FLOPs of a token: its projections, and its products with the state; the same at every context.

        What the chunked form computes beyond that shows in seconds.
        """
        matrices = sum(layer.weight.numel() for layer in self.modules() if isinstance(layer, nn.Linear))
        return 2 * (matrices + self.reads_per_token * self.heads * self.key_dim * self.value_dim)

    def extra_repr(self) -> str:
        return f"heads={self.heads}, key_dim={self.key_dim}, value_dim={self.value_dim}, chunk={self.chunk}"


def _head_dim(shape: Shape, option: str, factor: float) -> int:
    """Dimension of a head, of heads that are `factor` times as wide as the model together."""
    width = factor * shape.width
    if width < shape.heads or width % shape.heads:
        raise ConfigError(
            f"attention.{option}={factor:g}: {width:g} of scale.width={shape.width} must be a multiple of "
            f"scale.heads={shape.heads}"
        )
    return int(width) // shape.heads


def log_rates(shape: torch.Size, generator: torch.Generator, slowest: float) -> Tensor:
    """Initial log of rates of decay that are uniform in (slowest, 16)."""
    return torch.empty(shape).uniform_(slowest, 16.0, generator=generator).log_()


def step_biases(shape: torch.Size, generator: torch.Generator, shortest: float = 1e-3, longest: float = 0.1) -> Tensor:
    """Initial biases whose softplus, the step of a token that adds nothing to it, is log-uniform between these."""
    step = torch.empty(shape).uniform_(math.log(shortest), math.log(longest), generator=generator).exp_()
    return step + torch.log(-torch.expm1(-step))
