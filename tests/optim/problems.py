"""Small problems for optimizers: parameters of every kind, steps as the trainer takes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gpt_lab.optim.groups import Group
from gpt_lab.parts.base import Role
from gpt_lab.train.speed.eager import light_step, spare_compiler

spare_compiler()  # as the trainer does: importing it would take longer than all of these tests
Loss = Callable[[], Tensor]
ROLES: list[Role] = ["vector", "matrix", "matrix", "matrix", "embedding"]
"""Of the parameters of `problem`, in order: a vector, a wide and a tall matrix, a stack of two, an embedding."""
NAMES = ["norm.weight", "blocks.0.qkv.weight", "blocks.0.up_proj.weight", "blocks.0.experts.weight", "embed.weight"]
MULTIPLIER = 0.5
"""On the learning rate of matrices."""


def problem(dtype: torch.dtype = torch.float64) -> tuple[list[nn.Parameter], Loss]:
    """A bowl in two numbers, least squares, sines and a cross-entropy."""
    generator = torch.Generator().manual_seed(3)
    shapes = [(6, 4), (9, 4), (2, 3, 4), (5, 4)]
    vector = nn.Parameter(torch.tensor([1.5, -0.5], dtype=dtype))
    wide, tall, stack, table = (nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype)) for shape in shapes)
    x = torch.randn(5, 4, generator=generator, dtype=dtype)
    target = torch.randn(5, 6, generator=generator, dtype=dtype)

    def loss() -> Tensor:
        bowl = 3 * vector[0] ** 2 + 0.5 * vector[1] ** 2 + vector[0] * vector[1]
        fit = (x @ wide.T - target).square().mean() + (x @ tall.T).sin().sum()
        few = 0.02 * (x @ stack.mT).tanh().square().sum()
        likely = (x @ table.T).logsumexp(-1).sum() - (x @ table.T).diagonal().sum()
        return bowl + fit + few + likely

    return [vector, wide, tall, stack, table], loss


def as_groups(params: list[nn.Parameter], rows: tuple[int, ...] = ()) -> list[Group]:
    """The groups of `problem`'s parameters; `rows` says that the wide matrix is several below each other."""
    named = list(zip(NAMES, params, strict=True))
    fused = {NAMES[1]: rows} if rows else {}
    return [
        Group("vector", named[:1], decay=False),
        Group("matrix", named[1:4], lr_multiplier=MULTIPLIER, rows=fused),
        Group("embedding", named[4:]),
    ]


def rate(step: int) -> float:
    """What the learning rates are multiplied with at a 0-based step: it rises, then falls."""
    return min((step + 1) / 3, 1.0 - 0.07 * (step - 2))


def curvature(p: Tensor, step: int) -> Tensor:
    """What stands for an estimate of a Hessian's diagonal; some of it is negative."""
    return torch.cos(torch.arange(p.numel(), dtype=p.dtype) * (step + 1)).view_as(p) + 0.4


def run(optimizer: torch.optim.Optimizer, loss: Loss, steps: int = 10, start: int = 0, whole: int = 10) -> None:
    """Steps of `whole`, under a learning rate that changes at each, with what the trainer gives beside gradients."""
    chosen: Any = optimizer
    update = light_step(optimizer)
    for step in range(start, start + steps):
        multiplier = rate(step)
        if hasattr(chosen, "rate"):
            multiplier = chosen.rate(multiplier)
        for group in optimizer.param_groups:
            group["lr"], group["progress"] = group["base_lr"] * multiplier, (step + 1) / (whole + 1)
        optimizer.zero_grad()
        loss().backward()
        if hasattr(chosen, "curve") and step % chosen.every == 0:
            params = [p for group in optimizer.param_groups for p in group["params"]]
            chosen.curve(params, [curvature(p, step) for p in params])
        update()
