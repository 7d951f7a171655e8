"""Mixture of depths: (B, T, D) -> (B, T, D). Constructor: (shape, layer, *, options).

Shape letters: B rows, T tokens, D width, N = B T.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt_lab.errors import ConfigError
from gpt_lab.options import PositiveFloat, PositiveInt
from gpt_lab.parts.base import Flow, Shape
from gpt_lab.parts.mlp.grouped_experts import GatedExperts, in_fp32
from gpt_lab.registry import register


@register("mlp", "mod")
class MixtureOfDepths(nn.Module):
    """In some layers a router lets only a share of the tokens through the SwiGLU; the others pass it by.

    Paper: Raposo et al. 2024, arXiv:2404.02258

    The paper trains with the top share of a whole sequence, a choice that sees later tokens, and needs another rule to
    sample. Here one causal rule does for both: a token goes through where its router's sigmoid is above 1/2. The
    paper's auxiliary loss, cross-entropy with "is among the top share of its row" as the target, brings the threshold
    to where the share is `capacity`, which therefore holds on average and not in each row. The output is multiplied by
    the sigmoid, so that the router learns from the language-model loss as well. Attention is not routed, where the
    paper routes whole blocks. There are no biases but the router's.

    capacity: share of tokens that the router is trained to let through, above 0 and up to 1.
    pattern: one letter a layer, repeated over the layers: R routed, D dense (every token, no router).
    auxiliary: coefficient of the router's cross-entropy.
    d_ff: hidden width; null: that of mlp=swiglu.
    """

    takes_flow = True
    read_directly = ("router",)
    counted: Tensor
    through: Tensor

    def __init__(
        self,
        shape: Shape,
        layer: int,
        *,
        capacity: PositiveFloat = 0.125,
        pattern: str = "DR",
        auxiliary: PositiveFloat = 0.01,
        d_ff: PositiveInt | None = None,
    ) -> None:
        super().__init__()
        if not pattern or set(pattern) - set("RD"):
            raise ConfigError(f"mlp.pattern={pattern!r} must be letters R (routed) and D (dense), such as DR")
        if capacity > 1:
            raise ConfigError(f"mlp.capacity={capacity:g} is a share of the tokens: choose at most 1")
        if shape.bias:
            raise ConfigError("mlp=mod has no biases: use model.bias=false, or another mlp")
        self.capacity, self.auxiliary = capacity, auxiliary
        self.width, self.d_ff = shape.width, d_ff or max(8, round(shape.width / 3) * 8)
        self.is_routed = pattern[layer % len(pattern)] == "R"
        self.router = nn.Linear(shape.width, 1) if self.is_routed else None
        self.mlp = GatedExperts(1, shape.width, self.d_ff)
        self.counts = ("counted",) if self.is_routed else ()
        if self.is_routed:
            self.register_buffer("counted", torch.zeros(2), persistent=False)
            self.register_buffer("through", torch.zeros(()))

    def forward(self, x_BTD: Tensor, flow: Flow) -> Tensor:
        x_ND = x_BTD.reshape(-1, self.width)
        if self.router is None:
            every = torch.full((1,), x_ND.shape[0], dtype=torch.int32, device=x_ND.device)
            return self.mlp(x_ND, every).view_as(x_BTD)
        logits_N = in_fp32(x_ND, self.router.weight, self.router.bias).squeeze(-1)
        goes_N = logits_N > 0
        count = goes_N.sum()
        if self.training:
            with torch.no_grad():
                self.counted += torch.stack([count, torch.full_like(count, len(goes_N))])
        if flow.losses is not None:
            flow.losses.append(self.auxiliary * self.router_loss(logits_N.view(x_BTD.shape[:2])))
        order_N = (~goes_N).int().argsort(stable=True)
        computed_N1 = (torch.arange(len(goes_N), device=count.device) < count)[:, None]
        # where, on both sides: what grouped products leave behind the last group is no number, nor is its gradient
        sorted_ND = torch.where(computed_N1, x_ND.index_select(0, order_N), 0.0)
        y_ND = torch.where(computed_N1, self.mlp(sorted_ND, count.to(torch.int32).view(1)), 0.0)
        y_ND = y_ND.index_select(0, order_N.argsort())
        return (y_ND * logits_N.sigmoid().to(y_ND.dtype).unsqueeze(-1)).view_as(x_BTD)

    def router_loss(self, logits_BT: Tensor) -> Tensor:
        """Cross-entropy of the router with the top share of each row's logits: a scalar."""
        top = max(1, round(self.capacity * logits_BT.shape[1]))
        lowest_B1 = logits_BT.detach().topk(top).values[:, -1:]
        return F.binary_cross_entropy_with_logits(logits_BT, (logits_BT.detach() >= lowest_B1).float())

    @torch.no_grad()
    def after_step(self) -> None:
        """Notes the share of the step's tokens that went through."""
        if self.is_routed:
            self.through.copy_(self.counted[0] / self.counted[1].clamp(min=1.0))
            self.counted.zero_()

    def measures(self) -> dict[str, float]:
        """Share of the last step's tokens that went through."""
        return {"through": self.through.item()} if self.is_routed else {}

    def flops_per_token(self, context: int) -> float:
        """Forward matmul FLOPs of a token, where as many go through as the router is trained for."""
        dense = 6 * self.width * self.d_ff
        return self.capacity * dense + 2 * self.width if self.is_routed else dense
