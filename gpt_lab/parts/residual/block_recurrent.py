"""A memory that crosses blocks of tokens, beside attention. Constructor and forward as in single_stream.py.

Shape letters as in parts/base.py; L tokens of a block, J blocks, M state vectors of the memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gpt_lab.errors import ConfigError
from gpt_lab.options import NonNegativeInt, PositiveInt
from gpt_lab.parts.base import Flow, Shape
from gpt_lab.parts.dropout import KeyedDropout
from gpt_lab.parts.residual.base import MakeNorm
from gpt_lab.parts.residual.single_stream import PreNorm
from gpt_lab.parts.states import Recurrence
from gpt_lab.registry import register

HIDDEN = -1e9


class Memory(nn.Module):
    """M vectors that read a block of tokens when it ends, and that the tokens of the next block read.

    forward: normed (B, T, D), Flow -> what the tokens read, (B, T, D). Blocks go by position: the tokens at 0 to L - 1
    are the first. A document begins with the initial vectors, and nothing of another enters them.

    Attributes:
        scale: factor of all scores.
    """

    def __init__(self, shape: Shape, size: int, count: int, make_norm: MakeNorm) -> None:
        super().__init__()
        self.heads, self.width, self.size, self.count = shape.heads, shape.width, size, count
        self.head_dim = shape.width // shape.heads
        self.scale: float = self.head_dim**-0.5
        self.q_proj = nn.Linear(shape.width, shape.width, bias=False)
        self.kv_proj = nn.Linear(shape.width, 2 * shape.width, bias=False)
        self.state_norm = make_norm(shape.width)
        self.state_proj = nn.Linear(shape.width, 4 * shape.width, bias=False)
        self.mix_proj = nn.Linear(2 * shape.width, shape.width, bias=False)
        self.o_proj = nn.Linear(shape.width, shape.width, bias=False)
        self.initial = nn.Parameter(torch.zeros(count * shape.width))
        self.ids = nn.Parameter(torch.zeros(count * shape.width))
        self.gate = nn.Parameter(torch.ones(shape.width))

    def draw(self, name: str, generator: torch.Generator) -> Tensor | None:
        """The initial vectors and what tells them apart: standard normal."""
        drawn = name in ("initial", "ids")
        return torch.empty(self.initial.shape).normal_(generator=generator) if drawn else None

    def forward(self, x_BTD: Tensor, flow: Flow) -> Tensor:
        q_BTD, (k_BTD, v_BTD) = self.q_proj(x_BTD), self.kv_proj(x_BTD).chunk(2, dim=-1)
        state = flow.state("memory", Recurrence)
        if state is None:
            y_BTD = self._all_at_once(q_BTD, k_BTD, v_BTD, flow)
        else:
            y_BTD = self._in_pieces(q_BTD, k_BTD, v_BTD, state)
        out_BTD: Tensor = self.o_proj(y_BTD)
        return out_BTD

    def _all_at_once(self, q_BTD: Tensor, k_BTD: Tensor, v_BTD: Tensor, flow: Flow) -> Tensor:
        """Block after block for the memory, all tokens together for what they read.

        Nothing depends on the value of a position but indices, so that shapes are known: there may be an empty block.
        """
        rows, length, _ = q_BTD.shape
        phase = flow.positions_T[0] % self.size
        blocks = (length + self.size - 2) // self.size + 1
        slot_N = torch.arange(blocks * self.size, device=q_BTD.device) - phase
        is_token_JL = ((slot_N >= 0) & (slot_N < length)).view(blocks, self.size)
        place_N = slot_N.clamp(0, length - 1)
        q, k, v = (t.index_select(1, place_N).unflatten(1, (blocks, self.size)) for t in (q_BTD, k_BTD, v_BTD))
        documents_BT, last_BJ, document_BJL = flow.documents_BT, None, None
        if documents_BT is not None:
            last_BJ = documents_BT[:, place_N.view(blocks, self.size)[:, -1]]
            document_BJL = documents_BT[:, place_N].unflatten(1, (blocks, self.size))
        first = memory = self._first(rows)
        found = [first[1]]
        for block in range(blocks - 1):
            seen_BL = is_token_JL[block].expand(rows, -1)
            if last_BJ is not None and document_BJL is not None:
                if block:
                    same_B11 = (last_BJ[:, block] == last_BJ[:, block - 1])[:, None, None]
                    memory = torch.where(same_B11, memory[0], first[0]), torch.where(same_B11, memory[1], first[1])
                seen_BL = seen_BL & (document_BJL[:, block] == last_BJ[:, block, None])
            memory = self._after(memory, k[:, block], v[:, block], seen_BL)
            found.append(memory[1])
        keys, values = torch.stack(found, 1).chunk(4, dim=-1)[2:]
        hidden = None
        if last_BJ is not None and document_BJL is not None:
            # of the block before, in the same document: its memory; else the initial one
            same_BJL = document_BJL == last_BJ.roll(1, 1).unsqueeze(-1)
            same_BJL = same_BJL & (torch.arange(blocks, device=q.device) > 0).unsqueeze(-1)
            start_k, start_v = (t.unsqueeze(1).expand_as(keys) for t in first[1].chunk(4, dim=-1)[2:])
            keys, values = torch.cat((keys, start_k), 2), torch.cat((values, start_v), 2)
            hidden = torch.stack((~same_BJL, same_BJL), -1).repeat_interleave(self.count, -1).unsqueeze(2)
        y_BND = self._attend(q, keys, values, hidden).flatten(1, 2)
        return y_BND.index_select(1, phase + torch.arange(length, device=q.device))

    def _in_pieces(self, q_BTD: Tensor, k_BTD: Tensor, v_BTD: Tensor, state: Recurrence) -> Tensor:
        """From what is kept: the memory before the block that goes on, and the keys and values of its tokens so far."""
        rows, length, width = q_BTD.shape
        held = state.seen % self.size
        vectors, projected, kept = state.get("vectors"), state.get("projected"), state.get("block")
        if vectors is None or projected is None or kept is None:
            vectors, projected = self._first(rows)
            kept = k_BTD.new_zeros(rows, self.size, 2 * width)
        kv_BND = torch.cat((kept[:, :held], torch.cat((k_BTD, v_BTD), -1)), 1)
        found = []
        for start in range(0, held + length, self.size):
            q = q_BTD[:, max(start - held, 0) : start + self.size - held]
            found.append(self._attend(q, *projected.chunk(4, dim=-1)[2:]))
            block = kv_BND[:, start : start + self.size]
            if block.shape[1] == self.size:
                vectors, projected = self._after((vectors, projected), *block.chunk(2, dim=-1))
        over = kv_BND[:, (held + length) // self.size * self.size :]
        kept = torch.cat((over, kept[:, over.shape[1] :].to(over.dtype)), 1)
        state.keep(length, vectors=vectors, projected=projected, block=kept)
        return torch.cat(found, 1)

    def _first(self, rows: int) -> tuple[Tensor, Tensor]:
        """The memory before any token: its vectors (B, M, D), and what they are projected to, (B, M, 4 D)."""
        vectors = self.initial.view(1, self.count, self.width).expand(rows, -1, -1)
        return vectors, self._projected(vectors)

    def _projected(self, vectors_BMD: Tensor) -> Tensor:
        """Queries for themselves, queries for tokens, keys and values, side by side."""
        out: Tensor = self.state_proj(self.state_norm(vectors_BMD + self.ids.view(self.count, self.width)))
        return out

    def _after(
        self, memory: tuple[Tensor, Tensor], k_BLD: Tensor, v_BLD: Tensor, seen_BL: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The memory when a block has ended: each vector attends to all of them and to the block, and fades."""
        vectors, projected = memory
        own_q, token_q, own_k, own_v = projected.chunk(4, dim=-1)
        hidden = None if seen_BL is None else ~seen_BL[:, None, None]
        read = (self._attend(own_q, own_k, own_v), self._attend(token_q, k_BLD, v_BLD, hidden))
        gate = self.gate.float().sigmoid()
        vectors = vectors * gate + self.mix_proj(torch.cat(read, -1)) * (1 - gate)
        return vectors, self._projected(vectors)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, hidden: Tensor | None = None) -> Tensor:
        """Multi-head softmax attention, (..., T, D) to (..., S, D); hidden: bool, (..., 1, T or 1, S)."""
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(-2, -3) for t in (q, k, v))
        scores = q @ (self.scale * k).transpose(-1, -2)
        if hidden is not None:
            scores = scores.masked_fill(hidden, HIDDEN)
        return (scores.softmax(-1).to(v.dtype) @ v).transpose(-2, -3).flatten(-2)

    def flops_of(self, context: int) -> float:
        """Forward matmul FLOPs of a token, averaged over a sequence of `context` tokens from position 0."""
        ended, width = context // self.size, self.width
        token = 2 * 4 * width**2 + 4 * self.count * width
        update = 2 * self.count * 2 * width**2 + 4 * self.count * (self.count + self.size) * width
        return token + (ended * update + (1 + ended) * 2 * self.count * 4 * width**2) / context


