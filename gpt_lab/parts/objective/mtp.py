"""Multi-token prediction: beside the next token, those after it, by modules that only training uses.

Shape letters as in parts/base.py.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from gpt_lab.options import PositiveFloat, PositiveInt
from gpt_lab.parts.base import Flow
from gpt_lab.parts.objective.base import (
    IGNORED,
    Outcome,
    Predictor,
    Sequences,
    Surroundings,
    with_losses,
)
from gpt_lab.parts.objective.ce import CrossEntropy
from gpt_lab.registry import register


class Ahead(nn.Module):
    """One more token ahead: a block on the hidden states, in sequence after the embedding of the token before it.

    Args:
        sequential: whether it reads the hidden states of the module before it and that embedding; False: those of the
            model alone.
    """

    def __init__(self, around: Surroundings, sequential: bool) -> None:
        super().__init__()
        width = around.shape.width
        self.head = 2 * around.rows * width
        if sequential:
            self.hidden_norm, self.embed_norm = around.norm(width), around.norm(width)
            self.proj = nn.Linear(2 * width, width, bias=around.shape.bias)
        self.block = around.block()
        self.norm = around.norm(width)

    def forward(self, hidden_BTD: Tensor, embedded_BTD: Tensor, flow: Flow) -> Tensor:
        """The hidden states from which the head predicts one token further ahead, before the last norm: (B, T, D)."""
        x = hidden_BTD
        if hasattr(self, "proj"):
            x = torch.cat((self.hidden_norm(x), self.embed_norm(embedded_BTD)), dim=-1)
            x = self.proj(x.to(hidden_BTD.dtype))
        out_BTD: Tensor = self.block(x, flow._replace(shared={"x0": x}))
        return out_BTD

    def flops_per_token(self, context: int) -> float:
        """Forward matmul FLOPs of a token, the head among them."""
        parts: list[Any] = [part for part in self.block.children() if hasattr(part, "flops_per_token")]
        own = 2 * self.proj.weight.numel() if hasattr(self, "proj") else 0
        return own + self.head + sum(float(part.flops_per_token(context)) for part in parts)


@register("objective", "mtp")
class MultiToken(CrossEntropy):
    """Multi-token prediction: the next token, and with a weight those after it, which modules of their own predict.

    Paper: DeepSeek-AI 2024, arXiv:2412.19437 (sequential); Gloeckle et al. 2024, arXiv:2404.19737 (parallel)

    Module k predicts token i + k + 1 at place i: loss = CE + weight x mean over k of CE_k, each a mean over all places.
    The embedding and the head are the model's. Validation is that of the next token; generation leaves the modules out,
    and what they cost counts as parameters and FLOPs of training.

    ahead: tokens that are predicted after the next one.
    weight: of their mean loss; DeepSeek-V3 has 0.3, later 0.1.
    style: sequential, each module is a block that reads the hidden states of the one before it and the embedding of the
        token before its own; parallel, a block that reads the model's hidden states.
    """

    def __init__(
        self,
        *,
        ahead: PositiveInt = 1,
        weight: PositiveFloat = 0.3,
        style: Literal["sequential", "parallel"] = "sequential",
    ) -> None:
        super().__init__()
        self.ahead, self.weight, self.style = ahead, weight, style

    def modules(self, around: Surroundings) -> nn.Module:
        return nn.ModuleList(Ahead(around, self.style == "sequential") for _ in range(self.ahead))

    def train(self, model: Predictor, given: Sequences) -> Outcome:
        assert isinstance(model.auxiliary, nn.ModuleList), "as modules made it"
        losses: list[Tensor] = []
        flow = model.flow(given.tokens_BT, documents_BT=given.documents_BT, keys_B=given.keys_B, losses=losses)
        hidden_BTD = model.hidden(given.tokens_BT, flow)
        outcome = self.of_hidden(model, hidden_BTD, given.targets_BT)
        total, x_BTD = torch.zeros_like(outcome.loss), hidden_BTD
        modules: list[Any] = list(model.auxiliary)
        for number, module in enumerate(modules, start=1):
            keys_B = None if flow.keys_B is None else flow.keys_B + number  # other masks than layer 0 has
            # beyond the row there is no token: whatever stands there is read by no place that counts
            embedded_BTD = model.embed(given.tokens_BT.roll(-number, 1))
            y_BTD = module(x_BTD, embedded_BTD, flow._replace(layer=0, keys_B=keys_B))
            targets_BT = later(given.targets_BT, number)
            total = total + self.sums_of_hidden(model, module.norm(y_BTD), targets_BT)[0]
            x_BTD = y_BTD if self.style == "sequential" else hidden_BTD
        further = total / outcome.number.clamp(min=1) / self.ahead
        return with_losses(outcome._replace(loss=outcome.loss + self.weight * further), losses)


def later(targets_BT: Tensor, number: int) -> Tensor:
    """At each place the target so many places later; IGNORED where the row has ended."""
    rest_BT = targets_BT[:, number:]
    return torch.cat((rest_BT, torch.full_like(targets_BT[:, :number], IGNORED)), dim=1)
