"""Blocks that attend over the outputs of earlier blocks, at each token by itself. Constructor: (shape, layer,
attention, mlp, make_norm, *, options); forward: Sources, Flow -> Sources.

Shape letters as in parts/base.py; S sources.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt_lab.options import PositiveInt
from gpt_lab.parts.base import Flow, Shape
from gpt_lab.parts.residual.base import Block, MakeNorm, Streams, norm_for
from gpt_lab.registry import register

EPS = 1e-6


class Sources(NamedTuple):
    """What there is to attend to, each (B, T, D).

    Fields:
        whole: the embeddings, then the outputs of branches or the sums of blocks.
        open: the sum of the block that goes on; None: none does.
    """

    whole: tuple[Tensor, ...]
    open: Tensor | None = None

    def every(self) -> tuple[Tensor, ...]:
        return self.whole if self.open is None else (*self.whole, self.open)


class DepthAttention(nn.Module):
    """The mean of the sources, weighted by a softmax of the products of a learned query and the RMS-normed sources.

    In fp32. The query begins at 0: all weigh alike.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, 1, bias=False)

    def draw(self, name: str, generator: torch.Generator) -> Tensor:
        """Zeros."""
        return torch.zeros_like(self.query.weight)

    def forward(self, sources: Sequence[Tensor]) -> Tensor:
        with torch.autocast(sources[0].device.type, enabled=False):
            # the source itself times the query, then its length: no normed copy of each source is kept
            scores_BTS = torch.cat([self._score(source.float()) for source in sources], dim=-1)
            weights = scores_BTS.softmax(-1).unsqueeze(-1).unbind(-2)
            mean_BTD = sources[0] * weights[0]
            for source, weight in zip(sources[1:], weights[1:], strict=True):
                mean_BTD = torch.addcmul(mean_BTD, source.to(mean_BTD.dtype), weight)
        return mean_BTD

    def _score(self, source_BTD: Tensor) -> Tensor:
        inverse_BT1 = torch.rsqrt(source_BTD.square().mean(-1, keepdim=True) + EPS)
        return F.linear(source_BTD, self.query.weight.float()) * inverse_BT1


class _Depth(Streams):
    """The first source is the embeddings; the head reads a mean of all sources, with a query of its own."""

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.width, self.count = width, count
        self.pick = DepthAttention(width) if count > 1 else None

    def enter(self, x_BTD: Tensor, flow: Flow) -> Sources:
        return Sources((x_BTD,))

    def leave(self, stream: Sources, flow: Flow) -> Tensor:
        return stream.whole[0] if self.pick is None else self.pick(stream.every())

    def flops_per_token(self, context: int) -> float:
        """Forward matmul FLOPs of a token: the scores."""
        return _flops(self.width, self.count)


@register("residual", "attention_residuals")
class AttentionResiduals(Block):
    """No sum of all that came before: each branch reads a mean of earlier outputs, by attention over depth.

    Paper: Kimi Team 2026, arXiv:2603.15031

    Branch l reads the sum over i < l of a_i v_i, where v_0 are the embeddings, v_i the output of branch i, and a the
    softmax over i of w_l . RMSNorm(v_i): w_l is a learned vector (pseudo-query), 0 at first, so that the model begins
    with plain means. That is the paper's, and so is `size`: blocks of layers, with the sum of the block so far as the
    last source. From its pseudocode the norm's gain is left out, as w_l can hold it. That the head, too, reads such a
    mean, of all sources, is this lab's reading of it. A branch whose only source is the embeddings has no query.
    Branches read norm(mean), as in residual=pre. The weighted sum, like any residual sum, is not counted among the
    FLOPs of matrix products; the scores are.

    size: layers of a block, whose branches' outputs are added up to one source; null: every output is a source, and
        the time that the means take grows with the square of the depth. The paper has about 8 blocks in a model.
    """

    def __init__(
        self,
        shape: Shape,
        layer: int,
        attention: nn.Module,
        mlp: nn.Module,
        make_norm: MakeNorm,
        *,
        size: PositiveInt | None = None,
    ) -> None:
        super().__init__(shape, layer, attention, mlp)
        self.width, self.layer, self.size = shape.width, layer, size
        self.attention_norm, self.mlp_norm = (norm_for(branch, shape, make_norm) for branch in (attention, mlp))
        self.counts = [0, 0]
        """Sources of each branch; 0 of one that is absent."""
        self.left = 1, False
        """Whole sources behind this block, and whether one is open."""

    def join(self, init: Any, earlier: Sequence[Any]) -> None:
        whole, is_open = earlier[-1].left if earlier else self.left
        if self.begins and is_open:
            whole, is_open = whole + 1, False
        for place, branch in enumerate((self.attention, self.mlp)):
            if getattr(branch, "absent", False):
                continue
            self.counts[place] = whole + is_open
            whole, is_open = (whole + 1, False) if self.size is None else (whole, True)
        self.left = whole, is_open
        self.attention_pick, self.mlp_pick = (
            DepthAttention(self.width) if count > 1 else None for count in self.counts
        )

    @property
    def begins(self) -> bool:
        """Whether a block of layers begins here."""
        return self.size is not None and self.layer % self.size == 0

    def streams(self, shape: Shape) -> Streams:
        return _Depth(shape.width, sum(self.left))

    def forward(self, stream: Sources, flow: Flow) -> Sources:
        if self.begins:
            stream = Sources(stream.every())
        for count, pick, norm, branch in (
            (self.counts[0], self.attention_pick, self.attention_norm, self.attend),
            (self.counts[1], self.mlp_pick, self.mlp_norm, self.feed),
        ):
            if not count:
                continue
            read_BTD = stream.whole[0] if pick is None else pick(stream.every())
            # of one type with the embeddings, or every mean would keep a copy of each source in fp32
            y_BTD = branch(norm(read_BTD), flow).to(read_BTD.dtype)
            if self.size is None:
                stream = Sources((*stream.whole, y_BTD))
            else:
                stream = Sources(stream.whole, y_BTD if stream.open is None else stream.open + y_BTD)
        return stream

    def flops_per_token(self, context: int) -> float:
        """Forward matmul FLOPs of a token: the scores."""
        return sum(_flops(self.width, count) for count in self.counts)


def _flops(width: int, count: int) -> float:
    return 2 * width * count if count > 1 else 0