@register("residual", "block_recurrent")
class BlockRecurrent(PreNorm):
    """Pre-norm with a memory in one layer: a few vectors that read each block of tokens, and that the next block reads.

    Paper: Hutchins et al. 2022, arXiv:2203.07852

    The paper's recurrent layer with its fixed gate and without the vectors' MLP (skip): at the end of a block each
    vector attends to all of them and to the block's tokens, both are projected to one, and s becomes g s + (1 - g) of
    that, g learned by channel. A token reads the vectors as they were when its block began, with queries of its own,
    beside what attention reads: x + attention(norm(x)) + memory(norm(x)). Attention itself is the model's (the paper's
    slides over two blocks: attention=sliding), and the tokens' keys and values for the memory are not attention's but
    projected anew. Gradients go through all blocks of a row; nothing is kept from one row to the next. Blocks go by
    position, not by document; a document that begins inside one begins with the initial vectors. They are not decayed.

    block: tokens of a block; null: a quarter of the training context.
    vectors: of the memory; the paper has 512 for blocks of 512.
    at: the layer with the memory, from 0; null: three quarters of the way up, as in the paper (the tenth of twelve).
    """

    by_row = False

    def __init__(
        self,
        shape: Shape,
        layer: int,
        attention: nn.Module,
        mlp: nn.Module,
        make_norm: MakeNorm,
        *,
        block: PositiveInt | None = None,
        vectors: PositiveInt = 16,
        at: NonNegativeInt | None = None,
    ) -> None:
        super().__init__(shape, layer, attention, mlp, make_norm)
        chosen = 3 * shape.depth // 4 if at is None else at
        if chosen >= shape.depth:
            raise ConfigError(f"residual.at={chosen}: there are {shape.depth} layers (scale.depth), counted from 0")
        size = max(1, shape.context // 4) if block is None else block
        self.memory_norm = make_norm(shape.width) if layer == chosen else None
        self.memory = Memory(shape, size, vectors, make_norm) if layer == chosen else None
        # the mask of attention's output, which the sum of both passes
        self.memory_dropout = KeyedDropout(shape.dropout, "attention_out") if layer == chosen else None

    def join(self, init: Any, earlier: Sequence[Any]) -> None:
        if self.memory is not None:
            self.memory.scale = init.attention_scale(self.memory.head_dim)

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        y = x + self.attend(self.attention_norm(x), flow)
        if self.memory is not None and self.memory_norm is not None and self.memory_dropout is not None:
            y = y + self.memory_dropout(self.memory(self.memory_norm(x), flow), flow.keys_B, flow.layer)
        return y + self.feed(self.mlp_norm(y), flow)

    def flops_per_token(self, context: int) -> float:
        """Forward matmul FLOPs of a token, averaged over a sequence of `context` tokens: those of the memory."""
        return 0 if self.memory is None else self.memory.flops_of(context)
