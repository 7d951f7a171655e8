"""Several MLPs by a pattern over the layers. Constructor: (shape, layer, *, options)."""

from __future__ import annotations

from torch import nn

from gpt_lab import registry
from gpt_lab.options import Letters, NonEmpty, PositiveInt
from gpt_lab.parts.base import Shape
from gpt_lab.registry import register


@register("mlp", "hybrid")
class Hybrid:
    """Each layer has the MLP that its letter of a pattern names, such as a dense one, then experts in all later layers.

    Reference: DeepSeek-AI et al. 2024, arXiv:2401.06066 (DeepSeekMoE), whose first layers are dense.

    What is built is the letter's part itself: a layer starts as it would with that MLP in all layers, and its cost is
    that part's.

    pattern: one letter a layer, repeated over the layers.
    first: letters of the first layers, after which the pattern begins: D, or DDD as in DeepSeek-V3.
    letters: the MLP of each letter, by name, with options of its own: mlp.letters.E.name=moe mlp.letters.E.experts=16.
        Letters that neither pattern nor first has are no part of the run. A letter of mod has a pattern of its own,
        over the same layers.
    d_ff: hidden width of the letters' MLPs that state none of their own; null: what each has by default.
    """

    def __new__(  # type: ignore[misc]  # one part for each layer, and none around it
        cls,
        shape: Shape,
        layer: int,
        *,
        pattern: NonEmpty = "DE",
        first: str = "",
        letters: Letters = {"D": {"name": "swiglu"}, "E": {"name": "moe"}},  # noqa: B006
        d_ff: PositiveInt | None = None,
    ) -> nn.Module:
        letter = first[layer] if layer < len(first) else pattern[(layer - len(first)) % len(pattern)]
        chosen = letters[letter]
        if d_ff is not None and chosen.get("d_ff", 0) is None:
            chosen = {**chosen, "d_ff": d_ff}
        made: nn.Module = registry.build("mlp", chosen, shape, layer)
        return made
