"""Largest attention scores, and weights that shrink so that they stay below a limit (QK-Clip of Kimi K2).

Paper: Kimi Team 2025, arXiv:2507.20534. Shape letters as in parts/base.py.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gpt_lab.kernels.base import KeyView, visible

QUERIES = 256
"""Queries whose scores are held at a time."""


@torch.no_grad()
def largest_scores(
    q_BHTK: Tensor, k_BGSK: Tensor, scale: float, view: KeyView, hidden_BHTS: Tensor | None = None
) -> Tensor:
    """The largest scale q k of each head over all that queries see, before any cap or bias: (H,), fp32.

    Args:
        hidden_BHTS: 0, or -inf where a key is hidden beside what the view hides; H may be 1.
    """
    batch, heads, queries, _ = q_BHTK.shape
    groups, keys = k_BGSK.shape[1:3]
    seen = visible(queries, keys, q_BHTK.device, view)
    found = q_BHTK.new_full((heads,), float("-inf"), dtype=torch.float32)
    for first in range(0, queries, QUERIES):
        rows = slice(first, first + QUERIES)
        q_BGXK = q_BHTK[:, :, rows].reshape(batch, groups, -1, q_BHTK.shape[-1])
        scores = (q_BGXK @ k_BGSK.transpose(2, 3)).view(batch, heads, -1, keys).float() * scale
        if hidden_BHTS is not None:
            scores = scores + hidden_BHTS[..., rows, :]
        found = torch.maximum(found, scores.masked_fill(~seen[..., rows, :], float("-inf")).amax((0, 2, 3)))
    return found


def shrinking(largest_H: Tensor, most: float) -> Tensor:
    """What each head's scores must be multiplied with to be at most `most`: 1 for those that are."""
    return torch.where(largest_H > most, most / largest_H, torch.ones_like(largest_H))
