"""Direct preference optimization: better answers made likelier than worse ones. Shape letters as in parts/base.py.

P pairs: rows 2 p and 2 p + 1 of a batch are the answer that was chosen and the one that was rejected.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gpt_lab.options import PositiveFloat
from gpt_lab.parts.objective.base import IGNORED, Objective, Outcome, Predictor, Score, Sequences, with_losses
from gpt_lab.registry import register


@register("objective", "dpo")
class PreferenceOptimization(Objective):
    """Direct preference optimization: -log sigmoid of beta times how much more the chosen answer gained; on pairs.

    Paper: Rafailov et al. 2023, arXiv:2305.18290

    What an answer gains is its log-probability, less that under the weights that the run began with (model_from=RUN),
    which stay as they are. Validation measures the same loss, and val/accuracy: the share of pairs whose chosen answer
    gained more. The reference's forward pass counts as FLOPs of training. Needs data=preferences.

    beta: how dear it is to move away from the reference.
    """

    measure = "the loss of pairs of answers"
    rows = "pairs"
    refers = True

    def __init__(self, *, beta: PositiveFloat = 0.1) -> None:
        self.beta = beta

    def train(self, model: Predictor, given: Sequences) -> Outcome:
        losses: list[Tensor] = []
        margins_P, _ = self.margins(model, given, losses)
        loss = -F.logsigmoid(margins_P).mean()
        number = (given.targets_BT != IGNORED).sum()
        return with_losses(Outcome(loss, loss.detach() * number, number), losses)

    def score(self, model: Predictor, given: Sequences, answers: bool = False) -> Score:
        margins_P, there_P = self.margins(model, given._replace(keys_B=None))
        losses_P = -F.logsigmoid(margins_P) * there_P
        return Score(losses_P.sum(), there_P.sum(), ((margins_P > 0) & there_P).sum() if answers else None)

    def margins(self, model: Predictor, given: Sequences, losses: list[Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """beta times what the chosen answer gained more than the rejected one, (P,); which pairs are no padding."""
        assert self.teacher_model is not None, "train/begin_from/first_weights.py loads the reference"
        ours_B = answer_log_probs(model(given.tokens_BT, keys_B=given.keys_B, losses=losses), given.targets_BT)
        with torch.no_grad():
            theirs_B = answer_log_probs(self.teacher_model(given.tokens_BT), given.targets_BT)
        gained_P2 = (ours_B - theirs_B).unflatten(0, (-1, 2))
        there_P = (given.targets_BT != IGNORED).any(-1).unflatten(0, (-1, 2)).any(-1)
        return self.beta * (gained_P2[:, 0] - gained_P2[:, 1]), there_P


def answer_log_probs(logits_BTV: Tensor, targets_BT: Tensor) -> Tensor:
    """Log-probability of each row's counted targets, (B,), nats."""
    logits_NV, targets_N = logits_BTV.float().flatten(0, 1), targets_BT.flatten()
    nats_N = F.cross_entropy(logits_NV, targets_N, ignore_index=IGNORED, reduction="none")
    return -nats_N.unflatten(0, targets_BT.shape).sum(-1)
