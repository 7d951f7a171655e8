"""Linear attention: a sum of k v in place of softmax over all keys. Constructor: (shape, layer, *, options).

Shape letters as in _recurrent.py.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt_lab.errors import ConfigError
from gpt_lab.options import PositiveFloat, PositiveInt
from gpt_lab.parts.attention.recurrent._chunks import recurrence, runs
from gpt_lab.parts.attention.recurrent._recurrent import Gates, RecurrentMixer
from gpt_lab.parts.base import Flow, Shape
from gpt_lab.parts.states import Recurrence
from gpt_lab.registry import register

EPS = 1e-6
"""Added to the sum of weights, as in the authors' code."""


@register("attention", "linear")
class Linear(nn.Module):
    """Linear attention: weights phi(q) phi(k) with phi = elu + 1, over their sum; nothing is forgotten.

    Paper: Katharopoulos et al. 2020, arXiv:2006.16236

    A rotation by `position` turns the features of the numerator alone, so that the sum of weights stays positive (Su
    et al. 2021, arXiv:2104.09864, section 3.3); a bias of scores such as alibi has no place here and is not used.

    chunk: tokens that are computed together; changes speed and memory, not the result.
    """

    by_row = True
    scale = 1.0
    """What an init makes of the scores' scale does not apply: weights are sums over their own sum."""

    def __init__(self, shape: Shape, layer: int, *, chunk: Literal[16, 32, 64, 128] = 64) -> None:
        super().__init__()
        if shape.width % shape.heads:
            raise ConfigError(f"scale.width={shape.width} must be a multiple of scale.heads={shape.heads}")
        self.layer, self.heads, self.head_dim, self.chunk = layer, shape.heads, shape.width // shape.heads, chunk
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (
            nn.Linear(shape.width, shape.width, bias=shape.bias) for _ in range(4)
        )

    def forward(self, x_BTD: Tensor, flow: Flow) -> Tensor:
        state = flow.state("attention", Recurrence)
        runs_BT = None if flow.documents_BT is None else runs(flow.documents_BT)
        q_BHTK, k_BHTK, v_BHTV = (
            project(x_BTD).float().unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        q_BHTK, k_BHTK = F.elu(q_BHTK) + 1, F.elu(k_BHTK) + 1
        turned = flow.position.at(flow.layer).rotate(q_BHTK, k_BHTK, flow.positions_T)
        ones_BHT1 = torch.ones_like(v_BHTV[..., :1])
        read, kept = [], {}
        for name, q, k, v in (("memory", *turned, v_BHTV), ("weights", q_BHTK, k_BHTK, ones_BHT1)):
            before = None if state is None else state.get(name)
            y, kept[name] = recurrence(q, k, v, chunk=self.chunk, state_BHKV=before, runs_BT=runs_BT)
            read.append(y)
        if state is not None:
            state.keep(x_BTD.shape[1], **kept)
        y_BHTV = read[0] / (read[1] + EPS)
        out_BTD: Tensor = self.o_proj(y_BHTV.transpose(1, 2).flatten(2).to(self.o_proj.weight.dtype))
        return out_BTD

    def flops_per_token(self, context: int) -> float:
        """Forward matmul FLOPs of a token: its projections, writing and reading of the state, at every context."""
        return 2 * (4 * self.q_proj.weight.numel() + 2 * self.heads * self.head_dim * (self.head_dim + 1))

    def extra_repr(self) -> str:
        return f"heads={self.heads}, head_dim={self.head_dim}, chunk={self.chunk}"


@register("attention", "retention")
class Retention(RecurrentMixer):
    """Retention (RetNet): linear attention in which head h forgets 2^(-5-h) of its memory at every token.

    Paper: Sun et al. 2023, arXiv:2307.08621

    What is read passes an RMS norm by head without a gain (the authors' form of the paper's group norm), then a SiLU
    gate. position=rope is the rotation of the paper; a bias of scores such as alibi has no place here and is not used.

    expand_v: width of all values, as a multiple of the model's.
    """

    def __init__(self, shape: Shape, layer: int, *, expand_v: PositiveFloat = 2.0, **options: Any) -> None:
        super().__init__(shape, layer, None, 1.0, expand_v, gain=False, **options)
        self.gate_proj = nn.Linear(shape.width, self.value_width, bias=shape.bias)
        self.register_buffer("log_decay_H", torch.log1p(-torch.exp2(-5.0 - torch.arange(shape.heads))))

    def place(self, q_BTHK: Tensor, k_BTHK: Tensor, flow: Flow) -> tuple[Tensor, Tensor]:
        q_BHTK, k_BHTK = flow.position.at(flow.layer).rotate(
            q_BTHK.transpose(1, 2), k_BTHK.transpose(1, 2), flow.positions_T
        )
        return q_BHTK * self.key_dim**-0.5, k_BHTK

    def gates(self, x_BTD: Tensor) -> Gates:
        log_decay_H: Tensor = self.get_buffer("log_decay_H")
        return Gates(log_decay_H[None, :, None].expand(1, -1, x_BTD.shape[1]))

    def gate(self, y_BTHV: Tensor, x_BTD: Tensor) -> Tensor:
        return y_BTHV * F.silu(self.gate_proj(x_BTD).float()).view_as(y_BTHV)


@register("attention", "gla")
class GatedLinear(RecurrentMixer):
    """Gated linear attention: each channel of the memory fades at a rate that the token sets.

    Paper: Yang et al. 2023, arXiv:2312.06635

    The decay of a channel is sigmoid(a x + b)^(1 / temperature), a of low rank. What is read passes an RMS norm by
    head, then a SiLU gate. Takes no position encoding: neither the rotation nor the bias of `position` is used.

    expand_k: width of all keys, as a multiple of the model's.
    expand_v: width of all values, as a multiple of the model's.
    rank: of the decay's projection.
    temperature: the larger, the slower memories fade.
    """

    def __init__(
        self,
        shape: Shape,
        layer: int,
        *,
        expand_k: PositiveFloat = 0.5,
        expand_v: PositiveFloat = 1.0,
        rank: PositiveInt = 16,
        temperature: PositiveFloat = 16.0,
        **options: Any,
    ) -> None:
        super().__init__(shape, layer, None, expand_k, expand_v, eps=1e-5, **options)
        self.temperature = temperature
        self.init_roles = {"decay_up.weight": "fixed_input"}
        self.decay_down = nn.Linear(shape.width, rank, bias=False)
        self.decay_up = nn.Linear(rank, self.key_width)
        self.gate_proj = nn.Linear(shape.width, self.value_width, bias=shape.bias)

    def place(self, q_BTHK: Tensor, k_BTHK: Tensor, flow: Flow) -> tuple[Tensor, Tensor]:
        return self.per_value_head(q_BTHK * self.key_dim**-0.5), self.per_value_head(k_BTHK)

    def gates(self, x_BTD: Tensor) -> Gates:
        log_decay_BTE = F.logsigmoid(self.decay_up(self.decay_down(x_BTD)).float()) / self.temperature
        return Gates(log_decay_BTE.unflatten(-1, (self.heads, -1)).transpose(1, 2))

    def gate(self, y_BTHV: Tensor, x_BTD: Tensor) -> Tensor:
        return y_BTHV * F.silu(self.gate_proj(x_BTD).float()).view_as(y_BTHV)
