"""RWKV-7's time mixing. Constructor: (shape, layer, *, options). Shape letters as in _recurrent.py."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt_lab.errors import ConfigError
from gpt_lab.options import PositiveInt
from gpt_lab.parts.attention.recurrent._chunks import recurrence, runs
from gpt_lab.parts.attention.recurrent._conv import shifted
from gpt_lab.parts.base import Flow, Role, Shape
from gpt_lab.parts.states import Recurrence
from gpt_lab.registry import register

SLOWEST = math.exp(-0.5)
"""A channel's log decay lies between this, negative, and 0."""
VALUES = "rwkv7 values"
"""Where the first layer leaves its values for later ones, in what layers share."""


class _LowRank(nn.Module):
    """Two thin matrices with a function between them, and a bias of the channels if asked."""

    def __init__(self, width: int, rank: int, between: Literal["tanh", "sigmoid", "none"], bias: bool = True) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, rank, bias=False), nn.Linear(rank, width, bias=bias)
        self.between = {"tanh": nn.Tanh(), "sigmoid": nn.Sigmoid(), "none": nn.Identity()}[between]

    def forward(self, x_BTD: Tensor) -> Tensor:
        out_BTD: Tensor = self.up(self.between(self.down(x_BTD)))
        return out_BTD


@register("attention", "rwkv7")
class RWKV7(nn.Module):
    """RWKV-7's time mixing: a generalized delta rule with a decay and a learning rate of each channel.

    Paper: Peng et al. 2025, arXiv:2503.14456

    Each of six projections reads its own mix of the token and the one before it. Where DeltaNet replaces what a key
    recalls by one rate, here removal key (of length 1) and replacement key differ, and each channel has its rate. What
    is read passes a group norm by head, takes in the value of the token itself (bonus), then the output gate. Layers
    after the first mix its values into their own. Matrices begin as `init` says, the low-rank ones too (zero in the
    authors' code); mixes, biases and gains as theirs. The channel mixing of the paper's blocks is not part of it:
    mlp=relu2 comes near. Takes no position encoding: neither the rotation nor the bias of `position` is used.

    decay_rank: of the decay's projection; null: 2.5 sqrt(scale.width) to the nearest multiple of 32.
    rate_rank: of the learning rate's; null: as decay_rank.
    value_rank: of the mix with the first layer's values; null: 1.7 sqrt(scale.width), to a multiple of 32.
    gate_rank: of the output gate's; null: 5 sqrt(scale.width), to a multiple of 32.
    value_residual: whether layers after the first mix in its values; needs rwkv7 in the first.
    chunk: tokens that are computed together; changes speed and memory, not the result.

    Raises:
        ConfigError: a later layer finds no values of a first one.
    """

    by_row = True
    scale = 1.0
    """What an init makes of the scores' scale changes nothing: the norm of what is read divides it out."""

    def __init__(
        self,
        shape: Shape,
        layer: int,
        *,
        decay_rank: PositiveInt | None = None,
        rate_rank: PositiveInt | None = None,
        value_rank: PositiveInt | None = None,
        gate_rank: PositiveInt | None = None,
        value_residual: bool = True,
        chunk: Literal[16, 32, 64, 128] = 32,
    ) -> None:
        super().__init__()
        width = shape.width
        if width % shape.heads:
            raise ConfigError(f"scale.width={width} must be a multiple of scale.heads={shape.heads}")
        self.layer, self.depth, self.heads, self.chunk = layer, shape.depth, shape.heads, chunk
        self.head_dim, self.value_residual = width // shape.heads, value_residual
        if decay_rank is None or gate_rank is None or (value_rank is None and value_residual):
            self.no_mup = (
                "its ranks grow with sqrt(scale.width): set attention.decay_rank, attention.gate_rank and "
                "attention.value_rank to numbers"
            )
        self.init_roles: dict[str, Role] = dict.fromkeys(
            ("decay.up.weight", "rate.up.weight", "gate.up.weight"), "fixed_input"
        )
        decay_rank = decay_rank or _rank(2.5, width)
        for name in ("r", "w", "k", "v", "a", "g"):
            self.register_parameter(f"mix_{name}", nn.Parameter(torch.zeros(width)))
        self.r_proj, self.k_proj, self.v_proj, self.o_proj = (
            nn.Linear(width, width, bias=shape.bias) for _ in range(4)
        )
        self.decay = _LowRank(width, decay_rank, "tanh")
        self.rate = _LowRank(width, rate_rank or decay_rank, "none")
        self.gate = _LowRank(width, gate_rank or _rank(5.0, width), "sigmoid", bias=False)
        if layer and value_residual:
            self.value_mix = _LowRank(width, value_rank or _rank(1.7, width), "none")
            self.init_roles["value_mix.up.weight"] = "fixed_input"
        self.removal = nn.Parameter(torch.zeros(width))
        self.replacement = nn.Parameter(torch.zeros(width))
        self.bonus = nn.Parameter(torch.zeros(width))
        self.norm = nn.GroupNorm(shape.heads, width, eps=1e-5 * self.head_dim)

    def draw(self, name: str, generator: torch.Generator) -> Tensor | None:
        """Initial values of mixes, biases and gains, by layer and channel, as in the authors' code."""
        width, dim, below = self.removal.numel(), self.head_dim, self.layer / max(self.depth - 1, 1)
        place, line = torch.arange(width) / width, torch.linspace(-0.5, 0.5, width)
        inside = torch.arange(width) % dim * (2 / max(dim - 1, 1)) - 1
        wave = inside * inside.abs()
        powers = {"r": 0.2, "w": 0.9, "k": 0.7, "v": 0.7, "a": 0.9, "g": 0.2}
        if name.startswith("mix_"):
            return 1 - place ** (powers[name[-1]] * (1 - self.layer / self.depth))
        return {
            "decay.up.bias": -5.5 + 6 * (line + 0.5) ** (1 + below**0.3) + 2.5 * wave,
            "rate.up.bias": -0.19 + 0.3 * wave + 0.4 * line,
            "value_mix.up.bias": 0.73 - 0.4 * line,
            "removal": 0.71 - 0.1 * line,
            "replacement": torch.full((width,), 1.02),
            "bonus": torch.full((width,), -0.04),
            "norm.weight": torch.full((width,), ((1 + self.layer) / self.depth) ** 0.7),
        }.get(name)

    def forward(self, x_BTD: Tensor, flow: Flow) -> Tensor:
        state = flow.state("attention", Recurrence)
        runs_BT = None if flow.documents_BT is None else runs(flow.documents_BT)
        before_BTD, last = shifted(x_BTD, None if state is None else state.get("token"), runs_BT)
        delta_BTD = before_BTD - x_BTD
        xr, xw, xk, xv, xa, xg = (
            torch.addcmul(x_BTD, delta_BTD, self.get_parameter(f"mix_{name}").to(x_BTD.dtype)) for name in "rwkvag"
        )
        log_decay = -SLOWEST * torch.sigmoid(self.decay(xw).float())
        rate = torch.sigmoid(self.rate(xa).float())
        r, k = self.r_proj(xr).float(), self.k_proj(xk).float()
        v = self._values(xv, flow).float()
        removal = F.normalize(self._heads(k * self.removal), dim=-1)
        k = torch.addcmul(k, k * (rate - 1), self.replacement)
        y_BHTV, memory = recurrence(
            self._heads(r),
            self._heads(k),
            self._heads(v),
            self._heads(log_decay),
            moved=(-removal, removal * self._heads(rate)),
            chunk=self.chunk,
            state_BHKV=None if state is None else state.get("memory"),
            runs_BT=runs_BT,
        )
        if state is not None:
            state.keep(x_BTD.shape[1], memory=memory, token=last)
        y_BTD = self.norm(y_BHTV.transpose(1, 2).flatten(0, 1).flatten(1)).view(v.shape)
        weight_BTH1 = (r * k * self.bonus).unflatten(-1, (self.heads, -1)).sum(-1, keepdim=True)
        y_BTD = y_BTD + (weight_BTH1 * v.unflatten(-1, (self.heads, -1))).flatten(2)
        out_BTD: Tensor = self.o_proj((y_BTD * self.gate(xg)).to(self.o_proj.weight.dtype))
        return out_BTD

    def _values(self, x_BTD: Tensor, flow: Flow) -> Tensor:
        """Values, from the second layer on with a share of the first layer's, by channel and token."""
        v_BTD: Tensor = self.v_proj(x_BTD)
        if not self.value_residual:
            return v_BTD
        assert flow.shared is not None, "a pass through the model carries it"
        if self.layer == 0:
            flow.shared.setdefault(VALUES, v_BTD)
            return v_BTD
        first_BTD = flow.shared.get(VALUES)
        if first_BTD is None:
            raise ConfigError(
                "attention=rwkv7 mixes in the values of layer 0, which has none: give it rwkv7 too, or set "
                "value_residual=false"
            )
        return torch.lerp(v_BTD, first_BTD, torch.sigmoid(self.value_mix(x_BTD)))

    def _heads(self, x_BTD: Tensor) -> Tensor:
        """(B, T, D) to (B, H, T, K)."""
        return x_BTD.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def flops_per_token(self, context: int) -> float:
        """Forward matmul FLOPs of a token: its projections, and four products with the state, at every context."""
        matrices = sum(layer.weight.numel() for layer in self.modules() if isinstance(layer, nn.Linear))
        return 2 * (matrices + 4 * self.heads * self.head_dim**2)

    def extra_repr(self) -> str:
        return f"heads={self.heads}, head_dim={self.head_dim}, chunk={self.chunk}"


def _rank(factor: float, width: int) -> int:
    """The authors' rank of a projection: it grows with the root of the width."""
    return max(32, round(factor * width**0.5 / 32) * 32)
