"""Attention to the keys that an indexer selects. Constructor: (shape, layer, *, options).

Shape letters as in parts/attention/mla.py, and I heads and J dimension of the indexer.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from gpt_lab import kernels
from gpt_lab.errors import ConfigError
from gpt_lab.kernels.base import KeyView, visible
from gpt_lab.kernels.dense import softmax_weights
from gpt_lab.options import PositiveFloat, PositiveInt
from gpt_lab.parts.attention.mla import Latent
from gpt_lab.parts.base import Flow, Shape, keys_seen
from gpt_lab.parts.norm.layernorm import LayerNorm
from gpt_lab.registry import register


@register("attention", "sparse")
class Sparse(Latent):
    """DeepSeek sparse attention: latent attention to the few tokens that a small indexer scores highest.

    Paper: DeepSeek-AI et al. 2025, arXiv:2512.02556 (DeepSeek-V3.2).

    The indexer has small queries, one key a token and weights w of its heads: score(t, s) = sum over heads of w_t
    relu(q_t k_s), of earlier tokens alone. Each query attends to the top_k of them (equal scores: the earlier
    token). Selecting has no gradient: the indexer learns by an auxiliary loss, the divergence of the softmax of its
    scores from the attention's own weights, averaged over heads, and what it reads is detached, so that the loss
    trains nothing else.

    All scores are computed and the unselected hidden, so that it saves no time here; flops_per_token counts what the
    method needs. Decoding keeps the indexer's key beside the latent. Published models read queries, those of the
    indexer too, from a latent (q_rank).

    top_k: keys that a query attends to, at most scale.context; null: a quarter of scale.context.
    index_heads: heads of the indexer; null: half of scale.heads.
    index_dim: dimension of its heads, at least rope_dim, of which the first are rotated; null: the head dimension.
    index_loss: coefficient of the auxiliary loss, a mean over tokens, in nats.
    index_target: over which keys it compares: visible (all earlier ones; the paper's dense warm-up) or selected.
    """

    def __init__(
        self,
        shape: Shape,
        layer: int,
        *,
        top_k: PositiveInt | None = None,
        index_heads: PositiveInt | None = None,
        index_dim: PositiveInt | None = None,
        index_loss: PositiveFloat = 1.0,
        index_target: Literal["visible", "selected"] = "visible",
        **options: Any,
    ) -> None:
        super().__init__(shape, layer, **options)
        self.top_k = top_k or max(1, shape.context // 4)
        if self.top_k > shape.context:
            raise ConfigError(
                f"attention.top_k={top_k} is more than scale.context={shape.context}: select at most that, or choose "
                "attention=mla, which attends to all"
            )
        self.index_heads = index_heads or max(1, shape.heads // 2)
        self.index_dim = index_dim or max(shape.width // shape.heads, self.rope_dim)
        if self.index_dim < self.rope_dim:
            raise ConfigError(
                f"attention.index_dim={self.index_dim} is less than attention.rope_dim={self.rope_dim}, which it holds"
            )
        self.index_loss, self.index_target = index_loss, index_target
        self.index_q_proj = nn.Linear(self.q_rank or shape.width, self.index_heads * self.index_dim, bias=False)
        if self.q_rank:
            self.init_roles["index_q_proj.weight"] = "fixed_input"
        self.index_k_proj = nn.Linear(shape.width, self.index_dim, bias=False)
        self.index_k_norm = LayerNorm(self.index_dim, eps=1e-6)
        self.index_w_proj = nn.Linear(shape.width, self.index_heads, bias=False)

    def forward(self, x_BTD: Tensor, flow: Flow) -> Tensor:
        queries, kept_B1TX, source = self.read(x_BTD, flow)
        q_BITJ, w_BTI, k_B1TJ = self.index(x_BTD.detach(), source.detach(), flow)
        kept_B1TX = torch.cat((kept_B1TX, k_B1TJ), dim=-1)
        kept_B1SX, _, positions_k = self.remember(kept_B1TX, kept_B1TX[..., :0], flow)
        kept_B1SX, k_B1SJ = kept_B1SX.split((self.kv_rank + self.rope_dim, self.index_dim), dim=-1)
        score_BTS = self.index_scores(q_BITJ, w_BTI, k_B1SJ)
        seen_BTS = self.seen(score_BTS, positions_k, flow)
        chosen_BTS = self.select(score_BTS.detach(), seen_BTS)
        hidden_B1TS = torch.where(chosen_BTS, 0.0, float("-inf"))[:, None].to(kept_B1SX.dtype)
        absorbed = self.absorbs(positions_k, x_BTD.shape[1])
        q, k, v = self.faced(queries, kept_B1SX, absorbed)
        y_BHTX = self.weigh(q, k, v, positions_k, flow, hidden_B1TS)
        if flow.losses is not None:
            target = None if self.index_target == "visible" else hidden_B1TS
            with torch.no_grad():
                view = self.view(q, k, positions_k, flow, target)
                weights_BHTS = softmax_weights(q, k, view, self.scale, self.softcap)
                weights_BTS = weights_BHTS.view(len(q), self.heads, *score_BTS.shape[1:]).float().mean(1)
            over_BTS = seen_BTS if target is None else chosen_BTS
            flow.losses.append(self.index_loss * divergence(weights_BTS, score_BTS, over_BTS))
        return self.output(y_BHTX, absorbed)

    def index(self, x_BTD: Tensor, source: Tensor, flow: Flow) -> tuple[Tensor, Tensor, Tensor]:
        """The indexer's queries (B, I, T, J), weights of its heads (B, T, I) and key (B, 1, T, J)."""
        q_BITJ = self.index_q_proj(source).unflatten(-1, (self.index_heads, self.index_dim)).transpose(1, 2)
        k_B1TJ = self.index_k_norm(self.index_k_proj(x_BTD)).to(q_BITJ.dtype)[:, None]
        sizes = (self.rope_dim, self.index_dim - self.rope_dim)
        (q_turned, q_rest), (k_turned, k_rest) = q_BITJ.split(sizes, dim=-1), k_B1TJ.split(sizes, dim=-1)
        q_turned, k_turned = flow.position.at(flow.layer).rotate(q_turned, k_turned, flow.positions_T)
        q_BITJ, k_B1TJ = torch.cat((q_turned, q_rest), dim=-1), torch.cat((k_turned, k_rest), dim=-1)
        return q_BITJ, self.index_w_proj(x_BTD) * (self.index_heads * self.index_dim) ** -0.5, k_B1TJ

    def index_scores(self, q_BITJ: Tensor, w_BTI: Tensor, k_B1SJ: Tensor) -> Tensor:
        """How much each query wants each key: fp32 (B, T, S), hidden keys included."""
        score_BITS = (q_BITJ @ k_B1SJ.transpose(2, 3)).float().relu()
        return (score_BITS * w_BTI.float().transpose(1, 2)[..., None]).sum(1)

    def seen(self, score_BTS: Tensor, positions_k: Tensor | None, flow: Flow) -> Tensor:
        """The keys that causality and documents leave in sight: bool (B or 1, T, S)."""
        positions_q = None if positions_k is None else flow.positions_T
        view = KeyView(None, None, None, positions_q, positions_k, flow.documents_BT, flow.documents_BT)
        seen = visible(score_BTS.shape[1], score_BTS.shape[2], score_BTS.device, view)
        return seen[None] if seen.dim() == 2 else seen[:, 0]

    def select(self, score_BTS: Tensor, seen_BTS: Tensor) -> Tensor:
        """The keys that each query attends to: bool (B, T, S)."""
        # stable, as zeros of the relu tie: the same keys whether the text is read at once or in pieces
        order = score_BTS.masked_fill(~seen_BTS, float("-inf")).sort(dim=-1, descending=True, stable=True).indices
        return torch.zeros_like(seen_BTS.expand_as(score_BTS)).scatter(-1, order[..., : self.top_k], True) & seen_BTS

    def request(
        self, device: str | torch.device, dtype: str, bias_kind: str = "none", documents: bool = False
    ) -> kernels.KernelRequest:
        """As any attention's whose mask is a tensor."""
        return super().request(device, dtype, "tensor", documents)

    def flops_per_token(self, context: int) -> float:
        """As mla's with at most top_k keys a query, and the indexer's scores of all; its loss is not counted."""
        spared = keys_seen(context) - keys_seen(context, self.top_k)
        index = 2 * self.index_heads * self.index_dim * keys_seen(context)
        return super().flops_per_token(context) + index - 2 * self.heads * (self.head_dim + self.value_dim) * spared


def divergence(weights_BTS: Tensor, score_BTS: Tensor, over_BTS: Tensor) -> Tensor:
    """KL(weights || softmax of the scores) over some keys, averaged over tokens, in nats. Weights elsewhere are 0."""
    log_BTS = score_BTS.masked_fill(~over_BTS, float("-inf")).log_softmax(-1).masked_fill(~over_BTS, 0.0)
    return (torch.xlogy(weights_BTS, weights_BTS) - weights_BTS * log_BTS).sum(-1).mean()
