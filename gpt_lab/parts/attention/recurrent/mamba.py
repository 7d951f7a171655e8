"""Selective state spaces: Mamba and Mamba-2. Constructor: (shape, layer, *, options).

Both widen the input, read its neighbours through a short convolution with SiLU, pass it through a linear recurrence
whose decay, input and output the token sets, and let what was read through a gate. Neither takes a position encoding:
the rotation or bias of `position` is not used. Embeddings of position act before them.

Shape letters: B rows, T tokens, D width, E inner channels, H heads, V head dimension (E = H V), G groups of heads,
K state dimension.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt_lab.errors import ConfigError
from gpt_lab.options import NonNegativeFloat, PositiveFloat, PositiveInt
from gpt_lab.parts.attention.recurrent._chunks import recurrence, runs
from gpt_lab.parts.attention.recurrent._conv import ShortConvolution, begins
from gpt_lab.parts.attention.recurrent._recurrent import log_rates, step_biases
from gpt_lab.parts.attention.recurrent._scan import scan
from gpt_lab.parts.base import Flow, Shape
from gpt_lab.parts.states import Recurrence
from gpt_lab.registry import register


class _Selective(nn.Module):
    """What both share: sizes, the convolution, the steps' initial values, the state.

    expand: inner channels, as a multiple of scale.width.
    conv: taps of the short convolution.
    dt_min: shortest step at first; a memory lasts 1 / (rate x step) tokens.
    dt_max: longest step at first.
    chunk: tokens that are computed together; changes speed and memory, not the result.

    Args:
        state_dim: numbers that a channel keeps of earlier tokens.
        keys: channels of all keys, and of all queries, that pass the convolution with the inner ones.
    """

    by_row = True
    scale = 1.0
    """What an init makes of the scores' scale does not apply: a token reads a state of a size of its own."""
    products = 2
    """Products of a vector with the state at each token, its own writing included."""

    def __init__(
        self,
        shape: Shape,
        layer: int,
        state_dim: int,
        keys: int = 0,
        *,
        expand: PositiveFloat = 2.0,
        conv: PositiveInt = 4,
        dt_min: PositiveFloat = 0.001,
        dt_max: PositiveFloat = 0.1,
        chunk: Literal[16, 32, 64, 128] = 64,
    ) -> None:
        super().__init__()
        if expand * shape.width % 1:
            raise ConfigError(f"attention.expand={expand:g} of scale.width={shape.width} must be a whole number")
        if dt_max < dt_min:
            raise ConfigError(f"attention.dt_max={dt_max:g} must not be less than attention.dt_min={dt_min:g}")
        self.layer, self.inner, self.state_dim, self.chunk = layer, int(expand * shape.width), state_dim, chunk
        self.steps = dt_min, dt_max
        self.keys, self.convolved = keys, self.inner + 2 * keys
        self.conv = ShortConvolution(self.convolved, conv, bias=True)
        self.o_proj = nn.Linear(self.inner, shape.width, bias=shape.bias)

    def convolve(self, x_BTC: Tensor, flow: Flow) -> tuple[Tensor, Tensor | None, Recurrence | None, Tensor]:
        """After the convolution and SiLU; the runs of documents; the decoding state, and the inputs that it keeps."""
        state = flow.state("attention", Recurrence)
        runs_BT = None if flow.documents_BT is None else runs(flow.documents_BT)
        x_BTC, inputs = self.conv(x_BTC, None if state is None else state.get("conv"), runs_BT)
        return F.silu(x_BTC), runs_BT, state, inputs

    def flops_per_token(self, context: int) -> float:
        """Forward matmul FLOPs of a token: its projections, its products with the state; the same at every context."""
        matrices = sum(layer.weight.numel() for layer in self.modules() if isinstance(layer, nn.Linear))
        return 2 * (matrices + self.products * self.inner * self.state_dim)

    def extra_repr(self) -> str:
        return f"inner={self.inner}, state_dim={self.state_dim}, chunk={self.chunk}"


