"""Norms of gradients and updates by group of parameters, and the gradient noise scale."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gpt_lab.parts.objective.base import IGNORED, Objective, Sequences
from gpt_lab.train.feed import StepBatch
from gpt_lab.train.precision import Precision


def group(name: str) -> str:
    """The group that a parameter is of, by its name: embed, attention, mlp, head or norms, else what else there is."""
    words = name.split(".")
    if words[0] in ("embed", "head", "position", "auxiliary"):
        return words[0]
    return next((word for word in words if word in ("attention", "mlp")), "norms" if "norm" in name else "other")


def norms(tensors: Mapping[str, Tensor]) -> dict[str, float]:
    """Euclidean norm of all tensors of each group."""
    found: dict[str, float] = {}
    for name, tensor in tensors.items():
        found[group(name)] = found.get(group(name), 0.0) + tensor.detach().float().square().sum().item()
    return {name: math.sqrt(total) for name, total in found.items()}


def noise(model: nn.Module, objective: Objective, precision: Precision, batch: StepBatch) -> dict[str, float]:
    """Estimates of the gradient's square and of its noise from the two halves of a step's rows, in counted targets.

    square: |G|^2 of the true gradient. trace: of the covariance of one target's gradient. Their ratio, each a mean over
    steps, is the batch size in targets beyond which more of them help little: the simple noise scale (McCandlish et
    al. 2018, arXiv:1812.06162, appendix A.1). {} where a step has one row, and under objectives with rows of their own.
    The model's gradients, buffers and random numbers are as before.
    """
    rows = [
        Sequences(*(None if t is None else t[row : row + 1] for t in micro[:4]))  # type: ignore[arg-type]
        for micro in batch.micro
        for row in range(len(micro.tokens_BT))
    ]
    if len(rows) < 2 or objective.rows:  # pairs cannot be halved, and a mean over pairs or samples is not of targets
        return {}
    counts, gradients = [], []
    with untouched(model):
        for half in (rows[: len(rows) // 2], rows[len(rows) // 2 :]):
            gradient, targets = _gradient(model, objective, precision, half)
            if not targets:
                return {}
            counts.append(targets)
            gradients.append(gradient)
    small = 2 / (1 / counts[0] + 1 / counts[1])
    big = sum(counts)
    squares = [sum(t.square().sum().item() for t in one) for one in gradients]
    both = zip(*gradients, strict=True)
    whole = sum(((counts[0] * a + counts[1] * b) / big).square().sum().item() for a, b in both)
    of_half = sum(squares) / 2
    return {
        "square": (big * whole - small * of_half) / (big - small),
        "trace": (of_half - whole) / (1 / small - 1 / big),
    }


def _gradient(
    model: nn.Module, objective: Objective, precision: Precision, rows: list[Sequences]
) -> tuple[list[Tensor], int]:
    """The gradient of the mean over the rows' targets, and their number; rows of one length go together."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    scale = 1.0 if precision.scaler is None else precision.scaler.get_scale()
    targets = [int((row.targets_BT != IGNORED).sum()) for row in rows]
    found = [torch.zeros_like(p, dtype=torch.float32) for p in parameters]
    lengths = {row.tokens_BT.shape[1] for row in rows}
    for length in sorted(lengths):
        chosen = [number for number, row in enumerate(rows) if row.tokens_BT.shape[1] == length]
        share = sum(targets[number] for number in chosen) / max(sum(targets), 1)
        given = Sequences(
            *(
                None if part[0] is None else torch.cat(list(part))  # type: ignore[arg-type]
                for part in zip(*(rows[number] for number in chosen), strict=True)
            )
        )
        with precision.autocast():
            loss = objective.train(model, given).loss * (share * scale)  # type: ignore[arg-type]
        for total, part in zip(found, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True):
            if part is not None:
                total.add_(part.float() / scale)
    return found, sum(targets)


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """In eval mode; modes, buffers and the generators of random numbers are afterwards as before."""
    training = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    devices: list[Any] = list({p.device for p in model.parameters() if p.device.type == "cuda"})
    model.eval()
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        for module, was in training:
            module.training = was
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
