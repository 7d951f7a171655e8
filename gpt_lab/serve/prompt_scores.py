"""Log-probabilities of a given text's own tokens, as a generation of the same tokens would have seen them.

Shapes: B rows, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from gpt_lab.infer.cache import Cache
from gpt_lab.infer.generate import PREFILL, check_finite, context_limit
from gpt_lab.infer.sampling import LogProbability, log_probabilities
from gpt_lab.model.gpt import GPT

LOGITS = 2**22
"""Logits that are held at once: 16 MB in fp32, and twice as much in the float64 of their logarithms."""
Scores = list[LogProbability]


def score(model: GPT, ids: Sequence[int], tops: int) -> Iterator[Scores | None]:
    """Of the second token and on: log-probability in nats, and the likeliest tokens. Yields None until they are there.

    Between two of these others have a turn: PREFILL tokens at most, or one context, are read meanwhile, and at most
    LOGITS made. Beyond the training context a position encoding that extrapolates reads on; another reads, for each
    token, the context before it, as generation does.

    Raises:
        LabError: the logits are not finite.
    """
    found: Scores = []
    limit = context_limit(model) or len(ids)
    tokens_1T = torch.tensor([list(ids)], device=next(model.parameters()).device)
    few = max(1, LOGITS // model.vocab_size)
    for hidden_TD in _hidden(model, tokens_1T[:, : min(limit, len(ids) - 1)]):
        for part_TD in hidden_TD.split(few):
            with torch.inference_mode():
                logits_TV = model.logits(part_TD[None])[0].float()
            found += _reported(logits_TV, ids[len(found) + 1 :], tops)
            yield None
    rows = max(1, min(PREFILL // limit, few))
    while len(found) < len(ids) - 1:
        ends = range(len(found) + 1, min(len(found) + 1 + rows, len(ids)))
        windows_BT = torch.cat([tokens_1T[:, end - limit : end] for end in ends])
        with torch.inference_mode():
            logits_BV = model(windows_BT, last=True)[:, 0].float()
        found += _reported(logits_BV, ids[len(found) + 1 :], tops)
        yield None
    yield found


def _hidden(model: GPT, tokens_1T: Tensor) -> Iterator[Tensor]:
    """What the head reads (T, D), PREFILL tokens at a time; of an attention that keeps no state all at once."""
    cache = Cache()
    for first in range(0, tokens_1T.shape[1], PREFILL):
        part_1T = tokens_1T[:, first : first + PREFILL]
        positions_T = torch.arange(first, first + part_1T.shape[1], device=tokens_1T.device)
        with torch.inference_mode():
            hidden_1TD = model.hidden(part_1T, model.flow(part_1T, positions_T, states=cache))
            kept = cache.read(model, part_1T.shape[1])
            if not kept:
                hidden_1TD = model.hidden(tokens_1T, model.flow(tokens_1T))[:, first:]
        yield hidden_1TD[0]
        if not kept:
            return


def _reported(logits_TV: Tensor, following: Sequence[int], tops: int) -> Scores:
    check_finite(logits_TV)
    return log_probabilities(logits_TV[: len(following)], following[: len(logits_TV)], tops)
