"""A model's linear layers with weights rounded to few bits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from gpt_lab.adapt.group_codes import CODES, FORMAT, SCALES, decode, encode
from gpt_lab.adapt.lora import AdaptedLinear


def linear_weights(model: nn.Module) -> frozenset[str]:
    """Names of the weights that are rounded: those of linear layers, an untied head included."""
    return frozenset(f"{name}.weight" for name, module in model.named_modules() if _is_linear(module))


@contextmanager
def rounded(model: nn.Module, bits: int, group: int) -> Iterator[None]:
    """Inside, the weights of linear layers, adapters added, are as if kept in so many bits; afterwards as before."""
    before: list[tuple[Any, type[nn.Module], nn.Parameter | None]] = []
    try:
        for module in filter(_is_linear, model.modules()):
            with torch.no_grad():
                kept = encode(module.weight, bits, group)  # type: ignore[arg-type]
                values = decode(kept[CODES], kept[SCALES], kept[FORMAT])
            before.append((module, type(module), module._parameters.get("weight")))
            module.__class__ = nn.Linear
            module._parameters["weight"] = nn.Parameter(values, requires_grad=False)
        yield
    finally:
        for module, kind, weight in before:
            module.__class__ = kind
            if weight is None:
                del module._parameters["weight"]
            else:
                module._parameters["weight"] = weight


def _is_linear(module: nn.Module) -> bool:
    return type(module) in (nn.Linear, AdaptedLinear)
