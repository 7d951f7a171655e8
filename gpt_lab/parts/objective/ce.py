"""Cross-entropy of the next token."""

from __future__ import annotations

from torch import Tensor

from gpt_lab.options import NonNegativeFloat, Probability
from gpt_lab.parts.objective.base import IGNORED, Objective, Outcome, Predictor, next_token_nats
from gpt_lab.parts.objective.chunked import LossRule, chunked_sums
from gpt_lab.registry import register


@register("objective", "ce")
class CrossEntropy(Objective):
    """Cross-entropy of the next token, with label smoothing and z-loss if asked for.

    Paper: Szegedy et al. 2015, arXiv:1512.00567 (label smoothing); Chowdhery et al. 2022, arXiv:2204.02311 (z-loss)

    label_smoothing: probability spread evenly over the vocabulary.
    z_loss: weight of the squared log of the softmax's normaliser, which keeps logits small; PaLM uses 1e-4.
    """

    def __init__(self, *, label_smoothing: Probability = 0.0, z_loss: NonNegativeFloat = 0.0) -> None:
        self.label_smoothing = label_smoothing
        self.z_loss = z_loss

    def __call__(self, logits_BTV: Tensor, targets_BT: Tensor) -> Outcome:
        """The smoothed loss with its z-loss, and the plain cross-entropy. The softmax and all sums are in fp32."""
        return _mean(self.sums(logits_BTV, targets_BT), targets_BT)

    def of_hidden(self, model: Predictor, hidden_BTD: Tensor, targets_BT: Tensor) -> Outcome:
        return _mean(self.sums_of_hidden(model, hidden_BTD, targets_BT), targets_BT)

    def sums_of_hidden(self, model: Predictor, hidden_BTD: Tensor, targets_BT: Tensor) -> tuple[Tensor, Tensor]:
        """As `sums`, of the logits that the head makes of hidden states: `chunk` tokens at a time, if that is set."""
        if self.chunk is None:
            return self.sums(model.logits(hidden_BTD), targets_BT)
        rule = LossRule(self.label_smoothing, self.z_loss, self.chunk)
        return chunked_sums(model.projection(hidden_BTD), targets_BT, rule)

    def sums(self, logits_BTV: Tensor, targets_BT: Tensor) -> tuple[Tensor, Tensor]:
        """The loss and the plain cross-entropy, summed over the counted targets."""
        targets_N = targets_BT.flatten()
        log_probs_NV, nats = next_token_nats(logits_BTV, targets_BT)
        counted_N = targets_N != IGNORED
        total = nats
        if self.label_smoothing:
            uniform_N = -log_probs_NV.mean(dim=-1)
            total = (1 - self.label_smoothing) * total + self.label_smoothing * (uniform_N * counted_N).sum()
        if self.z_loss:
            at_target_N1 = targets_N.clamp(min=0)[:, None]
            # log z = logit - log p at any one token: no second pass over the vocabulary
            logits_NV = logits_BTV.flatten(0, -2)
            log_z_N1 = logits_NV.gather(1, at_target_N1).float() - log_probs_NV.gather(1, at_target_N1)
            total = total + self.z_loss * (log_z_N1.squeeze(1).square() * counted_N).sum()
        return total, nats


def _mean(sums: tuple[Tensor, Tensor], targets_BT: Tensor) -> Outcome:
    count = (targets_BT != IGNORED).sum()
    return Outcome(sums[0] / count.clamp(min=1), sums[1].detach(), count)
