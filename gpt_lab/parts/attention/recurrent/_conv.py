"""A short causal convolution over time, each channel by itself: what a recurrent mixer reads its neighbours with.

Shape letters: B rows, T tokens, C channels, W taps.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ShortConvolution(nn.Module):
    """y_t = sum over w of weight[w] x_{t - W + 1 + w}: a token and the W - 1 before it, by channel; a bias if asked.

    The weight (C, W) and the bias begin uniform within 1/sqrt(W), as torch's convolutions do.
    """

    def __init__(self, channels: int, taps: int, bias: bool = False) -> None:
        super().__init__()
        self.taps = taps
        self.weight = nn.Parameter(torch.empty(channels, taps))
        self.bias = nn.Parameter(torch.zeros(channels)) if bias else None

    def draw(self, name: str, generator: torch.Generator) -> Tensor:
        """Initial values of weight and bias."""
        bound = self.taps**-0.5
        return torch.empty(self.get_parameter(name).shape).uniform_(-bound, bound, generator=generator)

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
        if self.bias is not None:
            y_BTC = y_BTC + self.bias.to(x_BTC.dtype)
        return y_BTC, padded[:, length:]


def shifted(x_BTC: Tensor, earlier_B1C: Tensor | None = None, runs_BT: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The input of the token before, zeros at the first of a run, and the last input, which the next tokens need.

    Args:
        earlier_B1C: the input before the first, of the first token's document. None: zeros.
        runs_BT: as for ShortConvolution.
    """
    first_B1C = torch.zeros_like(x_BTC[:, :1]) if earlier_B1C is None else earlier_B1C.to(x_BTC.dtype)
    before_BTC = torch.cat((first_B1C, x_BTC[:, :-1]), dim=1)
    if runs_BT is not None:
        before_BTC = before_BTC * ~begins(runs_BT)[..., None]
    return before_BTC, x_BTC[:, -1:]


def begins(runs_BT: Tensor) -> Tensor:
    """Whether a token is the first of its run, and another run is before it: bool, (B, T)."""
    return F.pad(runs_BT, (1, 0))[:, :-1] != runs_BT  # runs begin at 0, the one of what came before
