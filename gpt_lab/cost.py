"""What a config costs: parameters and FLOPs, exact, without allocating a weight; and when two cost the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from gpt_lab.errors import ConfigError
from gpt_lab.model import GPT
from gpt_lab.parts.base import role
from gpt_lab.schema import TOLERANCE, RunConfig

COUNTED = {"params": "non-embedding parameters", "flops": "training FLOPs per token"}
"""What each value of `match` makes equal, in words."""


@dataclass(frozen=True)
class Cost:
    """The price of one model.

    Fields:
        parameters: all trained numbers, vocabulary padding included.
        embedding: those of token and position embeddings and of an untied head.
        non_embedding: the rest.
        forward_flops_per_token: matrix-multiplication FLOPs (2 for each multiply-add) of one token at the training
            context; attention is counted densely, without halving for causality, as in PaLM's MFU.
        train_flops_per_token: forward and backward, 3 x forward; recomputation by checkpointing is not counted.
        by_part: forward FLOPs per token of attention, mlp, position and head, over all layers.
        parameters_by_part: parameters of embed, position, attention, mlp, norm and head.
    """

    parameters: int
    embedding: int
    non_embedding: int
    forward_flops_per_token: int
    train_flops_per_token: int
    by_part: dict[str, int]
    parameters_by_part: dict[str, int]


def cost(cfg: RunConfig, vocab_size: int) -> Cost:
    """The cost of the model that `cfg` describes, built on the meta device.

    Raises:
        ConfigError: the parts and sizes do not fit together.
    """
    with torch.device("meta"):
        model = GPT(cfg, vocab_size)
    return cost_of(model)


def cost_of(model: GPT) -> Cost:
    """The cost of a model that exists already."""
    context, width = model.shape.context, model.shape.width
    blocks: list[Any] = list(model.blocks)
    parts = dict.fromkeys(("embed", "position", "attention", "mlp", "norm", "head"), 0)
    embedding = 0
    for name, parameter in model.named_parameters():
        if role(name, parameter.ndim) in ("embedding", "head"):
            embedding += parameter.numel()
        parts[_part(name)] += parameter.numel()
    flops = {
        "attention": sum(block.attention.flops_per_token(context) for block in blocks),
        "mlp": sum(block.mlp.flops_per_token(context) for block in blocks),
        "position": model.position.flops_per_token(context),
        "head": 2 * width * model.embed.num_embeddings,
    }
    total, forward = sum(parts.values()), sum(flops.values())
    return Cost(total, embedding, total - embedding, forward, 3 * forward, flops, parts)


def counted(cost: Cost, match: str) -> int:
    """What a value of `match` compares: see COUNTED."""
    return {"params": cost.non_embedding, "flops": cost.train_flops_per_token}[match]


def is_matched(count: int, target: int, match: str) -> bool:
    """Whether a count is within the tolerance of `match`."""
    return abs(count - target) <= TOLERANCE[match] * target


def check_match(cfg: RunConfig, cost: Cost) -> None:
    """Refuses a config that says it is matched and is not.

    Raises:
        ConfigError: `match_to` is missing, or the model is not that large.
    """
    if cfg.match is None:
        return
    if cfg.match_to is None:
        raise ConfigError(f"match={cfg.match} without match_to: gpt_lab.match.compose finds both it and the sizes")
    count = counted(cost, cfg.match)
    if not is_matched(count, cfg.match_to, cfg.match):
        raise ConfigError(
            f"match={cfg.match}: the model has {count:,} {COUNTED[cfg.match]}, {count / cfg.match_to - 1:+.2%} against "
            f"match_to={cfg.match_to:,}, and {TOLERANCE[cfg.match]:.1%} is allowed"
        )


def _part(name: str) -> str:
    head, *rest = name.split(".")
    if head != "blocks":
        return "norm" if head == "embed_norm" else head
    return rest[1] if rest[1] in ("attention", "mlp") else "norm"