@register("attention", "mamba")
class Mamba(_Selective):
    """Mamba (S6): each channel has a small state of its own, whose decays differ and all follow the token's step.

    Paper: Gu and Dao 2023, arXiv:2312.00752

    A channel's state of K numbers fades by exp(step x A), A negative and of each number its own, takes in step x B x
    and is read by C; step, of low rank, B and C are linear in the token, the step through a softplus. A begins at -1 to
    -K in each channel. The block of the paper has no MLP beside it: mlp=none. Takes no position encoding. The backward
    pass keeps T x expand x width x state_dim numbers a row and layer, several times; model.checkpointing=true computes
    them again. All of that is element by element: some eight times as slow as attention at width 256 on a CPU.

    state_dim: numbers that a channel keeps of earlier tokens.
    rank: of the step's projection; null: 1/16 of scale.width, rounded up.
    """

    products = 1
    """Reading alone: the state is written number by number."""

    def __init__(
        self,
        shape: Shape,
        layer: int,
        *,
        state_dim: PositiveInt = 16,
        rank: PositiveInt | None = None,
        **options: Any,
    ) -> None:
        super().__init__(shape, layer, state_dim, **options)
        self.rank = math.ceil(shape.width / 16) if rank is None else rank
        self.in_proj = nn.Linear(shape.width, 2 * self.inner, bias=shape.bias)
        self.x_proj = nn.Linear(self.inner, self.rank + 2 * self.state_dim, bias=False)
        self.dt_proj = nn.Linear(self.rank, self.inner)
        # flat, as a vector: neither decayed nor orthogonalised
        self.a_log = nn.Parameter(torch.zeros(self.inner * self.state_dim))
        self.skip = nn.Parameter(torch.ones(self.inner))

    def draw(self, name: str, generator: torch.Generator) -> Tensor | None:
        """Initial values of rates and steps."""
        if name == "a_log":
            return torch.arange(1.0, 1.0 + self.state_dim).log().repeat(self.inner)
        if name == "dt_proj.weight":
            bound = self.rank**-0.5
            return torch.empty(self.dt_proj.weight.shape).uniform_(-bound, bound, generator=generator)
        return step_biases(self.dt_proj.bias.shape, generator, *self.steps) if name == "dt_proj.bias" else None

    def forward(self, x_BTD: Tensor, flow: Flow) -> Tensor:
        x_BTE, gate_BTE = self.in_proj(x_BTD).chunk(2, dim=-1)
        x_BTE, runs_BT, state, inputs = self.convolve(x_BTE, flow)
        step_BTR, b_BTK, c_BTK = self.x_proj(x_BTE).split((self.rank, self.state_dim, self.state_dim), dim=-1)
        with torch.autocast(x_BTD.device.type, enabled=False):
            step_BTE = F.softplus(self.dt_proj(step_BTR.to(self.dt_proj.weight.dtype)).float())
            y_BTE, memory = scan(
                x_BTE.float(),
                step_BTE,
                -self.a_log.float().exp().view(self.inner, self.state_dim),
                b_BTK.float(),
                c_BTK.float(),
                chunk=self.chunk,
                state_BEK=None if state is None else state.get("memory"),
                begins_BT=None if runs_BT is None else begins(runs_BT),
            )
        if state is not None:
            state.keep(x_BTD.shape[1], memory=memory, conv=inputs)
        y_BTE = (y_BTE + self.skip * x_BTE) * F.silu(gate_BTE.float())
        out_BTD: Tensor = self.o_proj(y_BTE.to(self.o_proj.weight.dtype))
        return out_BTD


class _GatedNorm(nn.Module):
    """RMS norm of what a gate lets through, over each group of channels, with a gain of each channel."""

    def __init__(self, channels: int, groups: int, eps: float) -> None:
        super().__init__()
        self.groups, self.eps = groups, eps
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, y_BTE: Tensor, gate_BTE: Tensor) -> Tensor:
        y_BTGC = (y_BTE * F.silu(gate_BTE.float())).unflatten(-1, (self.groups, -1))
        return F.rms_norm(y_BTGC, y_BTGC.shape[-1:], eps=self.eps).flatten(2) * self.weight


