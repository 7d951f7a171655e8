"""Layers with a Transformer block that several of them share. Constructor as in base.py; the stream is a `Stream`.

Shape letters as in parts/base.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt_lab.errors import ConfigError
from gpt_lab.options import NonEmpty, PositiveInt
from gpt_lab.parts.attention.softmax import SelfAttention
from gpt_lab.parts.base import Flow, Shape
from gpt_lab.parts.residual.base import Block, MakeNorm, Streams, norm_for
from gpt_lab.parts.states import KeyValues
from gpt_lab.registry import register


class Stream(NamedTuple):
    """The residual stream (B, T, D), and the shared blocks, which layers find here."""

    x_BTD: Tensor
    shared: Sequence[nn.Module]


class _WideAttention(SelfAttention):
    """Causal attention that reads twice the model's width and gives the width; heads are twice as wide, too."""

    def __init__(self, shape: Shape) -> None:
        super().__init__(replace(shape, width=2 * shape.width), 0)
        self.o_proj = nn.Linear(2 * shape.width, shape.width, bias=shape.bias)
        self.scale = (self.head_dim / 2) ** -0.5  # Zamba's

    def remember(self, k_BGTK: Tensor, v_BGTV: Tensor, flow: Flow) -> tuple[Tensor, Tensor, Tensor | None]:
        # the layer's own attention has the site of that name
        state = flow.state("shared_attention", KeyValues)
        return (k_BGTK, v_BGTV, None) if state is None else state.update(k_BGTK, v_BGTV, flow.positions_T)


class SharedBlock(nn.Module):
    """mlp(norm(attention(norm([x, x0])))), without a residual stream of its own; each use adapts the MLP by low rank.

    Args:
        uses: how many layers use it.
        rank: of the adapters.
        d_ff: hidden width of the gated MLP.
    """

    def __init__(self, shape: Shape, make_norm: MakeNorm, uses: int, rank: int, d_ff: int) -> None:
        super().__init__()
        self.attention_norm, self.mlp_norm = make_norm(2 * shape.width), make_norm(shape.width)
        self.attention = _WideAttention(shape)
        self.gate_up_proj = nn.Linear(shape.width, 2 * d_ff, bias=shape.bias)
        self.down_proj = nn.Linear(d_ff, shape.width, bias=shape.bias)
        self.adapters = nn.ModuleList(
            nn.ModuleDict(
                {"down": nn.Linear(shape.width, rank, bias=False), "up": nn.Linear(rank, 2 * d_ff, bias=False)}
            )
            for _ in range(uses)
        )

    def forward(self, x_BTD: Tensor, first_BTD: Tensor, use: int, flow: Flow) -> Tensor:
        """What the block makes of the stream and the embeddings, (B, T, D).

        Args:
            use: which of its uses this is, from 0.
        """
        y_BTD = self.mlp_norm(self.attention(self.attention_norm(torch.cat((x_BTD, first_BTD), dim=-1)), flow))
        adapter = self.adapters[use]
        assert isinstance(adapter, nn.ModuleDict)
        gate, up = (self.gate_up_proj(y_BTD) + adapter["up"](adapter["down"](y_BTD))).chunk(2, dim=-1)
        out_BTD: Tensor = self.down_proj(F.gelu(gate) * up)
        return out_BTD

    def flops_per_token(self, context: int) -> float:
        """Forward matmul FLOPs of a token, of all its uses."""
        once = self.attention.flops_per_token(context) + 2 * (
            self.gate_up_proj.weight.numel() + self.down_proj.weight.numel()
        )
        return len(self.adapters) * once + 2 * sum(parameter.numel() for parameter in self.adapters.parameters())


class SharedBlocks(Streams):
    """The shared blocks, which take turns."""

    def __init__(self, blocks: Sequence[SharedBlock]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def enter(self, x_BTD: Tensor, flow: Flow) -> Stream:
        return Stream(x_BTD, list(self.blocks))

    def leave(self, stream: Stream, flow: Flow) -> Tensor:
        return stream.x_BTD


@register("residual", "zamba2")
class Zamba2(Block):
    """Pre-norm layers, some of which also read what a Transformer block that they share makes of stream and embeddings.

    Paper: Glorioso et al. 2024, arXiv:2411.15242

    A layer of letter H is x + attention(norm(x + proj(shared([x, x0])))), with x0 the embeddings and proj its own; one
    of letter M lacks the shared part. The shared block is softmax attention of twice the width, then a GEGLU MLP, each
    after a norm; it has no residual stream, and each of its uses has adapters of low rank in the MLP. attention=mamba2
    and mlp=none are the layers of the paper; an MLP follows them as in pre. The rotation of `position` acts on the
    shared attention, model.dropout on the layers' own branches. As in the released 2.7B and 7B models: without adapters
    in the attention, which the 1.2B model has.

    pattern: a letter a layer, M or H, repeated over the layers.
    blocks: shared blocks, which take turns; the layers of letter H must be as many at least.
    rank: of the adapters.
    d_ff: hidden width of the shared MLP; null: 4 x scale.width.
    """

    def __init__(
        self,
        shape: Shape,
        layer: int,
        attention: nn.Module,
        mlp: nn.Module,
        make_norm: MakeNorm,
        *,
        pattern: NonEmpty = "MH",
        blocks: PositiveInt = 1,
        rank: PositiveInt = 128,
        d_ff: PositiveInt | None = None,
    ) -> None:
        super().__init__(shape, layer, attention, mlp)
        if set(pattern) - set("MH"):
            raise ConfigError(f"residual.pattern={pattern} must be of the letters M and H, one a layer")
        letters = [pattern[place % len(pattern)] for place in range(shape.depth)]
        self.uses, self.turns = letters.count("H"), blocks
        if self.uses < blocks:
            raise ConfigError(
                f"residual.pattern={pattern} has {self.uses} layers of letter H in scale.depth={shape.depth}, fewer "
                f"than residual.blocks={blocks}: use fewer blocks, or a pattern with more H"
            )
        self.use = letters[:layer].count("H") if letters[layer] == "H" else None
        self.attention_norm = norm_for(attention, shape, make_norm)
        self.mlp_norm = norm_for(mlp, shape, make_norm)
        if self.use is not None:
            self.shared_proj = nn.Linear(shape.width, shape.width, bias=False)
        self._make_norm, self._rank, self._d_ff = make_norm, rank, d_ff or 4 * shape.width

    def streams(self, shape: Shape) -> Streams:
        return SharedBlocks(
            [
                SharedBlock(shape, self._make_norm, len(range(turn, self.uses, self.turns)), self._rank, self._d_ff)
                for turn in range(self.turns)
            ]
        )

    def forward(self, stream: Stream, flow: Flow) -> Stream:
        x = read = stream.x_BTD
        if self.use is not None:
            assert flow.shared is not None, "a pass through the model carries it"
            made = stream.shared[self.use % self.turns](x, flow.shared["x0"], self.use // self.turns, flow)
            read = x + self.shared_proj(made)
        x = x + self.attend(self.attention_norm(read), flow)
        return stream._replace(x_BTD=x + self.feed(self.mlp_norm(x), flow))

    def flops_per_token(self, context: int) -> float:
        """Forward matmul FLOPs of a token: of the layer's own projection; the shared blocks count theirs."""
        return 0 if self.use is None else 2 * self.shared_proj.weight.numel()
