"""Group relative policy optimization on answers that can be checked. Shape letters as in parts/base.py.

G answers are sampled for each row's question: N = B G of them, of at most L tokens.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from gpt_lab.devices.hardware import in_float64
from gpt_lab.errors import ConfigError
from gpt_lab.options import NonNegativeFloat, PositiveFloat, PositiveInt
from gpt_lab.parts.dropout import objective_salt, row_noise
from gpt_lab.parts.objective.base import IGNORED, Objective, Outcome, Predictor, Score, Sequences, with_losses
from gpt_lab.registry import register

LEAST_SPREAD = 1e-4
"""Added to the standard deviation of a group's rewards."""


class Questions(NamedTuple):
    """What rows ask: tokens before the answer, the answer with the end of its turn, padded by IGNORED, and that end."""

    lengths_B: Tensor
    answers_BL: Tensor
    stop_B: Tensor


class Said(NamedTuple):
    """Questions with what was answered: tokens (N, T), and which of them were said, the end of the turn included."""

    tokens_NT: Tensor
    own_NT: Tensor
    ended_N: Tensor


@register("objective", "grpo")
class GroupRelative(Objective):
    """Group relative policy optimization: of several sampled answers, those better than their mean made likelier.

    Paper: Shao et al. 2024, arXiv:2402.03300

    The question is a conversation up to the assistant's first turn, whose words are the right answer. A reward is 1 for
    exactly that, and `ending` for a turn that ends in time; its advantage is what it is above the mean of the group, in
    standard deviations. Each sample is learnt from once, so that there is no ratio to clip. The divergence from the
    weights that the run began with is the paper's estimator. What is sampled depends on seed, step and row alone.
    train/loss and val/loss are the share of answers that are not right (in validation the most likely tokens). The
    passes of all samples, the reference's too, count as FLOPs of training; sampling does not. Needs data=chat
    data.packed=false. Experts of limited capacity may drop other tokens in learning than in sampling.

    group: answers sampled for each question.
    tokens: most tokens of an answer, its end included; the longest of the data must fit.
    temperature: of sampling.
    beta: weight of the divergence from the reference.
    ending: reward of a turn that ends.
    """

    measure = "the share of answers that are not right"
    rows = "conversations"
    refers = True
    draws = True
    compiles = False

    def __init__(
        self,
        *,
        group: PositiveInt = 8,
        tokens: PositiveInt = 8,
        temperature: PositiveFloat = 1.0,
        beta: NonNegativeFloat = 0.04,
        ending: NonNegativeFloat = 0.1,
    ) -> None:
        if group < 2:
            raise ConfigError("objective.group must be at least 2: an answer is compared with others to its question")
        self.group, self.tokens, self.temperature, self.beta, self.ending = group, tokens, temperature, beta, ending
        self.passes = group

    def train(self, model: Predictor, given: Sequences) -> Outcome:
        assert self.teacher_model is not None and given.keys_B is not None
        asked = questions(given, self.tokens)
        draws_BGL = in_float64(row_noise(given.keys_B, objective_salt(0, 0), (self.group, self.tokens))) / 2.0**32
        said = self.answer(model, given.tokens_BT, asked, draws_BGL)
        right_N = self.right(said, asked)
        rewards_BG = (right_N + self.ending * said.ended_N).unflatten(0, (-1, self.group))
        spread_B1 = rewards_BG.std(-1, keepdim=True) + LEAST_SPREAD
        advantages_N = ((rewards_BG - rewards_BG.mean(-1, keepdim=True)) / spread_B1).flatten()
        losses: list[Tensor] = []
        keys_N = row_noise(given.keys_B, objective_salt(0, 1), (self.group,)).flatten()  # of dropout: not in sampling
        ours_NT = self.log_probs(model(said.tokens_NT, keys_B=keys_N, losses=losses), said.tokens_NT)
        with torch.no_grad():
            theirs_NT = self.log_probs(self.teacher_model(said.tokens_NT), said.tokens_NT)
        loss = grpo_loss(ours_NT, theirs_NT, said.own_NT[:, 1:], advantages_N, self.beta)
        number = (given.targets_BT != IGNORED).sum()
        return with_losses(Outcome(loss, (1 - right_N.mean()) * number, number), losses)

    def score(self, model: Predictor, given: Sequences, answers: bool = False) -> Score:
        there_B = (given.targets_BT != IGNORED).any(-1).float()
        asked = questions(given, self.tokens)
        right_B = self.right(self.answer(model, given.tokens_BT, asked, None), asked) * there_B
        return Score((there_B - right_B).sum(), there_B.sum(), right_B.sum() if answers else None)

    def answer(self, model: Predictor, tokens_BT: Tensor, asked: Questions, draws_BGL: Tensor | None) -> Said:
        """Answers to each question: `group` of them by uniform draws in [0, 1), or without draws the likeliest one.

        The model is in eval mode meanwhile: what it counts of tokens in training, such as experts' load, is of those
        that it learns from.
        """
        module: Any = model
        training = module.training
        module.eval()
        try:
            return self._answer(model, tokens_BT, asked, draws_BGL)
        finally:
            module.train(training)

    @torch.no_grad()
    def _answer(self, model: Predictor, tokens_BT: Tensor, asked: Questions, draws_BGL: Tensor | None) -> Said:
        group = 1 if draws_BGL is None else self.group
        place_T = torch.arange(tokens_BT.shape[1], device=tokens_BT.device)
        lengths_N, stop_N = (one.repeat_interleave(group) for one in (asked.lengths_B, asked.stop_B))
        tokens_NT = tokens_BT.repeat_interleave(group, 0)
        tokens_NT = torch.where(place_T < lengths_N[:, None], tokens_NT, stop_N[:, None])
        own_NT = torch.zeros_like(tokens_NT, dtype=torch.bool)
        ended_N = torch.zeros_like(stop_N, dtype=torch.bool)
        row_N = torch.arange(len(tokens_NT), device=tokens_NT.device)
        for step in range(self.tokens):
            at_N = lengths_N + step
            going_N = ~ended_N & (at_N < tokens_NT.shape[1])
            if not bool(going_N.any()):
                break
            longest = int(at_N[going_N].max())
            logits_NTV = model(tokens_NT[:, :longest])
            logits_NV = in_float64(logits_NTV[row_N, (at_N - 1).clamp(max=longest - 1)])
            if draws_BGL is None:
                chosen_N = logits_NV.argmax(-1)
            else:
                sums_NV = (logits_NV / self.temperature).softmax(-1).cumsum(-1)
                chosen_N = (sums_NV <= draws_BGL[..., step].flatten()[:, None]).sum(-1).clamp(max=model.vocab_size - 1)
            chosen_N = chosen_N.to(tokens_NT.device)
            at_N = at_N.clamp(max=tokens_NT.shape[1] - 1)
            tokens_NT[row_N, at_N] = torch.where(going_N, chosen_N, tokens_NT[row_N, at_N])
            own_NT[row_N, at_N] |= going_N
            ended_N |= going_N & (chosen_N == stop_N)
        torch.clear_autocast_cache()  # casts made without gradients would be taken for the pass that needs them
        return Said(tokens_NT, own_NT, ended_N)

    def right(self, said: Said, asked: Questions) -> Tensor:
        """1.0 for each answer that is the right one, its end included; else 0.0."""
        group = len(said.tokens_NT) // len(asked.lengths_B)
        answers_NL = asked.answers_BL.repeat_interleave(group, 0)
        places_NL = asked.lengths_B.repeat_interleave(group)[:, None] + torch.arange(
            answers_NL.shape[1], device=answers_NL.device
        )
        inside_NL = places_NL < said.tokens_NT.shape[1]
        found_NL = said.tokens_NT.gather(1, places_NL.clamp(max=said.tokens_NT.shape[1] - 1))
        same_N = ((found_NL == answers_NL) & inside_NL | (answers_NL == IGNORED)).all(-1)
        return (same_N & said.ended_N & (said.own_NT.sum(-1) == (answers_NL != IGNORED).sum(-1))).float()

    def log_probs(self, logits_NTV: Tensor, tokens_NT: Tensor) -> Tensor:
        """Of each token but the first, at the temperature of sampling, (N, T - 1)."""
        log_probs_NTV = F.log_softmax(logits_NTV[:, :-1].float() / self.temperature, dim=-1)
        return log_probs_NTV.gather(-1, tokens_NT[:, 1:, None]).squeeze(-1)


