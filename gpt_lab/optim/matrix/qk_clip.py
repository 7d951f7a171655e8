"""QK-Clip: attention scores kept below a limit by their weights (Kimi Team 2025, arXiv:2507.20534)."""

from __future__ import annotations

from torch import nn

from gpt_lab.errors import ConfigError
from gpt_lab.parts.attention.softmax import Softmax
from gpt_lab.parts.base import keys_seen


def limit_scores(model: nn.Module, most: float) -> None:
    """Gives every softmax attention of a model a limit.

    Raises:
        ConfigError: it has none, or one whose scores do not follow its weights.
    """
    found = [part for part in model.modules() if isinstance(part, Softmax)]
    if not found:
        raise ConfigError("optim.qk_clip limits the scores of softmax attention, and this model has none: leave it out")
    for part in found:
        part.limit_scores(most)


def score_flops(model: nn.Module, context: int) -> float:
    """Matmul FLOPs a token of all scores in rows of `context` tokens, for as often as attention is used."""
    blocks = getattr(model, "layers", lambda: [model])()
    parts = [part for block in blocks for part in block.modules() if isinstance(part, Softmax)]
    return sum(2 * part.heads * part.head_dim * keys_seen(context, part.window) for part in parts)
