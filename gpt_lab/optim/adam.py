"""Adam and AdamW, torch's fused kernels."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from gpt_lab.optim.base import Recipe, Rule, grads_of
from gpt_lab.optim.eight_bit import EightBitAdam
from gpt_lab.optim.groups import Group, param_groups
from gpt_lab.options import NonNegativeFloat, PositiveFloat, Probability
from gpt_lab.registry import register


@register("optim", "adamw")
class AdamW(Recipe):
    """Adam with decoupled weight decay: the default of language modelling.

    Paper: Loshchilov and Hutter 2019, arXiv:1711.05101; Dettmers et al. 2021, arXiv:2110.02861 (8-bit moments)

    Every parameter alike, embeddings, experts and recurrences included.

    beta1: decay of the mean of gradients.
    beta2: decay of the mean of their squares; at 0.99 runs that differ by chance end twice as far apart
        (benchmarks/README.md).
    eps: added to the root of the second moment.
    state: number format of both moments; int8: 8-bit codes in blocks of 256 with a scale each, of tensors of 4096
        numbers and more, 4 times smaller.
    """

    adam: type[torch.optim.Adam] = torch.optim.AdamW

    def __init__(
        self,
        *,
        lr: PositiveFloat = 0.004,
        weight_decay: NonNegativeFloat = 0.1,
        clip: NonNegativeFloat = 1.0,
        beta1: Probability = 0.9,
        beta2: Probability = 0.95,
        eps: PositiveFloat = 1e-8,
        state: Literal["fp32", "int8"] = "fp32",
    ) -> None:
        super().__init__(lr, weight_decay, clip, betas=(beta1, beta2), eps=eps)
        self.state = state
        self.by_element = state == "fp32"  # 8-bit moments share scales

    def build(self, groups: Iterable[Group]) -> torch.optim.Optimizer:
        """The optimizer; fused is the fastest on CUDA and on CPU (1.07x a whole training step at 4 x 128)."""
        found = param_groups(groups, self.lr, self.weight_decay)
        if self.state == "int8":
            decoupled = self.adam is torch.optim.AdamW
            return EightBitAdam(found, {"lr": self.lr, "decoupled": decoupled, **self.settings})
        return self.adam(found, lr=self.lr, fused=True, **self.settings)


@register("optim", "adam")
class Adam(AdamW):
    """Adam: step size from the mean and the mean square of gradients; weight decay is added to the gradient.

    Paper: Kingma and Ba 2015, arXiv:1412.6980

    Every parameter alike, embeddings, experts and recurrences included.

    weight_decay: L2 penalty; its gradient weight_decay x weight goes through the moments.
    beta2: decay of the mean of their squares.
    """

    adam = torch.optim.Adam

    def __init__(self, *, weight_decay: NonNegativeFloat = 0.0, **options: Any) -> None:
        super().__init__(weight_decay=weight_decay, **options)


class WithAdamW(Rule):
    """A rule for groups with `own: True`; the others take AdamW's step, by torch's fused kernel.

    Args:
        defaults: `betas` and `eps` are AdamW's.
    """

    def __init__(self, params: Iterable[dict[str, Any]], defaults: dict[str, Any]) -> None:
        # by `fused` torch restores AdamW's step counters to the parameters' device
        super().__init__(params, {"own": True, "fused": True, **defaults})

    def begin(self, p: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        if group["own"]:
            return self.begin_own(p, group)
        step = torch.zeros((), dtype=torch.float32, device=p.device)
        return {"step": step, "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}

    def begin_own(self, p: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        """As `begin`, in groups of the rule."""
        raise NotImplementedError

    def update(self, group: dict[str, Any], params: list[Tensor]) -> None:
        if group["own"]:
            self.update_own(group, params)
        else:
            adamw(
                params,
                grads_of(params),
                self.kept(params, "exp_avg"),
                self.kept(params, "exp_avg_sq"),
                [],
                self.kept(params, "step"),
                fused=True,
                amsgrad=False,
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                lr=group["lr"],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                maximize=False,
            )

    def update_own(self, group: dict[str, Any], params: list[Tensor]) -> None:
        """As `update`, of groups of the rule."""
        raise NotImplementedError