@register("attention", "mamba2")
class Mamba2(_Selective):
    """Mamba-2 (SSD): linear attention whose heads share keys and queries and fade at rates that the token sets.

    Paper: Dao and Gu 2024, arXiv:2405.21060

    One projection gives gate, values x, keys B, queries C and step, in this order; x, B and C pass the convolution. The
    memory of a head fades by exp(-A step), A one number, and takes in step x B x; the step has a softplus. What is
    read, with a learned share of x, passes the gate's SiLU and then an RMS norm over each group. A begins uniform in
    (1, 16). The block of the paper has no MLP beside it: mlp=none. Takes no position encoding.

    state_dim: of keys and queries; each channel keeps as many numbers of earlier tokens.
    head_dim: dimension of a head, which must divide the inner channels; null: scale.width / scale.heads.
    groups: of heads, each with keys, queries and a norm of its own; must divide the heads, expand x width / head_dim.
    dt_limit: smallest step, after the softplus (Zamba2: 0.001); 0: any.
    eps: of the norm, added to the mean square.
    """

    def __init__(
        self,
        shape: Shape,
        layer: int,
        *,
        state_dim: PositiveInt = 128,
        head_dim: PositiveInt | None = None,
        groups: PositiveInt = 1,
        dt_limit: NonNegativeFloat = 0.0,
        eps: PositiveFloat = 1e-5,
        **options: Any,
    ) -> None:
        super().__init__(shape, layer, state_dim, groups * state_dim, **options)
        if head_dim is None:
            if shape.width % shape.heads:
                raise ConfigError(
                    f"scale.width={shape.width} must be a multiple of scale.heads={shape.heads}, or give "
                    "attention.head_dim"
                )
            head_dim = shape.width // shape.heads
        self.heads, self.head_dim, self.groups = self.inner // head_dim, head_dim, groups
        if self.inner % head_dim:
            raise ConfigError(f"attention.head_dim={head_dim} must divide the {self.inner} inner channels (expand)")
        if self.heads % groups:
            raise ConfigError(f"attention.groups={groups} must divide the {self.heads} heads (inner / head_dim)")
        self.dt_limit = dt_limit
        self.in_proj = nn.Linear(shape.width, self.inner + self.convolved + self.heads, bias=shape.bias)
        self.norm = _GatedNorm(self.inner, groups, eps)
        self.a_log = nn.Parameter(torch.zeros(self.heads))
        self.dt = nn.Parameter(torch.zeros(self.heads))
        self.skip = nn.Parameter(torch.ones(self.heads))

    def draw(self, name: str, generator: torch.Generator) -> Tensor | None:
        """Initial values of rates and steps."""
        if name == "a_log":
            return log_rates(self.a_log.shape, generator, 1.0)
        return step_biases(self.dt.shape, generator, *self.steps) if name == "dt" else None

    def forward(self, x_BTD: Tensor, flow: Flow) -> Tensor:
        gate_BTE, mixed, step_BTH = self.in_proj(x_BTD).split((self.inner, self.convolved, self.heads), dim=-1)
        mixed, runs_BT, state, inputs = self.convolve(mixed, flow)
        x_BTE, b, c = mixed.split((self.inner, self.keys, self.keys), dim=-1)
        x_BHTV = x_BTE.float().unflatten(-1, (self.heads, -1)).transpose(1, 2)
        step_BHT = F.softplus(step_BTH.float() + self.dt).clamp(min=self.dt_limit).transpose(1, 2)
        memory = None if state is None else state.get("memory")
        y_BHTV, memory = recurrence(
            self._grouped(c.unflatten(-1, (self.groups, -1)).transpose(1, 2)),
            self._grouped(b.unflatten(-1, (self.groups, -1)).transpose(1, 2)),
            self._grouped(x_BHTV * step_BHT[..., None]),
            self._grouped(-self.a_log.float().exp()[:, None] * step_BHT),
            chunk=self.chunk,
            state_BHKV=None if memory is None else self._grouped(memory),
            runs_BT=None if runs_BT is None else runs_BT.repeat_interleave(self.groups, dim=0),
        )
        if state is not None:
            state.keep(x_BTD.shape[1], memory=memory.view(len(x_BTD), self.heads, *memory.shape[2:]), conv=inputs)
        y_BHTV = y_BHTV.view_as(x_BHTV) + self.skip[:, None, None] * x_BHTV
        y_BTE = self.norm(y_BHTV.transpose(1, 2).flatten(2), gate_BTE)
        out_BTD: Tensor = self.o_proj(y_BTE.to(self.o_proj.weight.dtype))
        return out_BTD

    def _grouped(self, heads_first: Tensor) -> Tensor:
        """(B, H | G, ...) to (B G, H / G | 1, ...): a group is a row of its own, whose heads share one key."""
        return heads_first.unflatten(1, (self.groups, -1)).flatten(0, 1)

    def extra_repr(self) -> str:
        return f"heads={self.heads}, head_dim={self.head_dim}, groups={self.groups}, {super().extra_repr()}"
