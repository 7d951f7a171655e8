"""The two sides of a matrix, and which of them a preconditioner acts on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gpt_lab.optim.groups import Group, param_group

DIMENSION = {"left": -2, "right": -1}
"""Rows (outputs) are the left side of an (out, in) matrix, columns the right one."""
SIDES = {
    "matrix": ["left", "right"],
    "residual": ["left", "right"],
    "embedding": ["right"],
    "head": ["right"],
}
"""Of an embedding or head the side of the model's width alone: rows are tokens, as many as the vocabulary has."""


def sided_groups(groups: Iterable[Group], lr: float, weight_decay: float) -> Iterator[dict[str, Any]]:
    """Torch parameter groups: matrices, and stacks of them, with their `sides`; all else with `own: False`."""
    for group in groups:
        wanted = SIDES.get(group.role, [])
        matrices = [(name, p) for name, p in group.params if wanted and p.ndim > 1]
        others = [(name, p) for name, p in group.params if not (wanted and p.ndim > 1)]
        if matrices:
            yield param_group(replace(group, params=matrices), lr, weight_decay, own=True, sides=wanted)
        if others:
            yield param_group(replace(group, params=others), lr, weight_decay, own=False, sides=[])


def sides(p: Tensor, group: dict[str, Any]) -> list[str]:
    """The sides of a (..., m, n) parameter that are preconditioned: those of at most `max_dim`."""
    return [side for side in group["sides"] if p.shape[DIMENSION[side]] <= group["max_dim"]]


def square_of(p: Tensor, side: str) -> Tensor:
    """Zeros (..., n, n) for a side of size n."""
    size = p.shape[DIMENSION[side]]
    return torch.zeros(*p.shape[:-2], size, size, dtype=p.dtype, device=p.device)


def outer(grad: Tensor, side: str) -> Tensor:
    """g g^T or g^T g."""
    return grad @ grad.mT if side == "left" else grad.mT @ grad


def act(matrix: Tensor, side: str, on: Tensor) -> Tensor:
    """A symmetric or orthogonal matrix on one side of another: its transpose on the left, itself on the right."""
    return matrix.mT @ on if side == "left" else on @ matrix
