"""Several attentions by a pattern over the layers. Constructor: (shape, layer, *, options)."""

from __future__ import annotations

from torch import nn

from gpt_lab import registry
from gpt_lab.options import Letters, NonEmpty
from gpt_lab.parts.base import Shape
from gpt_lab.registry import register


@register("attention", "hybrid")
class Hybrid:
    """Each layer has the attention that its letter of a pattern names, such as three linear ones, then one full.

    Reference: Lieber et al. 2024, arXiv:2403.19887 (Jamba), and most hybrid models since.

    What is built is the letter's part itself: a layer starts as it would with that attention in all layers, and its
    kernel, decoding state and cost are that part's.

    pattern: one letter a layer, repeated over the layers.
    letters: the attention of each letter, by name, with options of its own: attention.letters.G.name=gqa
        attention.letters.G.kv_heads=2. Letters that the pattern leaves out are no part of the run. A letter of sliding
        attention has a pattern of its own, over the same layers: S for all of them to slide.
    """

    def __new__(  # type: ignore[misc]  # one part for each layer, and none around it
        cls,
        shape: Shape,
        layer: int,
        *,
        pattern: NonEmpty = "AN",
        letters: Letters = {"A": {"name": "mha"}, "N": {"name": "none"}},  # noqa: B006
    ) -> nn.Module:
        made: nn.Module = registry.build("attention", letters[pattern[layer % len(pattern)]], shape, layer)
        return made
