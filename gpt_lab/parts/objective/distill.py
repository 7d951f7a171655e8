"""Distillation: the next token, and what a larger model expects in its place. Shape letters as in parts/base.py."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gpt_lab.options import Fraction, NonEmpty, PositiveFloat
from gpt_lab.parts.objective.base import IGNORED, Outcome, Predictor, Sequences, with_losses
from gpt_lab.parts.objective.ce import CrossEntropy
from gpt_lab.registry import register


@register("objective", "distill")
class Distillation(CrossEntropy):
    """Knowledge distillation: cross-entropy of the next token, mixed with the divergence from a teacher's distribution.

    Paper: Hinton et al. 2015, arXiv:1503.02531

    loss = (1 - alpha) CE + alpha T^2 KL(teacher || student), both distributions at temperature T: the forward KL, which
    covers what the teacher covers. The teacher is frozen; it must have the same tokens. Validation is that of the next
    token. The teacher's forward pass counts as FLOPs of training, its weights' digest as part of the run's identity.

    teacher: a run (STUDY/NAME, or its folder), or a folder of Hugging Face's with config.json, model.safetensors and
        tokenizer.json.
    alpha: weight of the divergence; at 0, the control, there is no teacher, and none is read.
    temperature: T; above 1 it shows more of what is unlikely.
    """

    def __init__(self, *, teacher: NonEmpty, alpha: Fraction = 0.5, temperature: PositiveFloat = 1.0) -> None:
        super().__init__()
        self.teacher = teacher if alpha > 0 else None
        self.alpha, self.temperature = alpha, temperature

    def train(self, model: Predictor, given: Sequences) -> Outcome:
        if self.teacher is None:
            return super().train(model, given)
        assert self.teacher_model is not None, "train/begin_from/teacher.py loads it"
        losses: list[Tensor] = []
        logits_BTV = model(given.tokens_BT, documents_BT=given.documents_BT, keys_B=given.keys_B, losses=losses)
        outcome = self(logits_BTV, given.targets_BT)
        with torch.no_grad():
            theirs_BTV = self.teacher_model(given.tokens_BT, documents_BT=given.documents_BT)
        apart = self.divergence(logits_BTV, theirs_BTV[..., : model.vocab_size], given.targets_BT)
        loss = (1 - self.alpha) * outcome.loss + self.alpha * apart / outcome.number.clamp(min=1)
        return with_losses(outcome._replace(loss=loss), losses)

    def divergence(self, logits_BTV: Tensor, theirs_BTV: Tensor, targets_BT: Tensor) -> Tensor:
        """T^2 KL(teacher || student), summed over the counted targets, nats."""
        counted_N = (targets_BT != IGNORED).flatten()
        ours_NV, theirs_NV = (
            F.log_softmax(logits.flatten(0, -2) / self.temperature, dim=-1, dtype=torch.float32)
            for logits in (logits_BTV, theirs_BTV)
        )
        apart_N = (theirs_NV.exp() * (theirs_NV - ours_NV)).sum(-1)
        return self.temperature**2 * (apart_N * counted_N).sum()
