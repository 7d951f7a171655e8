"""Mixture of experts: (B, T, D) -> (B, T, D). Constructor: (shape, layer, *, options).

Shape letters: B rows, T tokens, D width, N = B T, E experts, K experts of a token.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt_lab.errors import ConfigError
from gpt_lab.options import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from gpt_lab.parts.base import Flow, Shape
from gpt_lab.parts.mlp.feed_forward import SwiGLU
from gpt_lab.parts.mlp.grouped_experts import GatedExperts, in_fp32
from gpt_lab.registry import register


@register("mlp", "moe")
class MixtureOfExperts(nn.Module):
    """Several SwiGLU experts, of which a router chooses a few for each token, as in Mixtral, Qwen3-MoE and DeepSeek-V3.

    Paper: Shazeer et al. 2017, arXiv:1701.06538; Fedus et al. 2021, arXiv:2101.03961; DeepSeek 2024, arXiv:2412.19437

    Nothing is dropped unless capacity_factor says so, and what a token gets depends on that token alone. Tokens are
    sorted by expert and multiplied group by group, in shapes that no routing changes. With model.bias experts and
    router have biases, as in gpt-oss.

    experts: how many there are to choose from.
    top_k: how many of them a token uses.
    shared_experts: further ones that every token uses, as one SwiGLU of their joint width (DeepSeek).
    shared_gate: multiply their output by a sigmoid of the token (Qwen3-Next); refused without any.
    d_ff: hidden width of one expert; null: that of mlp=swiglu divided by top_k + shared_experts, to the nearest
        multiple of 8, so that a token uses as many parameters.
    router: what turns the router's outputs into scores: softmax over the experts (Switch, Mixtral), or a sigmoid for
        each (DeepSeek-V3).
    renormalize: divide the scores of a token's experts by their sum (Mixtral, DeepSeek-V3); false: as they are.
    routed_scale: factor on the output of the experts that are not shared (DeepSeek-V3: 2.5).
    groups: the experts stand in so many groups, of which a token chooses first, by the sum of each one's two best
        scores (DeepSeek-V3: 8); must divide experts.
    top_groups: how many groups of a token its experts come from (DeepSeek-V3: 4); null: all.
    clamp: gpt-oss's SwiGLU: with the gate at most and up within +- this, gate sigmoid(1.702 gate) (up + 1); null: the
        plain one.
    balance: coefficient of the load-balance loss, E x the sum over experts of their share of tokens x their mean
        score, top_k where even (Switch, Mixtral); 0: none. Of a sigmoid, scores are divided by their sum first.
    bias_rate: balance without a loss (arXiv:2408.15664): after each step the bias of an expert that had less than its
        share rises by so much, and otherwise falls; it acts on the choice, not on the scores. DeepSeek-V3: 0.001; 0:
        none.
    z_loss: coefficient of the mean square of the router outputs' logsumexp (ST-MoE, arXiv:2202.08906); 0: none.
    capacity_factor: in training an expert takes at most so many times an even share of a row's tokens, the earlier
        first, and the rest pass it by; null: it takes all. In evaluation it always takes all.
    """

    takes_flow = True
    read_directly = ("router",)
    counts = ("counted_E", "refused")
    choice_bias_E: Tensor
    counted_E: Tensor
    refused: Tensor
    load_E: Tensor
    dropped: Tensor

    def __init__(
        self,
        shape: Shape,
        layer: int,
        *,
        experts: PositiveInt = 8,
        top_k: PositiveInt = 2,
        shared_experts: NonNegativeInt = 0,
        shared_gate: bool = False,
        d_ff: PositiveInt | None = None,
        router: Literal["softmax", "sigmoid"] = "softmax",
        renormalize: bool = True,
        routed_scale: PositiveFloat = 1.0,
        groups: PositiveInt = 1,
        top_groups: PositiveInt | None = None,
        clamp: PositiveFloat | None = None,
        balance: NonNegativeFloat = 0.01,
        bias_rate: NonNegativeFloat = 0.0,
        z_loss: NonNegativeFloat = 0.0,
        capacity_factor: PositiveFloat | None = None,
    ) -> None:
        super().__init__()
        if top_k > experts:
            raise ConfigError(f"mlp.top_k={top_k} is more than mlp.experts={experts}: choose at most {experts}")
        if shared_gate and not shared_experts:
            raise ConfigError("mlp.shared_gate needs mlp.shared_experts=1 or more")
        kept = groups if top_groups is None else top_groups
        if experts % groups or kept > groups or kept * (experts // groups) < top_k:
            raise ConfigError(
                f"mlp.groups={groups} must divide mlp.experts={experts}, and mlp.top_groups={kept} of them hold "
                f"mlp.top_k={top_k} experts"
            )
        if kept < groups and experts // groups < 2:
            raise ConfigError(
                f"mlp.groups={groups} of mlp.experts={experts} hold less than the two that choose a group"
            )
        hidden = d_ff or max(8, round(shape.width / 3 / (top_k + shared_experts)) * 8)
        self.experts, self.top_k, self.d_ff = experts, top_k, hidden
        self.sigmoid, self.renormalize, self.routed_scale = router == "sigmoid", renormalize, routed_scale
        self.groups, self.top_groups = groups, kept
        self.balance, self.bias_rate, self.z_loss = balance, bias_rate, z_loss
        self.capacity_factor = capacity_factor
        self.router = nn.Linear(shape.width, experts, bias=shape.bias)
        self.routed = GatedExperts(experts, shape.width, hidden, shape.bias, clamp)
        self.shared = SwiGLU(shape, layer, d_ff=shared_experts * hidden) if shared_experts else None
        self.shared_gate = nn.Linear(shape.width, 1, bias=False) if shared_gate else None
        self.register_buffer("choice_bias_E", torch.zeros(experts))
        self.register_buffer("counted_E", torch.zeros(experts), persistent=False)
        self.register_buffer("refused", torch.zeros(()), persistent=False)
        self.register_buffer("load_E", torch.zeros(experts))
        self.register_buffer("dropped", torch.zeros(()))

    def forward(self, x_BTD: Tensor, flow: Flow) -> Tensor:
        rows, length, width = x_BTD.shape
        x_ND = x_BTD.reshape(-1, width)
        logits_NE = in_fp32(x_ND, self.router.weight, self.router.bias)
        scores_NE = logits_NE.sigmoid() if self.sigmoid else logits_NE.softmax(-1)
        chosen_NK = self._choose(scores_NE + self.choice_bias_E)
        gates_NK = scores_NE.gather(1, chosen_NK)
        if self.renormalize:
            gates_NK = gates_NK / (gates_NK.sum(-1, keepdim=True) + 1e-20)
        if self.routed_scale != 1.0:
            gates_NK = gates_NK * self.routed_scale
        one_NKE = F.one_hot(chosen_NK, self.experts)
        if self.capacity_factor is not None and self.training:
            gates_NK = gates_NK * self._admitted(one_NKE.view(rows, -1, self.experts), length, flow).view_as(gates_NK)
        count_E = one_NKE.sum((0, 1))
        if self.training:
            with torch.no_grad():
                self.counted_E += count_E
        if flow.losses is not None:
            self._add_losses(flow.losses, logits_NE, scores_NE, count_E)
        y_BTD = self._through(x_ND, chosen_NK, gates_NK, count_E).view(rows, length, width)
        if self.shared is None:
            return y_BTD
        always_BTD = self.shared(x_BTD)
        if self.shared_gate is not None:
            always_BTD = always_BTD * torch.sigmoid(self.shared_gate(x_BTD))
        return y_BTD + always_BTD

    def _choose(self, wanted_NE: Tensor) -> Tensor:
        """The experts of each token, (N, K), by how much each is wanted, in its best groups alone if asked."""
        if self.top_groups < self.groups:
            grouped_NGI = wanted_NE.unflatten(-1, (self.groups, -1))
            best_NG = grouped_NGI.topk(2).values.sum(-1).topk(self.top_groups).indices
            kept_NG = torch.zeros_like(grouped_NGI[..., 0], dtype=torch.bool).scatter(1, best_NG, True)
            wanted_NE = grouped_NGI.masked_fill(~kept_NG[..., None], -torch.inf).flatten(1)
        return wanted_NE.topk(self.top_k).indices

    def _through(self, x_ND: Tensor, chosen_NK: Tensor, gates_NK: Tensor, count_E: Tensor) -> Tensor:
        """The experts' outputs for their tokens, times the gates, added up by token: (N, D)."""
        order = chosen_NK.flatten().argsort(stable=True)
        sorted_MD = x_ND.index_select(0, order // self.top_k)
        y_MD = self.routed(sorted_MD, count_E.cumsum(0).to(torch.int32))
        y_NKD = y_MD.index_select(0, order.argsort()).view(*gates_NK.shape, -1)
        return (y_NKD * gates_NK.to(y_NKD.dtype).unsqueeze(-1)).sum(1)

    def _admitted(self, one_BME: Tensor, length: int, flow: Flow) -> Tensor:
        """Which choices of a row's tokens their experts have room for, those of earlier tokens first: bool (B, T K)."""
        if flow.documents_BT is not None:
            raise ConfigError(
                "mlp.capacity_factor goes by row, so that documents would compete for room: use "
                "mlp.capacity_factor=null or batch.document_mask=false"
            )
        assert self.capacity_factor is not None
        room = max(1, round(self.capacity_factor * length * self.top_k / self.experts))
        taken_BM = (one_BME.cumsum(1) * one_BME).sum(-1)  # this choice's number among those of its expert
        admitted_BM = taken_BM <= room
        with torch.no_grad():
            self.refused += (~admitted_BM).sum()
        return admitted_BM

    def _add_losses(self, losses: list[Tensor], logits_NE: Tensor, scores_NE: Tensor, count_E: Tensor) -> None:
        if self.balance:
            shares_NE = scores_NE / scores_NE.sum(-1, keepdim=True) if self.sigmoid else scores_NE
            losses.append(self.balance * self.balance_loss(shares_NE, count_E))
        if self.z_loss:
            losses.append(self.z_loss * logits_NE.logsumexp(-1).square().mean())

    def balance_loss(self, shares_NE: Tensor, count_E: Tensor) -> Tensor:
        """E x sum over experts of (choices per token) x (mean score): top_k if both are even, up to E top_k."""
        tokens = shares_NE.shape[0]
        return self.experts * (count_E / tokens * shares_NE.mean(0)).sum()

    @torch.no_grad()
    def after_step(self) -> None:
        """Notes the load of the step, and moves the biases of the choice against it."""
        if self.bias_rate:
            self.choice_bias_E += self.bias_rate * (self.counted_E.mean() - self.counted_E).sign()
        total = self.counted_E.sum().clamp(min=1.0)
        self.load_E.copy_(self.counted_E / total)
        self.dropped.copy_(self.refused / total)
        self.counted_E.zero_()
        self.refused.zero_()

    def measures(self) -> dict[str, float]:
        """Share of the last step's choices that fell on each expert, and that found no room."""
        found = {f"load/{number}": value for number, value in enumerate(self.load_E.tolist())}
        return found if self.capacity_factor is None else found | {"dropped": self.dropped.item()}

    def flops_per_token(self, context: int) -> float:
        """Forward matmul FLOPs of a token: of the router and of the experts that it uses."""
        width = self.router.in_features
        shared = 0.0 if self.shared is None else self.shared.flops_per_token(context)
        shared += 0.0 if self.shared_gate is None else 2 * width
        return 2 * width * (self.experts + 3 * self.top_k * self.d_ff) + shared

    @property
    def idle_parameters(self) -> int:
        """Those of the experts that a token does not use."""
        return (self.experts - self.top_k) * sum(p.numel() for p in self.routed.parameters()) // self.experts
