"""A parity case: one part as it ships and an implementation nobody here wrote, with the same weights and inputs.

    @parity("attention", "mla", "transformers.DeepseekV3Attention")
    def mla() -> Comparison: ...

What a case returns is measured by tests/parity/test_parts.py and by `components --parity`, which writes the
certificates.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

TOLERANCE = 1e-5
"""Largest difference of outputs and gradients, fp32; weights are drawn so large that outputs are of size 1."""
Pairs = Sequence[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Comparison:
    """What both sides gave: (ours, theirs) of outputs, and of gradients of the same weights or inputs."""

    outputs: Pairs
    gradients: Pairs


Run = Callable[[], Comparison]


@dataclass(frozen=True)
class Case:
    """A part, the reference's dotted name, and the function that runs both.

    Fields:
        package: the distribution whose version the certificate names, the first word of the reference.
    """

    kind: str
    name: str
    reference: str
    run: Callable[[], Comparison]
    options: str = ""

    @property
    def package(self) -> str:
        return self.reference.split(".")[0]


@dataclass
class _Cases:
    found: list[Case] = field(default_factory=list)


_cases = _Cases()


def parity(kind: str, name: str, reference: str, options: str = "") -> Callable[[Run], Run]:
    """Marks a function as the parity case of a part.

    Args:
        reference: dotted name of the class or function held against, the distribution's name first; "formula" and where
            it stands for a formula of the paper in fp64.
        options: what of the part's options the case is about, where it has several.
    """

    def mark(run: Callable[[], Comparison]) -> Callable[[], Comparison]:
        _cases.found.append(Case(kind, name, reference, run, options))
        return run

    return mark


def cases() -> list[Case]:
    """All cases of this package's modules, in their order."""
    import tests.parity as package

    for module in pkgutil.iter_modules(package.__path__):
        if not module.name.startswith("test_"):
            importlib.import_module(f"tests.parity.{module.name}")
    return list(_cases.found)


def largest(pairs: Pairs) -> float:
    """The largest absolute difference."""
    return max(((a.detach() - b.detach()).abs().max().item() for a, b in pairs), default=0.0)


def gradients(output: Tensor, wanted: Sequence[Tensor]) -> list[Tensor]:
    """Gradients of a fixed random projection of the output, 0 where it does not depend on a tensor."""
    generator = torch.Generator().manual_seed(7)
    weight = torch.randn(output.shape, generator=generator, dtype=output.dtype)
    found = torch.autograd.grad((output * weight).sum(), wanted, allow_unused=True, retain_graph=True)
    return [torch.zeros_like(t) if g is None else g for t, g in zip(wanted, found, strict=True)]
