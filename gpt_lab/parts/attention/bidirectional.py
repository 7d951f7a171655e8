"""Attention that is not causal, for models that read whole texts: among the tokens of one, and to those of another.

No option of attention=...: a causal objective's model would read the token that it is to predict, and the probe before
training refuses such a part by name; under one that reads both ways (objective=mlm) attention=mha and others do so by
themselves. Import these for encoders and encoder-decoders of your own. Shape letters as in parts/base.py, S tokens that
are looked at.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from gpt_lab.errors import ConfigError
from gpt_lab.parts.base import Flow, Shape


class Bidirectional(nn.Module):
    """Self-attention in which every token sees all of its document, later ones too, as in BERT.

    Paper: Devlin et al. 2018, arXiv:1810.04805. It is called as any attention is, (B, T, D) and Flow -> (B, T, D), so
    that blocks of parts/residual take it. Padding is a document of its own. Position encodings act that rotate, or on
    embeddings.

    Raises:
        ConfigError: the flow has decoding states, or a position encoding that adds to scores.
    """

    def __init__(self, shape: Shape, layer: int) -> None:
        super().__init__()
        self.heads = shape.heads
        self.qkv = nn.Linear(shape.width, 3 * shape.width, bias=shape.bias)
        self.o_proj = nn.Linear(shape.width, shape.width, bias=shape.bias)

    def forward(self, x_BTD: Tensor, flow: Flow) -> Tensor:
        position, documents_BT = flow.position.at(flow.layer), flow.documents_BT
        if flow.states is not None:
            raise ConfigError("bidirectional attention cannot decode: each new token would change those before it")
        if position.bias_kind != "none":
            raise ConfigError("bidirectional attention adds nothing to its scores: use position=rope or learned")
        q_BHTK, k_BHTK, v_BHTK = (_heads(t, self.heads) for t in self.qkv(x_BTD).chunk(3, dim=-1))
        q_BHTK, k_BHTK = position.rotate(q_BHTK, k_BHTK, flow.positions_T)
        seen = None if documents_BT is None else (documents_BT[:, :, None] == documents_BT[:, None, :])[:, None]
        out_BTD: Tensor = self.o_proj(_weighted(q_BHTK, k_BHTK, v_BHTK, seen))
        return out_BTD


class Cross(nn.Module):
    """Attention of one sequence to another, of any other width and length, as a decoder's to its encoder.

    Paper: Vaswani et al. 2017, arXiv:1706.03762. No position acts on it.

    Args:
        memory_width: of what is looked at; None: scale.width.
    """

    def __init__(self, shape: Shape, layer: int, memory_width: int | None = None) -> None:
        super().__init__()
        self.heads = shape.heads
        self.q_proj = nn.Linear(shape.width, shape.width, bias=shape.bias)
        self.kv_proj = nn.Linear(memory_width or shape.width, 2 * shape.width, bias=shape.bias)
        self.o_proj = nn.Linear(shape.width, shape.width, bias=shape.bias)

    def forward(self, x_BTD: Tensor, memory_BSD: Tensor, seen_BS: Tensor | None = None) -> Tensor:
        """(B, T, D): what x reads of the memory; where `seen_BS` (bool) is false, such as at padding, nothing."""
        k_BHSK, v_BHSK = (_heads(t, self.heads) for t in self.kv_proj(memory_BSD).chunk(2, dim=-1))
        seen = None if seen_BS is None else seen_BS[:, None, None, :]
        out_BTD: Tensor = self.o_proj(_weighted(_heads(self.q_proj(x_BTD), self.heads), k_BHSK, v_BHSK, seen))
        return out_BTD


def _heads(x_BTD: Tensor, heads: int) -> Tensor:
    return x_BTD.unflatten(-1, (heads, -1)).transpose(1, 2)


def _weighted(q_BHTK: Tensor, k_BHSK: Tensor, v_BHSK: Tensor, seen: Tensor | None) -> Tensor:
    return F.scaled_dot_product_attention(q_BHTK, k_BHSK, v_BHSK, attn_mask=seen).transpose(1, 2).flatten(2)
