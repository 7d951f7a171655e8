"""Estimates of the Hessian's diagonal, for optimizers that ask for them; all draws are keyed by (seed, step).

B rows, T tokens, V vocabulary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt_lab.parts.objective.base import IGNORED
from gpt_lab.train.feed import Micro, StepBatch
from gpt_lab.train.precision import Precision

Losses = Callable[[Micro], tuple[Tensor, Tensor]]
"""Loss of a micro-batch, and its sum of nats."""


class Curvature:
    """The two estimators, over the parameters of a model.

    Args:
        seed: of the draws.
    """

    def __init__(self, model: nn.Module, parameters: Sequence[nn.Parameter], precision: Precision, seed: int) -> None:
        self.model, self.parameters, self.precision, self.seed = model, parameters, precision, seed

    def generator(self, step: int, device: torch.device) -> torch.Generator:
        """A source of random numbers that are this step's own."""
        digest = hashlib.sha256(f"{self.seed}/{step}/curvature".encode()).digest()
        return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)

    def gauss_newton(self, batch: StepBatch, step: int) -> list[Tensor]:
        """Gauss-Newton-Bartlett: number of targets x squared gradient of their mean loss, targets drawn from the model.

        The model is in eval mode meanwhile: no dropout, and no part counts what it sees.
        """
        first = batch.micro[0].tokens_BT
        rows = sum(len(micro.tokens_BT) for micro in batch.micro)
        draws_BT = torch.rand(rows, first.shape[1], generator=self.generator(step, torch.device("cpu")))
        draws_BT = draws_BT.to(first.device)
        sums = [torch.zeros_like(p) for p in self.parameters]
        was_training, at = self.model.training, 0
        self.model.eval()
        try:
            for micro in batch.micro:
                drawn_BT = draws_BT[at : at + len(micro.tokens_BT)]
                at += len(micro.tokens_BT)
                with self.precision.autocast():
                    logits_BTV = self.model(micro.tokens_BT, documents_BT=micro.documents_BT)
                logits_BTV = logits_BTV.float()
                targets_BT = sampled(logits_BTV, drawn_BT).masked_fill(micro.targets_BT == IGNORED, IGNORED)
                loss = F.cross_entropy(
                    logits_BTV.flatten(0, 1), targets_BT.flatten(), ignore_index=IGNORED, reduction="sum"
                )
                add_(sums, torch.autograd.grad(loss / max(batch.targets, 1), self.parameters, allow_unused=True))
        finally:
            self.model.train(was_training)
        return [batch.targets * gradient.square_() for gradient in sums]

    def hutchinson(self, batch: StepBatch, step: int, losses: Losses) -> tuple[list[Tensor], Tensor]:
        """z x Hz of random signs z; leaves the step's gradients in the parameters, as a backward pass would.

        Returns:
            the estimates, and the sum of nats.
        """
        generator = self.generator(step, self.parameters[0].device)
        signs = [torch.randint_like(p, 2, generator=generator).mul_(2).sub_(1) for p in self.parameters]
        products = [torch.zeros_like(p) for p in self.parameters]
        total = torch.zeros((), device=signs[0].device)
        for micro in batch.micro:
            loss, nll_sum = losses(micro)
            gradients = torch.autograd.grad(loss * micro.share, self.parameters, create_graph=True, allow_unused=True)
            pairs = [(g, z) for g, z in zip(gradients, signs, strict=True) if g is not None and g.requires_grad]
            add_(
                products,
                torch.autograd.grad(
                    [g for g, _ in pairs], self.parameters, grad_outputs=[z for _, z in pairs], allow_unused=True
                ),
            )
            for p, gradient in zip(self.parameters, gradients, strict=True):
                if gradient is not None:
                    p.grad = gradient.detach() if p.grad is None else p.grad + gradient.detach()
            total = total + nll_sum
        return [z.mul_(product) for z, product in zip(signs, products, strict=True)], total


def sampled(logits_BTV: Tensor, draws_BT: Tensor) -> Tensor:
    """The token at which each row's summed probabilities pass a number in [0, 1): int64 (B, T)."""
    with torch.no_grad():
        up_to_BTV = logits_BTV.softmax(-1).cumsum(-1)
        # the sum of all may be a little off 1
        found = torch.searchsorted(up_to_BTV, (draws_BT * up_to_BTV[..., -1])[..., None], right=True)
        return found.squeeze(-1).clamp_(max=logits_BTV.shape[-1] - 1)


def add_(sums: Sequence[Tensor], more: Sequence[Tensor | None]) -> None:
    """Adds what is there."""
    for one, other in zip(sums, more, strict=True):
        if other is not None:
            one.add_(other)
