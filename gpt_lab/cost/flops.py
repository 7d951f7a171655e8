"""Parameters and FLOPs of a config, exact, without allocating a weight; and when two configs cost the same.

FLOPs are those of matrix products, 2 for each multiply-add. There are two counts of attention, for a sequence of T:

- `flops_per_token`: of the keys that a causal query sees, (T + 1) / 2 on average, fewer in a window. It is what a token
  costs: budgets, `match=flops`, and all that a report says of FLOPs.
- `mfu_flops_per_token`: each query as if it were the last, which sees all T keys or its whole window: 12 L H K T in
  training, the convention of MFU (Chowdhery et al. 2022, arXiv:2204.02311, appendix B). For perf/mfu, and for how long
  a step takes.

Parts report the first; the second follows: the last token costs what T tokens do less what T - 1 do. What a kernel
computes may be more than both (math computes scores that the mask hides) and shows in seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from gpt_lab import registry
from gpt_lab.config.schema import TOLERANCE, RunConfig, Section
from gpt_lab.errors import ConfigError
from gpt_lab.model.gpt import GPT
from gpt_lab.parts.base import role

COUNTED = {"params": "non-embedding parameters", "flops": "training FLOPs per token"}
"""What each value of `match` makes equal, in words; parameters are those that a token uses."""


@dataclass(frozen=True)
class Cost:
    """The price of one model.

    Fields:
        parameters: all trained numbers, vocabulary padding included.
        embedding: those of token and position embeddings and of an untied head.
        non_embedding: the rest.
        active: those of the rest that a token uses: less than all where experts take turns.
        train_flops_per_token: 3 x those of a forward pass, averaged over the tokens of the training context, and what
            the optimizer asks of the model beside gradients, averaged over steps. What checkpointing computes again is
            not counted, nor the optimizer's own arithmetic.
        mfu_flops_per_token: of training too, as MFU counts attention (above).
        teacher_flops_per_token: of both, those of a teacher's forward pass.
    """

    parameters: int
    embedding: int
    non_embedding: int
    active: int
    train_flops_per_token: int
    mfu_flops_per_token: int
    teacher_flops_per_token: int = 0

    def taught(self, forward: int) -> Cost:
        """The cost with a teacher whose forward pass takes so many FLOPs per token."""
        train, as_mfu = self.train_flops_per_token + forward, self.mfu_flops_per_token + forward
        return replace(self, train_flops_per_token=train, mfu_flops_per_token=as_mfu, teacher_flops_per_token=forward)

    def repeated(self, passes: int) -> Cost:
        """The cost where each token that is read is passed through model and teacher so often."""
        names = ("train_flops_per_token", "mfu_flops_per_token", "teacher_flops_per_token")
        return replace(self, **{name: passes * getattr(self, name) for name in names})


def cost(cfg: RunConfig, vocab_size: int) -> Cost:
    """The cost of the model that `cfg` describes, built on the meta device.

    Raises:
        ConfigError: the parts and sizes do not fit together.
    """
    with torch.device("meta"):
        model = GPT(cfg, vocab_size)
    return cost_of(model, cfg.optim)


def cost_of(model: GPT, optim: Section | None = None, context: int | None = None) -> Cost:
    """The cost of a model that exists already.

    Args:
        optim: settings of the optimizer that trains it; None: by gradients alone.
        context: length of the rows; None: the model's.
    """
    total = embedding = 0
    for name, parameter in model.named_parameters():
        total += parameter.numel()
        embedding += parameter.numel() if role(name, parameter.ndim) in ("embedding", "head") else 0
    rest = total - embedding
    active = rest - sum(getattr(module, "idle_parameters", 0) for module in model.modules())
    beside = None if optim is None else getattr(registry.build("optim", optim), "flops_per_token", None)
    length = context or model.shape.context

    def training(count: Callable[[Any, int], float]) -> int:
        forward = _forward(model, count, length)
        return 3 * forward + (0 if beside is None else round(beside(model, forward, length)))

    return Cost(total, embedding, rest, active, training(_average), training(_last))


def _forward(model: GPT, count: Callable[[Any, int], float], context: int) -> int:
    """Forward FLOPs of a token: of every part that states its own, at each depth where it stands."""
    found: dict[str, float] = {}
    for block in model.layers():
        found["block"] = found.get("block", 0.0) + (count(block, context) if hasattr(block, "flops_per_token") else 0.0)
        for name, child in block.named_children():
            found[name] = found.get(name, 0.0) + _stated(child, count, context)
    for name, part in (("position", model.position), ("streams", model.streams), ("auxiliary", model.auxiliary)):
        if part is not None:
            found[name] = _stated(part, count, context)
    head = model.embed.weight if model.head is None else model.head.weight
    return sum(map(round, found.values())) + 2 * head.numel()


def _stated(module: nn.Module, count: Callable[[Any, int], float], context: int) -> float:
    """What the outermost parts in a module state; what is inside one is in its number."""
    if hasattr(module, "flops_per_token"):
        return count(module, context)
    return sum(_stated(child, count, context) for child in module.children())


def _average(part: Any, context: int) -> float:
    return float(part.flops_per_token(context))


def _last(part: Any, context: int) -> float:
    """FLOPs of the last token: what all tokens cost less what they cost without it."""
    before = (context - 1) * _average(part, context - 1) if context > 1 else 0.0
    return context * _average(part, context) - before


def counted(cost: Cost, match: str) -> int:
    """What a value of `match` compares: see COUNTED."""
    return {"params": cost.active, "flops": cost.train_flops_per_token}[match]


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
        raise ConfigError(f"match={cfg.match} without match_to: gpt_lab.cost.match.compose finds both it and the sizes")
    count = counted(cost, cfg.match)
    if not is_matched(count, cfg.match_to, cfg.match):
        raise ConfigError(
            f"match={cfg.match}: the model has {count:,} {COUNTED[cfg.match]}, {count / cfg.match_to - 1:+.2%} against "
            f"match_to={cfg.match_to:,}, and {TOLERANCE[cfg.match]:.1%} is allowed"
        )
