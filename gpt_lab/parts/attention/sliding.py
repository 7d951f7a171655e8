"""Sliding-window attention. Constructor: (shape, layer, *, options)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from gpt_lab.errors import ConfigError
from gpt_lab.options import PositiveInt
from gpt_lab.parts.attention.softmax import SelfAttention
from gpt_lab.parts.base import Shape
from gpt_lab.registry import register


@register("attention", "sliding")
class Sliding(SelfAttention):
    """Sliding-window attention in some or all layers: a query sees only the latest tokens.

    Paper: Beltagy et al. 2020, arXiv:2004.05150

    window: tokens a query sees, itself included; null: a quarter of scale.context.
    pattern: one letter a layer, repeated over the layers: S sliding, L long (the whole context).
    kv_heads: key/value heads, which must divide scale.heads; null: as many as query heads.
    sinks: a learned logit for each head in the softmax, as attention=sinks has it (gpt-oss).
    """

    both_ways = False  # its windows end at the query

    def __init__(
        self,
        shape: Shape,
        layer: int,
        *,
        window: PositiveInt | None = None,
        pattern: str = "SSSL",
        kv_heads: PositiveInt | None = None,
        sinks: bool = False,
        **options: Any,
    ) -> None:
        if not pattern or set(pattern) - set("SL"):
            raise ConfigError(f"attention.pattern={pattern!r} must be letters S (sliding) and L (long), such as SSSL")
        if window is not None and window > shape.context:
            raise ConfigError(
                f"attention.window={window} is larger than scale.context={shape.context}: "
                f"choose at most {shape.context}, or attention=mha"
            )
        wanted = max(1, shape.context // 4) if window is None else window
        super().__init__(shape, layer, kv_heads, wanted if pattern[layer % len(pattern)] == "S" else None, **options)
        if sinks:
            self.sinks_H = nn.Parameter(torch.zeros(shape.heads))