def grpo_loss(ours_NT: Tensor, theirs_NT: Tensor, own_NT: Tensor, advantages_N: Tensor, beta: float) -> Tensor:
    """The mean over answers of the mean over their tokens of beta times the divergence less the advantage.

    Args:
        ours_NT, theirs_NT: log-probabilities by the model and by the reference. own_NT: which tokens were sampled.
    """
    ratios_NT = (ours_NT - ours_NT.detach()).exp()  # 1: samples are the model's own
    apart_NT = theirs_NT - ours_NT
    divergence_NT = apart_NT.exp() - apart_NT - 1
    losses_NT = (beta * divergence_NT - advantages_N[:, None] * ratios_NT) * own_NT
    return (losses_NT.sum(-1) / own_NT.sum(-1).clamp(min=1)).mean()


def questions(given: Sequences, most: int) -> Questions:
    """What rows ask; answers are cut to `most` tokens and one more, which cannot be said."""
    counted_BT = given.targets_BT != IGNORED
    length = counted_BT.shape[1]
    first_B = counted_BT.long().argmax(-1)
    places_BL = first_B[:, None] + torch.arange(most + 1, device=first_B.device)
    inside_BL = places_BL < length
    places_BL = places_BL.clamp(max=length - 1)
    answer_BL = given.targets_BT.gather(1, places_BL).masked_fill(~inside_BL, IGNORED)
    going_BL = (answer_BL != IGNORED).long().cumprod(-1).bool()
    answers_BL = answer_BL.masked_fill(~going_BL, IGNORED)
    whole_BT = counted_BT & (torch.arange(length, device=first_B.device) >= first_B[:, None])
    ends_B = (whole_BT & ~F.pad(counted_BT[:, 1:], (0, 1))).long().argmax(-1)
    stop_B = given.targets_BT.gather(1, ends_B[:, None]).squeeze(1).clamp(min=0)  # of a row of padding: any
    return Questions(first_B + 1, answers_BL, stop_B)
