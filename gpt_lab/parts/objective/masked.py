"""Objectives that hide tokens of a text and predict them from all others: masked diffusion, and BERT's.

The text of a row is its targets, so that validation counts each target of the split once, as it does for next tokens.
What a row predicts is averaged over what it hides, so that a row of n tokens reports n times that mean: for masked
diffusion an unbiased estimate of a bound on the nats of all n. Shape letters as in parts/base.py.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from gpt_lab.devices.hardware import in_float64
from gpt_lab.errors import ConfigError
from gpt_lab.metrics import BOUND
from gpt_lab.options import Fraction, PositiveInt
from gpt_lab.parts.dropout import objective_salt, row_noise
from gpt_lab.parts.objective.base import FILLING, IGNORED, Objective, Outcome, Predictor, Score, Sequences, with_losses
from gpt_lab.registry import register

VALIDATED_RATE = 0.15
"""Share that BERT's objective hides in validation, whatever it hides in training: arms compare at one share alone."""
ORDER, NUMBER, ACTION, SUBSTITUTE = range(4)
"""What numbers of a row are drawn for."""


class Hidden(NamedTuple):
    """What the model reads in place of a text, and which tokens it is asked for: int64 and bool, (B, T)."""

    inputs_BT: Tensor
    chosen_BT: Tensor


class MaskedText(Objective):
    """What both share.

    val_draws: choices of hidden tokens that validation averages over in each window.
    """

    causal = False
    masks = 1
    draws = True
    text_only = True

    def __init__(self, *, val_draws: PositiveInt = 4) -> None:
        self.val_draws = val_draws

    def number(self, length_B: Tensor, keys_B: Tensor, draw: int, draws: int) -> Tensor:
        """How many tokens of each row of so many are hidden, in a draw of several."""
        raise NotImplementedError

    def substitute(self, text_BT: Tensor, keys_B: Tensor, draw: int, mask: int) -> Tensor:
        """What stands in place of hidden tokens; elsewhere it is not looked at."""
        return torch.full_like(text_BT, mask)

    def hide(self, text_BT: Tensor, keys_B: Tensor, mask: int, draw: int = 0, draws: int = 1) -> Hidden:
        """Hides tokens of each row.

        Args:
            text_BT: IGNORED is no token, and is always read as the mask.
            mask: its id.
        """
        is_text_BT = text_BT != IGNORED
        order_BT = row_noise(keys_B, objective_salt(draw, ORDER), (text_BT.shape[1],))
        rank_BT = order_BT.masked_fill(~is_text_BT, 1 << 32).argsort(dim=1, stable=True).argsort(dim=1)
        chosen_BT = rank_BT < self.number(is_text_BT.sum(1), keys_B, draw, draws)[:, None]
        instead_BT = self.substitute(text_BT, keys_B, draw, mask)
        inputs_BT = torch.where(is_text_BT, torch.where(chosen_BT, instead_BT, text_BT), mask)
        return Hidden(inputs_BT, chosen_BT)

    def nats_of_rows(
        self, model: Predictor, given: Sequences, hidden: Hidden, losses: list[Tensor] | None = None
    ) -> Tensor:
        """Of each row its number of tokens times the mean cross-entropy of those that are hidden: (B,) in fp32."""
        text_BT = given.targets_BT
        keys_B = None if losses is None else given.keys_B  # dropout is for training
        logits_BTV = model(hidden.inputs_BT, keys_B=keys_B, losses=losses)
        asked_BT = torch.where(hidden.chosen_BT, text_BT, IGNORED)
        log_probs_BVT = F.log_softmax(logits_BTV, dim=-1, dtype=torch.float32).mT
        nats_BT = F.nll_loss(log_probs_BVT, asked_BT, ignore_index=IGNORED, reduction="none")
        return nats_BT.sum(1) / hidden.chosen_BT.sum(1).clamp(min=1) * (text_BT != IGNORED).sum(1)

    def train(self, model: Predictor, given: Sequences) -> Outcome:
        assert given.keys_B is not None, "draws"
        losses: list[Tensor] = []
        hidden = self.hide(given.targets_BT, given.keys_B, model.vocab_size)
        nats = self.nats_of_rows(model, given, hidden, losses).sum()
        count = (given.targets_BT != IGNORED).sum()
        return with_losses(Outcome(nats / count.clamp(min=1), nats.detach(), count), losses)

    def score(self, model: Predictor, given: Sequences, answers: bool = False) -> Score:
        assert given.keys_B is not None, "draws"
        hiders = [self.hide_to_validate(given, model.vocab_size, draw) for draw in range(self.val_draws)]
        nats = torch.stack([in_float64(self.nats_of_rows(model, given, hidden)).sum() for hidden in hiders]).mean()
        return Score(nats, (given.targets_BT != IGNORED).sum())

    def hide_to_validate(self, given: Sequences, mask: int, draw: int) -> Hidden:
        """What is hidden in one of the draws of validation."""
        assert given.keys_B is not None, "draws"
        return self.hide(given.targets_BT, given.keys_B, mask, draw, self.val_draws)


