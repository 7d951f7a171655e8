"""A short causal convolution over time, each channel by itself: what a recurrent mixer reads its neighbours with.

Shape letters: B rows, T tokens, C channels, W taps.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ShortConvolution(nn.Module):
    """y_t = sum over w of weight[w] x_{t - W + 1 + w}: a token and the W - 1 before it, by channel, without a bias.

    The weight (C, W) begins uniform within 1/sqrt(W), as torch's convolutions do.
    """

    def __init__(self, channels: int, taps: int) -> None:
        super().__init__()
        self.taps = taps
        self.weight = nn.Parameter(torch.empty(channels, taps))

    def draw(self, name: str, generator: torch.Generator) -> Tensor:
        """Initial values of the weight."""
        bound = self.taps**-0.5
        return torch.empty(self.weight.shape).uniform_(-bound, bound, generator=generator)

    def forward(
        self, x_BTC: Tensor, earlier_BWC: Tensor | None = None, runs_BT: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The output (B, T, C), and the last W - 1 inputs, which the next tokens need.

        Args:
            earlier_BWC: the W - 1 inputs before the first, of the first token's document. None: zeros.
            runs_BT: number of the run of tokens that each belongs to; none reads another's.
        """
        length, before = x_BTC.shape[1], self.taps - 1
        if earlier_BWC is None:
            padded = F.pad(x_BTC, (0, 0, before, 0))
        else:
            padded = torch.cat((earlier_BWC.to(x_BTC.dtype), x_BTC), dim=1)
        weight_WC = self.weight.to(x_BTC.dtype).t()
        y_BTC = x_BTC * weight_WC[before]
        for lag in range(1, min(self.taps, length + before)):
            seen = padded[:, before - lag : before - lag + length]
            if runs_BT is not None:
                run = F.pad(runs_BT, (lag, 0), value=0)[:, :length]  # runs begin at 0, the one of what came before
                seen = seen * (run == runs_BT)[..., None]
            y_BTC = torch.addcmul(y_BTC, seen, weight_WC[before - lag])
        return y_BTC, padded[:, length:]
