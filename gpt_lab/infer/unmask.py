"""Continuation of a text by filling in masks, by a model that reads both ways (Nie et al. 2025, arXiv:2502.09992).

Masks fill the context behind the text, as in training; the first of them, a block, become tokens one at a time in
random order, which at temperature 1 is a draw from the model's own distribution of the block. Then comes the next one.

Shapes: B samples, T tokens, N tokens of a block, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from gpt_lab.errors import LabError
from gpt_lab.model.gpt import GPT

BLOCK = 32
"""Tokens that are filled in together, at most half a context: each of them costs a pass over the whole context."""


def blocks(
    model: GPT,
    prompt_ids: Sequence[int],
    max_tokens: int,
    choose: Callable[[Tensor, Tensor], Tensor],
    streams: Sequence[torch.Generator],
) -> Iterator[Tensor]:
    """New tokens (B, N) of each sample, block by block.

    Args:
        choose: a token of each row (B,), from logits (B, V) and numbers in [0, 1) (B,).
        streams: of each sample, on the CPU: its order and its tokens.

    Raises:
        LabError: the logits are not finite.
    """
    device, context = model.embed.weight.device, model.shape.context
    rows = torch.arange(len(streams), device=device)
    text_BT = torch.tensor([list(prompt_ids)], device=device).expand(len(streams), -1)
    block = max(1, min(BLOCK, context // 2))
    for first in range(0, max_tokens, block):
        number = min(block, max_tokens - first)
        known_BT = text_BT[:, -(context - number) :] if number < context else text_BT[:, :0]
        window_BT = torch.full((len(streams), context), model.vocab_size, device=device)
        begin = known_BT.shape[1]
        window_BT[:, :begin] = known_BT
        orders = [torch.randperm(number, generator=stream) for stream in streams]
        for place_B in begin + torch.stack(orders, dim=1).to(device):
            with torch.no_grad():
                logits_BV = model(window_BT)[rows, place_B].float()
            if not torch.isfinite(logits_BV).all():
                raise LabError(
                    "the model's logits are not finite: its weights diverged; try checkpoint=best or another run"
                )
            uniform_B = torch.stack([torch.rand((), dtype=torch.float64, generator=stream) for stream in streams])
            window_BT[rows, place_B] = choose(logits_BV, uniform_B)
        new_BN = window_BT[:, begin : begin + number]
        text_BT = torch.cat((text_BT, new_BN), dim=1)
        yield new_BN
