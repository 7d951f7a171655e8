"""What a training objective is: what it minimises, what validation measures of it, what it adds to the model.

Constructor: (*, options). A subclass of Objective says at the least what `__call__` makes of logits and targets; one
that reads more than logits overrides `train`. Shape letters as in parts/base.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt_lab.metrics import EXACT
from gpt_lab.parts.base import Flow, Shape

IGNORED = -100
"""Targets of this value count for nothing."""


NEXT, FILLING = "token by token", "by filling in masks"


class Outcome(NamedTuple):
    """What an objective makes of some sequences.

    Fields:
        loss: what is minimised, a mean over the counted targets (0 if there are none), nats.
        nats: what is reported, summed over them, detached.
        number: of these, int64.
    """

    loss: Tensor
    nats: Tensor
    number: Tensor


class Score(NamedTuple):
    """What validation measures of some sequences, summed over the counted targets; `right` answers where asked for."""

    nats: Tensor
    number: Tensor
    right: Tensor | None = None


class Sequences(NamedTuple):
    """Rows that an objective is given at once.

    Fields:
        tokens_BT, targets_BT: int64; the targets are the next tokens, or IGNORED.
        documents_BT: int64, as Flow has them. keys_B: int64, what a row's random draws are made from; None: no draws.
    """

    tokens_BT: Tensor
    targets_BT: Tensor
    documents_BT: Tensor | None = None
    keys_B: Tensor | None = None


class Projection(NamedTuple):
    """How logits come about: x W^T, its first `vocab_size` columns, capped.

    Fields:
        x_BTD: hidden states as the head multiplies them. weight_RD: its rows, padding among them.
        softcap: logits become softcap * tanh(logit / softcap), in fp32; None: they stay.
    """

    x_BTD: Tensor
    weight_RD: Tensor
    vocab_size: int
    softcap: float | None


class Predictor(Protocol):
    """What an objective may ask of the model.

    Attributes:
        vocab_size: tokens that logits speak of. auxiliary: what Objective.modules gave.
    """

    vocab_size: int
    embed: nn.Embedding
    auxiliary: nn.Module | None

    def __call__(
        self,
        tokens_BT: Tensor,
        *,
        documents_BT: Tensor | None = None,
        keys_B: Tensor | None = None,
        losses: list[Tensor] | None = None,
    ) -> Tensor:
        """Logits (B, T, V): those of `hidden`."""
        ...

    def flow(
        self,
        tokens_BT: Tensor,
        *,
        documents_BT: Tensor | None = None,
        keys_B: Tensor | None = None,
        losses: list[Tensor] | None = None,
    ) -> Flow:
        """What travels beside the activations of a pass over these tokens."""
        ...

    def hidden(self, tokens_BT: Tensor, flow: Flow) -> Tensor:
        """What the head reads, (B, T, D)."""
        ...

    def projection(self, hidden_BTD: Tensor) -> Projection:
        """What makes logits of `hidden`."""
        ...

    def logits(self, hidden_BTD: Tensor) -> Tensor:
        """(B, T, V)."""
        ...


class Surroundings(NamedTuple):
    """What modules of an objective may be made of.

    Fields:
        rows: of the embedding, what a head multiplies with. norm: makes one of the model's norms of a width.
        block: makes a pre-norm block of the model's attention and MLP, those of layer 0.
    """

    shape: Shape
    rows: int
    norm: Callable[[int], nn.Module]
    block: Callable[[], nn.Module]


class Objective:
    """What training minimises.

    Attributes:
        causal: whether attention sees earlier tokens only. Without it the model reads both ways, which not every
            attention and position encoding can, and the objective must say by itself what is hidden from it.
        masks: ids beyond the vocabulary that the model may read and never predicts, such as [MASK]; the first is
            `vocab_size`.
        draws: whether training draws random numbers, from the keys of the rows.
        text_only: whether synthetic tasks, which ask about some positions only, mean nothing to it.
        generates: how its model continues a text: NEXT, a token at a time, which takes a causal one; FILLING, masks
            behind the text; "", not at all.
        measure: what validation measures: metrics.EXACT, metrics.BOUND, or a measure of its own in words.
        rows: what it needs rows to be (Dataset.rows_are); "": it takes those of any data that are no pairs.
        refers: whether its loss reads the weights that the run began with, frozen, as `teacher_model`.
        passes: rows that are learnt from for each row of data, which count as FLOPs.
        compiles: whether torch.compile can make one program of it.
        chunk: tokens whose logits are made at a time, where cost/loss_chunks.py decides so; None: all.
        teacher: a run or a folder whose frozen model the loss reads; it is put into `teacher_model` (train/begin_from).
    """

    causal: ClassVar[bool] = True
    masks: ClassVar[int] = 0
    draws: ClassVar[bool] = False
    text_only: ClassVar[bool] = False
    generates: ClassVar[str] = NEXT
    rows: ClassVar[str] = ""
    refers: ClassVar[bool] = False
    compiles: ClassVar[bool] = True
    passes: int = 1
    chunk: int | None = None
    measure: str = EXACT
    teacher: str | None = None
    teacher_model: Callable[..., Tensor] | None = None

    def modules(self, around: Surroundings) -> nn.Module | None:
        """What is trained beside the model, as its `auxiliary`; None: nothing. It says what it costs, as parts do."""
        return None

    def __call__(self, logits_BTV: Tensor, targets_BT: Tensor) -> Outcome:
        """Loss, and the cross-entropy of the next token to be reported.

        Args:
            logits_BTV: any float type. targets_BT: int64; IGNORED ones count for nothing.
        """
        raise NotImplementedError(f"{type(self).__name__} says nothing of logits: give it __call__, or train")

    def train(self, model: Predictor, given: Sequences) -> Outcome:
        """The outcome of a pass in training."""
        losses: list[Tensor] = []
        if self.chunk is None:
            logits_BTV = model(given.tokens_BT, documents_BT=given.documents_BT, keys_B=given.keys_B, losses=losses)
            return with_losses(self(logits_BTV, given.targets_BT), losses)
        flow = model.flow(given.tokens_BT, documents_BT=given.documents_BT, keys_B=given.keys_B, losses=losses)
        hidden_BTD = model.hidden(given.tokens_BT, flow)
        return with_losses(self.of_hidden(model, hidden_BTD, given.targets_BT), losses)

    def of_hidden(self, model: Predictor, hidden_BTD: Tensor, targets_BT: Tensor) -> Outcome:
        """The outcome of the logits that the head makes of hidden states."""
        return self(model.logits(hidden_BTD), targets_BT)

    def score(self, model: Predictor, given: Sequences, answers: bool = False) -> Score:
        """What validation measures: the next token's cross-entropy, whatever is trained.

        Args:
            answers: whether to count right answers.
        """
        logits_BTV = model(given.tokens_BT, documents_BT=given.documents_BT)
        counted_BT = given.targets_BT != IGNORED
        nats = next_token_nats(logits_BTV, given.targets_BT)[1]
        right = ((logits_BTV.argmax(dim=-1) == given.targets_BT) & counted_BT).sum() if answers else None
        return Score(nats, counted_BT.sum(), right)


def next_token_nats(logits_BTV: Tensor, targets_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities (N, V) in fp32, and the cross-entropy summed over the counted targets, nats."""
    log_probs_NV = F.log_softmax(logits_BTV.flatten(0, -2), dim=-1, dtype=torch.float32)
    return log_probs_NV, F.nll_loss(log_probs_NV, targets_BT.flatten(), ignore_index=IGNORED, reduction="sum")


def with_losses(outcome: Outcome, losses: list[Tensor]) -> Outcome:
    """The outcome with what parts want minimised beside it, such as a router's load balance."""
    loss, nats, number = outcome
    for extra in losses:
        loss = loss + extra
    return Outcome(loss, nats, number)
