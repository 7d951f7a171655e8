"""Distillation against torch's divergence."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gpt_lab.parts.objective.base import Sequences
from gpt_lab.parts.objective.distill import Distillation

B, T, V = 3, 5, 11


class Fixed:
    """A model whose logits are given."""

    vocab_size = V

    def __init__(self, logits_BTV: Tensor) -> None:
        self.logits_BTV = logits_BTV

    def __call__(self, tokens_BT: Tensor, **beside: Any) -> Tensor:
        return self.logits_BTV


@pytest.mark.parametrize(("alpha", "temperature"), [(0.3, 1.0), (1.0, 2.5)])
def test_formula(alpha: float, temperature: float) -> None:
    ours, theirs = torch.randn(B, T, V).requires_grad_(), 3 * torch.randn(B, T, V + 4)
    targets = torch.randint(V, (B, T))
    targets[0, :3] = -100
    objective = Distillation(teacher="it", alpha=alpha, temperature=temperature)
    objective.teacher_model = Fixed(theirs)  # its vocabulary is padded
    outcome = objective.train(Fixed(ours), Sequences(targets, targets))  # type: ignore[arg-type]
    kept = targets.view(-1) != -100
    student, teacher = (
        (logits[..., :V].reshape(-1, V)[kept] / temperature).log_softmax(-1) for logits in (ours, theirs)
    )
    plain = F.cross_entropy(ours.view(-1, V), targets.view(-1))
    apart = F.kl_div(student, teacher, log_target=True, reduction="batchmean") * temperature**2
    torch.testing.assert_close(outcome.loss, (1 - alpha) * plain + alpha * apart)
    torch.testing.assert_close(outcome.nats / outcome.number, plain.detach())
    assert torch.autograd.grad(outcome.loss, ours)[0].isfinite().all()
