"""Log-probabilities of a given text's own tokens, as a generation of the same tokens would have seen them.

Shapes: B rows, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from gpt_lab.infer.generate import check_finite, context_limit
from gpt_lab.infer.sampling import LogProbability, log_probabilities
from gpt_lab.model.gpt import GPT

CHUNK = 512
"""Tokens that are read before others have a turn; bounds the logits held."""
Scores = list[LogProbability]


def score(model: GPT, ids: Sequence[int], tops: int) -> Iterator[Scores | None]:
    """Of the second token and on: log-probability in nats, and the likeliest tokens. Yields None until they are there.

    Beyond the training context a position encoding that extrapolates reads the whole text; another reads, for each
    token, the context before it, as generation does.

    Raises:
        LabError: the logits are not finite.
    """
    found: Scores = []
    limit = context_limit(model) or len(ids)
    device = next(model.parameters()).device
    tokens_1T = torch.tensor([list(ids)], device=device)
    with torch.no_grad():
        head = min(limit, len(ids))
        hidden_1TD = model.hidden(tokens_1T[:, :head], model.flow(tokens_1T[:, :head]))
    for first in range(0, min(head, len(ids) - 1), CHUNK):
        with torch.no_grad():
            logits_TV = model.logits(hidden_1TD[:, first : first + CHUNK])[0].float()
        found += _reported(logits_TV, ids[first + 1 :], tops)
        yield None
    rows = max(1, CHUNK // limit)
    for first in range(head, len(ids) - 1, rows):
        ends = range(first, min(first + rows, len(ids) - 1))
        windows_BT = torch.cat([tokens_1T[:, end + 1 - limit : end + 1] for end in ends])
        with torch.no_grad():
            logits_BV = model(windows_BT)[:, -1].float()
        found += _reported(logits_BV, ids[first + 1 :], tops)
        yield None
    yield found


def _reported(logits_TV: Tensor, following: Sequence[int], tops: int) -> Scores:
    check_finite(logits_TV)
    return log_probabilities(logits_TV[: len(following)], following[: len(logits_TV)], tops)
