"""Mixers under the delta rule: a token replaces what its key recalls. Constructor: (shape, layer, *, options).

Shape letters as in _recurrent.py. None of them takes a position encoding: decays, short convolutions and the order of
writing place the tokens, and the rotation or bias of `position` is not used. Embeddings of position act before them.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt_lab.options import PositiveFloat, PositiveInt
from gpt_lab.parts.attention.recurrent._recurrent import Gates, RecurrentMixer, log_rates, step_biases
from gpt_lab.parts.base import Flow, Shape
from gpt_lab.registry import register


class _DeltaRule(RecurrentMixer):
    """Short convolutions, queries and keys of length 1, and a step beta for each head.

    conv: taps of the short convolutions over queries, keys and values.
    """

    reads_per_token = 3

    def __init__(
        self,
        shape: Shape,
        layer: int,
        key_heads: int | None = None,
        expand_k: float = 1.0,
        expand_v: float = 1.0,
        eps: float = 1e-6,
        *,
        conv: PositiveInt = 4,
        **options: Any,
    ) -> None:
        super().__init__(shape, layer, key_heads, expand_k, expand_v, conv, eps, **options)
        self.beta_proj = nn.Linear(shape.width, shape.heads, bias=False)

    def place(self, q_BTHK: Tensor, k_BTHK: Tensor, flow: Flow) -> tuple[Tensor, Tensor]:
        return self.unit(q_BTHK, k_BTHK)

    def beta(self, x_BTD: Tensor) -> Tensor:
        """The share of a memory that is replaced, (B, H, T)."""
        return self.beta_proj(x_BTD).float().sigmoid().transpose(1, 2)


@register("attention", "delta")
class DeltaNet(_DeltaRule):
    """DeltaNet: linear attention whose tokens replace what their keys recall; nothing fades by itself.

    Paper: Yang et al. 2024, arXiv:2406.06484

    Short convolutions with SiLU, queries and keys of length 1, RMS norm of what is read, by head. Takes no position
    encoding.

    expand_v: width of all values, as a multiple of the model's.
    negative_eigenvalues: beta in (0, 2) instead of (0, 1), so that a memory can change its sign (Grazzi et al. 2024,
        arXiv:2411.12537).
    """

    def __init__(
        self,
        shape: Shape,
        layer: int,
        *,
        expand_v: PositiveFloat = 1.0,
        negative_eigenvalues: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(shape, layer, None, 1.0, expand_v, **options)
        self.negative_eigenvalues = negative_eigenvalues

    def gates(self, x_BTD: Tensor) -> Gates:
        beta_BHT = self.beta(x_BTD)
        return Gates(None, 2 * beta_BHT if self.negative_eigenvalues else beta_BHT)


@register("attention", "gated_deltanet")
class GatedDeltaNet(_DeltaRule):
    """Gated DeltaNet: the delta rule on a memory that fades, each head at a rate that the token sets (Qwen3-Next).

    Paper: Yang et al. 2024, arXiv:2412.06464

    The decay of a head is exp(-A softplus(a x + dt)): A begins uniform in (0, 16), softplus(dt) log-uniform in (0.001,
    0.1), as in the paper; Qwen3-Next's dt begins at 1, where a memory lasts a token or two. What is read passes an RMS
    norm by head, then a SiLU gate. Takes no position encoding. Equal to Qwen3-Next's layer with its sizes: expand_k=2,
    expand_v=2 and key_heads half of the heads.

    expand_k: width of all keys, as a multiple of the model's, at as many key heads as heads.
    expand_v: width of all values, as a multiple of the model's.
    key_heads: heads of queries and keys, which value heads share; must divide scale.heads; null: as many.
    """

    def __init__(
        self,
        shape: Shape,
        layer: int,
        *,
        expand_k: PositiveFloat = 1.0,
        expand_v: PositiveFloat = 1.0,
        key_heads: PositiveInt | None = None,
        **options: Any,
    ) -> None:
        super().__init__(shape, layer, key_heads, expand_k, expand_v, **options)
        self.decay_proj = nn.Linear(shape.width, shape.heads, bias=False)
        self.gate_proj = nn.Linear(shape.width, self.value_width, bias=shape.bias)
        self.a_log = nn.Parameter(torch.zeros(shape.heads))
        self.dt = nn.Parameter(torch.zeros(shape.heads))

    def draw(self, name: str, generator: torch.Generator) -> Tensor | None:
        """Initial values of the decay's rates."""
        return _rates(name, self.get_parameter(name), generator, 0.01)

    def gates(self, x_BTD: Tensor) -> Gates:
        steps_BTH = F.softplus(self.decay_proj(x_BTD).float() + self.dt)
        return Gates((-self.a_log.float().exp() * steps_BTH).transpose(1, 2), self.beta(x_BTD))

    def gate(self, y_BTHV: Tensor, x_BTD: Tensor) -> Tensor:
        return y_BTHV * F.silu(self.gate_proj(x_BTD).float()).view_as(y_BTHV)


@register("attention", "kda")
class KimiDelta(_DeltaRule):
    """Kimi Delta Attention: the delta rule on a memory whose every channel fades at its own rate.

    Paper: Kimi Team 2025, arXiv:2510.26692

    The decay of a channel is exp(-A softplus(a x + dt)), a of low rank, A for each head begins uniform in (1, 16),
    softplus(dt) log-uniform in (0.001, 0.1). What is read passes an RMS norm by head, then a sigmoid gate of low rank.
    Takes no position encoding.

    rank: of decay and output gate; null: the head dimension.
    """

    scale = None
    """The larger the head, the less is read; the norm's eps is not small beside that of 100 dimensions."""

    def __init__(self, shape: Shape, layer: int, *, rank: PositiveInt | None = None, **options: Any) -> None:
        super().__init__(shape, layer, None, 1.0, 1.0, eps=1e-5, **options)
        inner = self.key_dim if rank is None else rank
        self.init_roles = dict.fromkeys(
            ("decay_up.weight", "gate_up.weight"), "head_input" if rank is None else "fixed_input"
        )
        self.decay_down = nn.Linear(shape.width, inner, bias=False)
        self.decay_up = nn.Linear(inner, self.key_width, bias=False)
        self.gate_down = nn.Linear(shape.width, inner, bias=False)
        self.gate_up = nn.Linear(inner, self.value_width, bias=False)
        self.a_log = nn.Parameter(torch.zeros(shape.heads))
        self.dt = nn.Parameter(torch.zeros(self.key_width))

    def draw(self, name: str, generator: torch.Generator) -> Tensor | None:
        """Initial values of the decay's rates."""
        return _rates(name, self.get_parameter(name), generator, 1.0)

    def gates(self, x_BTD: Tensor) -> Gates:
        steps_BTHK = F.softplus(self.decay_up(self.decay_down(x_BTD)).float() + self.dt).unflatten(
            -1, (-1, self.key_dim)
        )
        return Gates((-self.a_log.float().exp()[:, None] * steps_BTHK).transpose(1, 2), self.beta(x_BTD))

    def gate(self, y_BTHV: Tensor, x_BTD: Tensor) -> Tensor:
        return y_BTHV * self.gate_up(self.gate_down(x_BTD)).float().sigmoid().view_as(y_BTHV)


def _rates(name: str, parameter: Tensor, generator: torch.Generator, slowest: float) -> Tensor | None:
    """Initial values of what the decay is made of: a rate up to 16, a step in (0.001, 0.1)."""
    if name == "a_log":
        return log_rates(parameter.shape, generator, slowest)
    return step_biases(parameter.shape, generator) if name == "dt" else None
