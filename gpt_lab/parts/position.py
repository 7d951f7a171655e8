"""How the model knows where a token stands. Constructor: (shape, *, options); one instance serves all layers.

A position encoding acts through three hooks, which do nothing by default: on embeddings, on queries and keys, and on
scores. Shape letters as in parts/base.py; S: keys.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt_lab.errors import ConfigError
from gpt_lab.kernels.base import Memo, alibi
from gpt_lab.options import Fraction, PositiveFloat
from gpt_lab.parts.base import Position, Shape
from gpt_lab.registry import register


@register("position", "none")
class NoPosition(Position):
    """No position encoding: order shows only through the causal mask (NoPE).

    Paper: Kazemnejad et al. 2023, arXiv:2305.19466
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)


@register("position", "learned")
class Learned(Position):
    """A learned vector for each position up to the context, added to the embeddings, as in GPT-2.

    Paper: Gehring et al. 2017, arXiv:1705.03122. Nothing beyond the training context.
    """

    extrapolates = False

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        self.table = nn.Parameter(torch.zeros(shape.context, shape.width))

    def embed(self, x_BTD: Tensor, positions_T: Tensor) -> Tensor:
        return x_BTD + F.embedding(positions_T, self.table)


@register("position", "sinusoidal")
class Sinusoidal(Position):
    """Fixed sines and cosines of geometric wavelengths, added to the embeddings.

    Paper: Vaswani et al. 2017, arXiv:1706.03762

    base: ratio of the longest wavelength to the shortest.
    scaled: multiply token embeddings by sqrt(width) first, as the paper does, so that positions do not drown them.
    """

    rates: Tensor

    def __init__(self, shape: Shape, *, base: PositiveFloat = 10000.0, scaled: bool = True) -> None:
        super().__init__(shape)
        if shape.width % 2:
            raise ConfigError(f"position=sinusoidal pairs sines with cosines: scale.width={shape.width} must be even")
        self.base = base
        self.scale = math.sqrt(shape.width) if scaled else 1.0
        self.register_buffer("rates", torch.empty(shape.width // 2), persistent=False)
        self.fill_tables()
        self._memo = Memo(2)

    def fill_tables(self) -> None:
        width = self.shape.width
        self.rates = self.base ** (-torch.arange(0, width, 2, device=self.rates.device, dtype=torch.float32) / width)

    def table(self, positions_T: Tensor) -> Tensor:
        """(T, D) in fp32: sine and cosine of the i-th rate at 2i and 2i + 1."""

        def build() -> Tensor:
            angles = positions_T.float()[:, None] * self.rates
            return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2)

        table_TD: Tensor = self._memo((), (positions_T, self.rates), build)
        return table_TD

    def embed(self, x_BTD: Tensor, positions_T: Tensor) -> Tensor:
        table_TD = self.table(positions_T).to(x_BTD.dtype)
        return torch.add(table_TD, x_BTD, alpha=self.scale) if self.scale != 1.0 else x_BTD + table_TD


@register("position", "alibi")
class Alibi(Position):
    """Scores fall linearly with distance, at a fixed slope for each head; made for contexts longer than trained on.

    Paper: Press et al. 2022, arXiv:2108.12409
    """

    bias_kind = "alibi"
    slopes_H: Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        self.slopes_H = torch.empty(shape.heads)
        self.fill_tables()

    def fill_tables(self) -> None:
        slopes = alibi_slopes(self.shape.heads)
        self.slopes_H = torch.tensor(slopes, device=self.slopes_H.device, dtype=torch.float32)

    def bias(self, positions_q: Tensor, positions_k: Tensor) -> Tensor:
        return alibi(self.slopes_H, positions_q[:, None] - positions_k[None, :])


def alibi_slopes(heads: int) -> list[float]:
    """2^(-8/n), 2^(-16/n), ... for n heads; where n is no power of 2, those of the power below, then every other one
    of the power above, as in the paper's code."""
    below = 2 ** int(math.log2(heads))
    slopes = [2.0 ** (-8.0 * i / below) for i in range(1, below + 1)]
    return slopes + [2.0 ** (-4.0 * i / below) for i in range(1, 2 * (heads - below), 2)]


@register("position", "rope")
class Rope(Position):
    """Rotary: queries and keys are rotated by their position, so that scores depend on distance alone.

    Paper: Su et al. 2021, arXiv:2104.09864. A head's first half is paired with its second, as in Llama.

    base: ratio of the slowest rotation's period to the fastest's (theta); larger for longer contexts.
    partial: share of the head dimension that is rotated, 0 to 1; the rest carries no position (GPT-NeoX: 0.25).
    scaling: for contexts beyond training: linear divides positions by factor, ntk (arXiv:2309.00071) raises the base.
    factor: how much longer the context becomes; needed by linear and ntk, refused without them.
    """

    rates: Tensor

    def __init__(
        self,
        shape: Shape,
        *,
        base: PositiveFloat = 10000.0,
        partial: Fraction = 1.0,
        scaling: Literal["none", "linear", "ntk"] = "none",
        factor: PositiveFloat | None = None,
    ) -> None:
        super().__init__(shape)
        head_dim = shape.width // shape.heads
        rotated = int(head_dim * partial)
        if rotated < 2 or rotated % 2:
            raise ConfigError(
                f"position.partial={partial:g} of a head dimension of {head_dim} rotates {rotated} dimensions, not an "
                f"even number of at least 2: change position.partial, scale.width or scale.heads, or use position=none"
            )
        if (scaling == "none") != (factor is None):
            raise ConfigError(
                f"position.scaling={scaling} "
                + ("needs position.factor, such as 2.0" if factor is None else "takes no position.factor: remove it")
            )
        self.rotated = rotated
        self.partial = rotated < head_dim
        self.base = base
        self.stretch = 1.0
        if scaling == "linear" and factor is not None:
            self.stretch = factor
        elif scaling == "ntk" and factor is not None and rotated > 2:  # a single rate, 1, knows no base
            self.base = base * factor ** (rotated / (rotated - 2))
        self.register_buffer("rates", torch.empty(rotated // 2), persistent=False)
        self.register_buffer("cos", torch.empty(shape.context, rotated), persistent=False)
        self.register_buffer("sin", torch.empty(shape.context, rotated), persistent=False)
        self.fill_tables()
        self._memo = Memo(2)

    cos: Tensor
    sin: Tensor

    def fill_tables(self) -> None:
        device = self.rates.device
        exponents = torch.arange(0, self.rotated, 2, device=device, dtype=torch.float32) / self.rotated
        self.rates = self.base**-exponents / self.stretch
        self.cos, self.sin = self._waves(torch.arange(self.shape.context, device=device))

    def _waves(self, positions_T: Tensor) -> tuple[Tensor, Tensor]:
        """cos and signed sin, (T, rotated) each: x cos + roll(x) sin rotates, roll swapping the halves."""
        angles = positions_T.float()[:, None] * self.rates
        cos, sin = angles.cos(), angles.sin()
        return torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)

    def waves(self, positions_T: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """cos and signed sin of the positions in the type of queries and keys; computed once for all layers."""
        if torch.compiler.is_compiling() and positions_T.shape[0] <= self.shape.context:
            # sines inside the graph would be fused into, and repeated for, every query of every layer
            return self.cos[positions_T].to(dtype), self.sin[positions_T].to(dtype)

        def build() -> tuple[Tensor, Tensor]:
            cos, sin = self._waves(positions_T)
            return cos.to(dtype), sin.to(dtype)

        found: tuple[Tensor, Tensor] = self._memo(dtype, (positions_T, self.rates), build)
        return found

    def rotate(self, q_BHTK: Tensor, k_BGTK: Tensor, positions_T: Tensor) -> tuple[Tensor, Tensor]:
        cos, sin = self.waves(positions_T, q_BHTK.dtype)
        return self._turn(q_BHTK, cos, sin), self._turn(k_BGTK, cos, sin)

    def _turn(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        if self.partial:
            turned, kept = x.split((self.rotated, x.shape[-1] - self.rotated), dim=-1)
            return torch.cat((_turn(turned, cos, sin), kept), dim=-1)
        return _turn(x, cos, sin)


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    x = x.contiguous()  # a copy that the kernel would make otherwise; the rest then runs on whole rows
    return x.roll(x.shape[-1] // 2, -1).mul_(sin).addcmul_(x, cos)
