"""What position encodings share whose parameters each layer has for itself. Shape letters as in parts/base.py."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from gpt_lab.parts.base import Position, Shape


class PerLayer(Position):
    """One encoding for each layer, or one for all of them.

    Args:
        make: the encoding of a layer, whose hooks act.
    """

    by_row = True

    def __init__(self, shape: Shape, shared: bool, make: Callable[[], Position]) -> None:
        super().__init__(shape)
        self.layers = nn.ModuleList(make() for _ in range(1 if shared else shape.depth))

    def at(self, layer: int) -> Position:
        found: Position = self.layers[layer if len(self.layers) > 1 else 0]  # type: ignore[assignment]
        return found

    def flops_per_token(self, context: int) -> float:
        return self.shape.depth * self.at(0).flops_per_token(context)
