"""Log-likelihoods of continuations, many rows of different length at once.

Rows are padded on the right, behind all that a causal model looks at, so that no row's numbers depend on the others.
Shapes: B rows, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gpt_lab.data.tokenizers.tokenizer import Tokenizer
from gpt_lab.errors import DataError, LabError, quoted
from gpt_lab.model.gpt import GPT

CPU_LOGITS, CUDA_LOGITS = 2**21, 2**28
"""Largest number of logits held at once."""


class Pair(NamedTuple):
    """A context and what may follow it, as tokens."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]


class Likelihood(NamedTuple):
    """What a model makes of a continuation.

    Fields:
        log_probs: natural logarithm of each token's probability. right: whether each token was the likeliest.
    """

    log_probs: tuple[float, ...]
    right: tuple[bool, ...]

    @property
    def total(self) -> float:
        """Of the whole continuation, nats below zero."""
        return sum(self.log_probs)

    @property
    def greedy(self) -> bool:
        """Whether always taking the likeliest token gives it."""
        return all(self.right)


def encode(tokenizer: Tokenizer, text: str, what: str = "a text") -> list[int]:
    """The tokens of a text of a task.

    Raises:
        DataError: the tokenizer cannot write it.
    """
    try:
        return tokenizer.encode(text)
    except DataError as error:
        raise DataError(f"the model's tokenizer cannot write {what} of this task, {quoted(text)}: {error}") from None


def pair(tokenizer: Tokenizer, context: str, continuation: str) -> Pair:
    """The tokens of both, cut where those of the context end; blanks between them belong to the continuation.

    An empty context is the end of text, or a new line where the tokenizer has none.

    Raises:
        DataError: the tokenizer cannot write one of them.
    """
    blanks = len(context) - len(context.rstrip())
    if blanks and blanks < len(context):
        context, continuation = context[:-blanks], context[-blanks:] + continuation
    whole = encode(tokenizer, context + continuation)
    before = encode(tokenizer, context) if context else []
    if not before:
        begin = [tokenizer.eot] if tokenizer.eot is not None else encode(tokenizer, "\n", "the start")
        return Pair(tuple(begin), tuple(whole))
    return Pair(tuple(before), tuple(whole[len(before) :]))


def check_pair(one: Pair, context: int) -> None:
    """Refuses what has no likelihood.

    Raises:
        DataError: an empty continuation, or one longer than the context.
    """
    if not one.continuation or not one.context:
        raise DataError("a task asks for a continuation without a token")
    if len(one.continuation) > context:
        raise DataError(
            f"a continuation of {len(one.continuation)} tokens is longer than the model's context of {context}"
        )


@torch.no_grad()
def log_likelihoods(model: GPT, pairs: Sequence[Pair], context: int, logits: int | None = None) -> list[Likelihood]:
    """What the model makes of each continuation, in the order of the pairs.

    Args:
        context: the most tokens read at once; of longer pairs the end is read.
        logits: most logits held at once; None: what suits the device.

    Raises:
        DataError: an empty continuation, or one longer than the context. LabError: logits that are not finite.
    """
    rows = []
    for place, one in enumerate(pairs):
        check_pair(one, context)
        whole = (*one.context, *one.continuation)[-(context + 1) :]
        rows.append((len(whole) - 1, place, whole))
    rows.sort(reverse=True)  # the longest first: too little memory shows at once, and like stands with like
    device = next(model.parameters()).device
    most = logits or (CUDA_LOGITS if device.type == "cuda" else CPU_LOGITS)
    found: dict[int, Likelihood] = {}
    first = 0
    while first < len(rows):
        length = rows[first][0]
        chosen = rows[first : first + max(1, most // (length * model.vocab_size))]
        first += len(chosen)
        tokens_BT = torch.zeros(len(chosen), length + 1, dtype=torch.int64)
        for row, (_, _, whole) in enumerate(chosen):
            tokens_BT[row, : len(whole)] = torch.tensor(whole)
        logits_BTV = model(tokens_BT[:, :-1].to(device)).float()
        targets_BT = tokens_BT[:, 1:].to(device)
        log_BT = logits_BTV.log_softmax(-1).gather(-1, targets_BT[..., None]).squeeze(-1).cpu().double()
        right_BT = (logits_BTV.argmax(-1) == targets_BT).cpu()
        for row, (end, place, _) in enumerate(chosen):
            begin = end - len(pairs[place].continuation)
            found[place] = _checked(log_BT[row, begin:end], right_BT[row, begin:end])
    return [found[place] for place in range(len(rows))]


def _checked(log_N: Tensor, right_N: Tensor) -> Likelihood:
    if torch.isnan(log_N).any():
        raise LabError("the model's logits are not finite: its weights diverged; try checkpoint=best or another run")
    return Likelihood(tuple(log_N.tolist()), tuple(right_N.tolist()))
