"""Localization of a leak: which module changes its output between two inputs that should give the same.

Legend: B rows, T tokens, D width, H heads, K head dimension.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from gpt_lab import registry
from gpt_lab.config.schema import RunConfig
from gpt_lab.model.gpt import GPT

WATCHED = ("attention", "mlp", "norm", "residual")
"""Kinds of parts that are modules and called; the position encoding acts through its hooks."""


@dataclass
class OutputRecord:
    """What each part read and gave at the first reading, which the second is compared with, and put right by.

    Fields:
        kept_BT: where nothing may change. limit: change of an output, relative to its largest value, that is rounding.
        again: whether this is the second reading. found: the parts at fault, in the words that choose them.
    """

    kept_BT: Tensor
    limit: float
    again: bool = False
    found: list[str] = field(default_factory=list)
    _seen: list[tuple[str, list[Tensor], list[Tensor]]] = field(default_factory=list)
    _at: int = 0

    @contextmanager
    def over(self, model: GPT, cfg: RunConfig) -> Iterator[None]:
        """Watches every part of a model while inside."""
        position: Any = model.position
        label, embed, rotate = f"position={cfg.position['name']}", position.embed, position.rotate

        def embedded(x_BTD: Tensor, positions_T: Tensor) -> Any:
            return self._note(label, [x_BTD.clone()], [embed(x_BTD, positions_T)])[0]

        def rotated(q_BHTK: Tensor, k_BGTK: Tensor, positions_T: Tensor) -> Any:
            given = [q_BHTK.clone(), k_BGTK.clone()]
            return tuple(self._note(label, given, list(rotate(q_BHTK, k_BGTK, positions_T)), time=2))

        def watched(label: str) -> Callable[[nn.Module, tuple[Any, ...], Any], Any]:
            return lambda module, given, output: self._note(label, list(given), [output])[0]

        handles = [module.register_forward_hook(watched(label)) for label, module in _parts(model, cfg)]
        position.embed, position.rotate = embedded, rotated
        try:
            yield
        finally:
            del position.embed, position.rotate
            for handle in handles:
                handle.remove()

    def _note(self, label: str, given: list[Any], outputs: list[Any], time: int = 1) -> list[Any]:
        """The outputs of a part: as they are, or put right where they must be as they were."""
        read = [t for t in given if self._mask(t, time) is not None]
        if not read or any(self._mask(t, time) is None for t in outputs):
            return outputs
        if not self.again:
            self._seen.append((label, [t.clone() for t in read], [t.clone() for t in outputs]))
            return outputs
        if self._at == len(self._seen) or self._seen[self._at][0] != label:
            return outputs  # it went another way this time: nothing to compare with
        _, before, earlier = self._seen[self._at]
        self._at += 1
        if not all(change(a, b, self._mask(b, time)) == 0.0 for a, b in zip(before, read, strict=True)):
            return outputs  # what it read has changed: another part, or the one that calls it, is at fault
        pairs = list(zip(earlier, outputs, strict=True))
        if label not in self.found and any(not change(a, b, self._mask(b, time)) <= self.limit for a, b in pairs):
            self.found.append(label)
        return [torch.where(self._mask(b, time), a, b) for a, b in pairs]  # type: ignore[arg-type]

    def _mask(self, tensor: Any, time: int) -> Tensor | None:
        """Where a (B, T, ...), (B T, ...) or, with time=2, (B, H, T, K) must stay; None for anything else."""
        rows, length = self.kept_BT.shape
        if not isinstance(tensor, Tensor) or tensor.ndim < 2:
            return None
        if tensor.ndim > time and (tensor.shape[0], tensor.shape[time]) == (rows, length):
            return self.kept_BT.view(rows, *[1] * (time - 1), length, *[1] * (tensor.ndim - time - 1))
        if time == 1 and tensor.shape[0] == rows * length:
            return self.kept_BT.view(rows * length, *[1] * (tensor.ndim - 1))
        return None


def _parts(model: GPT, cfg: RunConfig) -> Iterator[tuple[str, nn.Module]]:
    """The modules that are parts, with the words that choose them; what is inside attention or an MLP belongs to it."""
    chosen = {
        registry.load(kind, part["name"]): (kind, part["name"])
        for kind in WATCHED
        for _, part in registry.parts_of(kind, getattr(cfg, kind))
    }

    def walk(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
        kind, name = chosen.get(type(module), (None, ""))
        if kind is not None:
            yield f"{kind}={name}", module
        if kind not in ("attention", "mlp"):
            for child in module.children():
                yield from walk(child)

    yield from walk(model)


def change(a: Tensor, b: Tensor, mask: Tensor | None) -> float:
    """Largest difference under the mask, relative to the largest value; infinite where one of two is not a number."""
    differs = (a != b) & ~(a.isnan() & b.isnan())
    if mask is not None:
        differs = differs & mask
    gap = torch.where(differs, (a.float() - b.float()).abs(), 0.0).max().item()
    largest = a.float().nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).abs().max().item()
    return gap / max(largest, 1e-30) if math.isfinite(gap) else math.inf
