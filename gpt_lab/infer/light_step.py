"""One token's step through the commonest models, written out: no modules called, few operations, no mask.

A token's step through a small model is hundreds of calls of microseconds, and half of its time is Python's. A model
that has parts which are not in here reads its tokens itself; both give the same logits up to rounding.

Shapes: B rows, D width, I inputs and O outputs of a matrix, H heads, G key/value heads, K head dimension, S tokens
held, R rotated dimensions, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt_lab.kernels.dense import one_query
from gpt_lab.model.gpt import GPT
from gpt_lab.parts.attention.sliding import Sliding
from gpt_lab.parts.attention.softmax import GroupedQuery, MultiHead, MultiQuery, SelfAttention
from gpt_lab.parts.base import Flow, Position, States
from gpt_lab.parts.mlp import feed_forward
from gpt_lab.parts.norm.layernorm import LayerNorm
from gpt_lab.parts.norm.rmsnorm import RMSNorm
from gpt_lab.parts.position.rope import Rotary, turn
from gpt_lab.parts.residual.single_stream import PreNorm
from gpt_lab.parts.states import KeyValues

ATTENTIONS = (MultiHead, GroupedQuery, MultiQuery, Sliding)
GATED = (feed_forward.SwiGLU, feed_forward.GEGLU, feed_forward.ReGLU)
PLAIN = (feed_forward.ReLU, feed_forward.GELU, feed_forward.GELUTanh, feed_forward.SquaredReLU, feed_forward.SiLU)


class _Matrix(NamedTuple):
    """A linear layer's weight, inputs by outputs, and its bias. It shares their memory."""

    weight_IO: Tensor
    bias_O: Tensor | None

    @classmethod
    def of(cls, layer: nn.Linear) -> _Matrix:
        return cls(layer.weight.detach().t(), layer.bias)

    def times(self, x_BI: Tensor) -> Tensor:
        if self.bias_O is None:
            return torch.mm(x_BI, self.weight_IO)
        return torch.addmm(self.bias_O, x_BI, self.weight_IO)

    def add_to(self, x_BO: Tensor, y_BI: Tensor) -> None:
        """Adds to x, in place, what it makes of y."""
        x_BO.addmm_(y_BI, self.weight_IO)
        if self.bias_O is not None:
            x_BO.add_(self.bias_O)


class _Layer(NamedTuple):
    """What is needed of a block. gate: None: the MLP has none. rotation: number of its rotary encoding, if any."""

    attention: SelfAttention
    position: Position
    rotation: int | None
    attention_norm: RMSNorm | LayerNorm
    qkv: _Matrix
    out: _Matrix
    mlp_norm: RMSNorm | LayerNorm
    gate: _Matrix | None
    up: _Matrix
    down: _Matrix
    activation: Callable[[Tensor], Tensor]


class LightStep:
    """Reads one token of each row, as `GPT.forward` does with states."""

    def __init__(self, model: GPT, layers: Sequence[_Layer], rotations: Sequence[Rotary], eps: float) -> None:
        self._model, self._layers = model, layers
        self._norm: Any = model.norm
        self._waves = [_Waves(rotary) for rotary in rotations]
        self._zero = torch.zeros(())
        self._width = model.shape.width
        self._root = math.sqrt(self._width)
        self._edge = math.sqrt(self._width * eps)
        self._watched = next(iter(model.parameters()))
        self._place = self._watched.data_ptr()

    @classmethod
    def of(cls, model: GPT) -> LightStep | None:
        """That of a model in fp32 on a CPU; None: a part of it is not in here."""
        if any(part._forward_hooks or part._forward_pre_hooks for part in model.modules()):
            return None
        plain = model.streams is None and model.embed_gain is None and model.embed_norm is None
        norms = [part for part in model.modules() if isinstance(part, RMSNorm | LayerNorm)]
        if not plain or len({norm.eps for norm in norms}) != 1 or type(model.norm) not in (RMSNorm, LayerNorm):
            return None
        rotations: list[Rotary] = []
        layers = []
        for depth, block in enumerate(model.layers()):
            position: Any = model.position.at(depth)
            if type(block) is not PreNorm or position.bias_kind != "none":
                return None
            if type(position).rotate is Rotary.rotate and position not in rotations:
                rotations.append(position)
            rotation = rotations.index(position) if position in rotations else None
            if (layer := _layer(block, position, rotation)) is None:
                return None
            layers.append(layer)
        return cls(model, layers, rotations, norms[0].eps)

    @property
    def usable(self) -> bool:
        """Whether the model's weights are still where they were, as the first of them tells."""
        return self._watched.data_ptr() == self._place

    def __call__(self, tokens_B1: Tensor, positions_T: Tensor, furthest: int, states: States) -> Tensor:
        """Logits (B, V) of the token after each.

        Args:
            positions_T: (1,) where all rows are at the same position, else (B, 1); `furthest` is the greatest.
        """
        model, width = self._model, self._width
        x_B1D = F.embedding(tokens_B1, model.embed.weight)
        if model.embed_scale != 1.0:
            x_B1D = x_B1D * model.embed_scale
        x_B1D = model.position.embed(x_B1D, positions_T)
        # the length of (x, sqrt(D eps)) is sqrt(D) times the root mean square that x is to be divided by
        edged_BE = F.pad(x_B1D.flatten(0, 1), (0, 1), value=self._edge)
        x_BD = edged_BE.narrow(1, 0, width)
        flow = Flow(model.position, positions_T, states=states)
        waves = [table.at(positions_T, furthest) for table in self._waves]
        for depth, layer in enumerate(self._layers):
            normed_BD = self._normed(layer.attention_norm, edged_BE, x_BD)
            y_BD = _attended(layer, depth, normed_BD, None if layer.rotation is None else waves[layer.rotation], flow)
            layer.out.add_to(x_BD, y_BD)
            normed_BD = self._normed(layer.mlp_norm, edged_BE, x_BD)
            if layer.gate is None:
                hidden_BF = layer.activation(layer.up.times(normed_BD))
            else:
                hidden_BF = layer.activation(layer.gate.times(normed_BD)).mul_(layer.up.times(normed_BD))
            layer.down.add_to(x_BD, hidden_BF)
        return model.logits(self._normed(self._norm, edged_BE, x_BD))

    def _normed(self, norm: RMSNorm | LayerNorm, edged_BE: Tensor, x_BD: Tensor) -> Tensor:
        if isinstance(norm, LayerNorm):
            return F.layer_norm(x_BD, norm.dim, norm.weight, norm.bias, norm.eps)
        divided_BD = x_BD / torch.linalg.vector_norm(edged_BE, dim=1, keepdim=True)
        if norm.weight is None:
            return divided_BD.mul_(self._root)
        return torch.addcmul(self._zero, divided_BD, norm.weight, value=self._root)


