"""The same blocks several times. Constructor and forward as in single_stream.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gpt_lab.errors import ConfigError
from gpt_lab.options import NonNegativeInt, PositiveInt
from gpt_lab.parts.base import Flow, Shape
from gpt_lab.parts.residual.base import MakeNorm
from gpt_lab.parts.residual.single_stream import PreNorm
from gpt_lab.registry import register


@register("residual", "looped")
class Looped(PreNorm):
    """The layers in the middle are a few blocks used over and over: depth without parameters (looped Transformers).

    Paper: Dehghani et al. 2018, arXiv:1807.03819 (Universal Transformer); Geiping et al. 2025, arXiv:2502.05171

    scale.depth counts uses: a model costs the FLOPs of one with as many layers of their own, and the parameters of
    prelude + (depth - prelude - coda) / loops + coda of them. Each use keeps keys and values of its own; patterns over
    layers (attention=hybrid, sliding) go by block. Blocks are those of residual=pre. Left out are the Universal
    Transformer's signal of the step and its halting, and Geiping's noise as the first state and random number of loops:
    they are as many at every step of training as in use.

    loops: uses of each block in the middle.
    prelude: layers before the middle, used once.
    coda: layers after it, used once.
    inject: how what enters the middle comes back at the start of each loop. none; add: it is added to the stream at
        every loop but the first (Yang et al. 2023, arXiv:2311.12424); adapter: a matrix (2 width to width) makes the
        stream of both, at every loop (Geiping).
    """

    def __init__(
        self,
        shape: Shape,
        layer: int,
        attention: nn.Module,
        mlp: nn.Module,
        make_norm: MakeNorm,
        *,
        loops: PositiveInt = 2,
        prelude: NonNegativeInt = 0,
        coda: NonNegativeInt = 0,
        inject: Literal["none", "add", "adapter"] = "none",
    ) -> None:
        super().__init__(shape, layer, attention, mlp, make_norm)
        self.prelude = prelude
        self.injects = inject != "none" and layer == prelude
        self.adapter = (
            nn.Linear(2 * shape.width, shape.width, bias=False) if self.injects and inject == "adapter" else None
        )

    @classmethod
    def order(cls, depth: int, **options: Any) -> Sequence[int]:
        """The numbers of the blocks: prelude, the middle `loops` times, coda.

        Raises:
            ConfigError: the layers in the middle are no multiple of loops.
        """
        loops, prelude, coda = (options.get(key, usual) for key, usual in (("loops", 2), ("prelude", 0), ("coda", 0)))
        middle = depth - prelude - coda
        if middle < loops or middle % loops:
            raise ConfigError(
                f"residual=looped: scale.depth={depth} less prelude={prelude} and coda={coda} must be a multiple of "
                f"residual.loops={loops}: scale.depth={prelude + coda + loops * max(1, round(middle / loops))} is"
            )
        own = middle // loops
        return [
            *range(prelude),
            *(prelude + place for _ in range(loops) for place in range(own)),
            *range(prelude + own, prelude + own + coda),
        ]

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        return super().forward(self._injected(x, flow) if self.injects else x, flow)

    def _injected(self, x: Tensor, flow: Flow) -> Tensor:
        assert flow.shared is not None, "a pass through the model carries it"
        first = flow.layer == self.prelude
        if first:
            flow.shared["injected"] = x
        entered = flow.shared["injected"]
        if self.adapter is not None:
            joined: Tensor = self.adapter(torch.cat((x, entered), dim=-1))
            return joined
        return x if first else x + entered

    def flops_per_token(self, context: int) -> float:
        """Forward matmul FLOPs of a token in one use: the adapter."""
        return 0 if self.adapter is None else 2 * self.adapter.weight.numel()