@register("objective", "masked_diffusion")
class MaskedDiffusion(MaskedText):
    """Masked diffusion: any number of tokens is hidden, and predicted from all others; attention reads both ways.

    Paper: Sahoo et al. 2024, arXiv:2406.07524 (MDLM); Nie et al. 2025, arXiv:2502.09992 (LLaDA)

    Of a row of n tokens l are hidden, l uniform in 1 ... n, as in LLaDA's estimate of low variance (its equation 14)
    and in Hoogeboom et al. 2022, arXiv:2110.02037: the expectation of n times their mean cross-entropy bounds the nats
    of the row from above. Reported bits per byte are an estimate of that bound: the model's own are at most as many.
    """

    generates = FILLING
    measure = BOUND

    def number(self, length_B: Tensor, keys_B: Tensor, draw: int, draws: int) -> Tensor:
        """Uniform in 1 ... length; the draws of a row lie evenly apart."""
        start_B = row_noise(keys_B, objective_salt(0, NUMBER), (1,))[:, 0]
        place_B = (start_B + draw * ((1 << 32) // draws)) & 0xFFFFFFFF
        return torch.where(length_B > 0, 1 + ((place_B * length_B) >> 32), 0)


@register("objective", "mlm")
class MaskedLanguageModel(MaskedText):
    """BERT's masked language model: a share of tokens is hidden, and predicted from all others; attention reads both
    ways.

    Paper: Devlin et al. 2018, arXiv:1810.04805

    A pseudo-likelihood: it bounds nothing, so there are no bits per byte. val/loss is nats for each of 15 % of the
    tokens of a window, all of them masked, whatever the options: models of this objective compare by it.

    rate: share of the tokens that is hidden in training, at least one of a row.
    masked: share of the hidden ones that is read as the mask.
    random: share that is read as any token of the vocabulary; the rest is read as it is.
    """

    generates = ""
    measure = "nats of a masked token, 15 % of each window masked"

    def __init__(
        self, *, rate: Fraction = 0.15, masked: Fraction = 0.8, random: Fraction = 0.1, **options: PositiveInt
    ) -> None:
        super().__init__(**options)
        if masked + random > 1 + 1e-9:
            raise ConfigError(
                f"objective.masked={masked:g} and objective.random={random:g} are shares of the same tokens: their sum "
                "must be at most 1"
            )
        self.rate, self.masked, self.random = rate, masked, random

    def number(self, length_B: Tensor, keys_B: Tensor, draw: int, draws: int) -> Tensor:
        return torch.where(length_B > 0, (self.rate * length_B).round().long().clamp(min=1), 0)

    def substitute(self, text_BT: Tensor, keys_B: Tensor, draw: int, mask: int) -> Tensor:
        shape = (text_BT.shape[1],)
        action_BT = row_noise(keys_B, objective_salt(draw, ACTION), shape)
        other_BT = (row_noise(keys_B, objective_salt(draw, SUBSTITUTE), shape) * mask) >> 32
        kept_BT = torch.where(action_BT < int((self.masked + self.random) * 2**32), other_BT, text_BT)
        return torch.where(action_BT < int(self.masked * 2**32), mask, kept_BT)

    def hide_to_validate(self, given: Sequences, mask: int, draw: int) -> Hidden:
        assert given.keys_B is not None, "draws"
        return MaskedLanguageModel(rate=VALIDATED_RATE, masked=1.0, random=0.0).hide(
            given.targets_BT, given.keys_B, mask, draw
        )