def _layer(block: PreNorm, position: Position, rotation: int | None) -> _Layer | None:
    """None: a part of the block is not in here."""
    attention: Any = block.attention
    mlp: Any = block.mlp
    norms: list[Any] = [block.attention_norm, block.mlp_norm]
    if type(attention) not in ATTENTIONS or type(mlp) not in GATED + PLAIN:
        return None
    changed = attention.qk_norm != "none" or attention.softcap is not None or attention.sinks_H is not None
    linears = [attention.qkv, attention.o_proj, mlp.up_proj, mlp.down_proj]
    linears += [mlp.gate_proj] if type(mlp) in GATED else []
    if changed or not attention.causal or any(type(linear) is not nn.Linear for linear in linears):
        return None
    if any(type(norm) not in (RMSNorm, LayerNorm) for norm in norms):
        return None
    qkv, out, up, down, *gate = [_Matrix.of(linear) for linear in linears]
    return _Layer(
        attention, position, rotation, norms[0], qkv, out, norms[1], gate[0] if gate else None, up, down, mlp.activation
    )


class _Waves:
    """cos and signed sin of a rotary encoding, of as many positions as were asked for."""

    def __init__(self, rotary: Rotary) -> None:
        self._rotary = rotary
        self._cos_SR, self._sin_SR = rotary.cos, rotary.sin

    def at(self, positions_T: Tensor, furthest: int) -> tuple[Tensor, Tensor]:
        """Of these positions, for (B, heads, K): (1, R), or (B, 1, R) of (B, 1)."""
        if furthest >= len(self._cos_SR):
            positions_S = torch.arange(max(furthest + 1, 2 * len(self._cos_SR)))
            self._cos_SR, self._sin_SR = self._rotary.waves(positions_S, torch.float32, self._rotary.head_dim)
        if positions_T.dim() == 1:
            return self._cos_SR.narrow(0, furthest, 1), self._sin_SR.narrow(0, furthest, 1)
        return self._cos_SR[positions_T], self._sin_SR[positions_T]


def _attended(layer: _Layer, depth: int, normed_BD: Tensor, waves: tuple[Tensor, Tensor] | None, flow: Flow) -> Tensor:
    """The heads' values side by side: (B, H K)."""
    attention, states = layer.attention, flow.states
    assert states is not None
    heads, groups, window = attention.heads, attention.kv_heads, attention.window
    batch = normed_BD.shape[0]
    qkv = layer.qkv.times(normed_BD).view(batch, heads + 2 * groups, attention.head_dim)
    if waves is None:
        q_BHK, k_BGK, v_BGK = qkv.split_with_sizes((heads, groups, groups), 1)
        q_BH1K, k_BG1K = layer.position.rotate(q_BHK.unsqueeze(2), k_BGK.unsqueeze(2), flow.positions_T)
    else:
        v_BGK = qkv.narrow(1, heads + groups, groups)
        turned = turn(qkv.narrow(1, 0, heads + groups), *waves).unsqueeze(2)
        q_BH1K, k_BG1K = turned.split_with_sizes((heads, groups), 1)
    state = states.slot(depth, "attention", lambda: KeyValues(window))
    k_BGSK, v_BGSK, positions_k = state.update(k_BG1K, v_BGK.unsqueeze(2), flow.positions_T)
    if flow.positions_T.dim() == 1:  # a state holds nothing that its last token does not see
        y_BH1K = one_query(q_BH1K, k_BGSK, v_BGSK, attention.scale)
    else:
        y_BH1K = attention.weigh(q_BH1K, k_BGSK, v_BGSK, positions_k, flow)
    return y_BH1K.reshape(batch, -1)


def light_step(model: GPT) -> LightStep | None:
    """What reads a single token of each row for a model made light; None: the model does."""
    found: LightStep | None = model.light_step
    return found if found is not None and found.usable else None
