"""Number formats that weights can be kept in between steps, and rounding at random to them.

An update smaller than half a step of the format is lost by rounding to nearest, every time. Rounded up with the
probability of what is cut off, it is kept on average (Gupta et al. 2015, arXiv:1502.02551). O rows, I columns.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

CODES = 127
"""Largest code: codes are symmetric about 0."""
BITS = 16
"""Of each random number: sums of one and a code are exact in fp32, so that the largest of a row stays the largest."""


class Format(ABC):
    """A number format of weights.

    Attributes:
        modules: classes whose weights can be kept in it.
        size: bytes of a number, and `row` those that each row adds.
        head: whether the output head may be kept in it.
    """

    modules: tuple[type[nn.Module], ...]
    size: int
    row: int
    head: bool

    @abstractmethod
    def encode(self, values_OI: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor | None]:
        """What is kept of fp32 values: numbers, and a factor (O, 1) of each row where there is one.

        Args:
            generator: what rounding draws from; None: rounds to nearest, which changes nothing that `decode` gave.
        """

    @abstractmethod
    def decode(self, kept_OI: Tensor, scale_O1: Tensor | None) -> Tensor:
        """The values (O, I) in fp32."""

    def nbytes(self, weight: Tensor) -> int:
        """Of a weight that is kept."""
        return self.size * weight.numel() + self.row * len(weight)


class KeptBF16(Format):
    """bfloat16: fp32 without its last 16 bits."""

    modules, size, row, head = (nn.Linear, nn.Embedding), 2, 0, True

    def encode(self, values_OI: Tensor, generator: torch.Generator | None) -> tuple[Tensor, None]:
        if generator is None:
            return values_OI.bfloat16(), None
        draws = _draws(values_OI, generator)
        up = ((values_OI.contiguous().view(torch.int32) + draws) >> BITS << BITS).view(torch.float32)
        return torch.where(values_OI.isfinite(), up, values_OI).bfloat16(), None

    def decode(self, kept_OI: Tensor, scale_O1: Tensor | None) -> Tensor:
        return kept_OI.float()


class KeptInt8(Format):
    """Codes of -127 to 127, shares of the largest absolute value of their row."""

    modules, size, row, head = (nn.Linear,), 1, 4, False

    def encode(self, values_OI: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        largest_O1 = values_OI.abs().amax(-1, keepdim=True)
        shares = values_OI / torch.where(largest_O1 == 0, 1.0, largest_O1) * CODES
        if generator is None:
            codes = shares.round_()
        else:
            codes = shares.add_(_draws(values_OI, generator) * 2.0**-BITS).floor_()
        return codes.clamp_(-CODES, CODES).to(torch.int8), largest_O1

    def decode(self, kept_OI: Tensor, scale_O1: Tensor | None) -> Tensor:
        assert scale_O1 is not None
        return kept_OI.float().div_(CODES).mul_(scale_O1)


def _draws(like: Tensor, generator: torch.Generator) -> Tensor:
    """Whole numbers below 2^16, each as likely."""
    return torch.randint(1 << BITS, like.shape, dtype=torch.int32, device=like.device, generator=generator)
