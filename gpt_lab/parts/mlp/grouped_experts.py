"""Rows of several groups through a matrix for each group, in one call whose shapes depend on no routing.

Shape letters: N rows, E groups, I and O inner and outer dimension, F hidden width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ALIGNED = 8
"""Dimensions are padded to a multiple of it: grouped_mm wants rows of whole 16 bytes."""


class Stacked(nn.Module):
    """A matrix (O, I) for each of E groups, without biases: weight (E, O, I).

    forward: rows (N, I) sorted by group, and where each group ends, int32 (E,), ascending -> (N, O). Rows behind the
    last end are not computed: theirs are arbitrary numbers, and so are their gradients.
    """

    def __init__(self, groups: int, inner: int, outer: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(groups, outer, inner))
        nn.init.normal_(self.weight, std=inner**-0.5)

    def forward(self, x_NI: Tensor, ends_E: Tensor) -> Tensor:
        kind = x_NI.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x_NI.dtype
        x_NI, weight_EOI = x_NI.to(dtype), self.weight.to(dtype)
        _, outer, inner = weight_EOI.shape
        if outer % ALIGNED or inner % ALIGNED:
            x_NI = F.pad(x_NI, (0, -inner % ALIGNED))
            weight_EOI = F.pad(weight_EOI, (0, -inner % ALIGNED, 0, -outer % ALIGNED))
        y_NO = F.grouped_mm(x_NI, weight_EOI.transpose(1, 2), offs=ends_E)
        return y_NO[:, :outer] if outer % ALIGNED else y_NO


class GatedExperts(nn.Module):
    """A SwiGLU for each group: down(silu(gate x) * up x). forward: as Stacked, (N, D) -> (N, D)."""

    def __init__(self, groups: int, width: int, hidden: int) -> None:
        super().__init__()
        self.gate_up_proj = Stacked(groups, width, 2 * hidden)
        self.down_proj = Stacked(groups, hidden, width)

    def forward(self, x_ND: Tensor, ends_E: Tensor) -> Tensor:
        gate_NF, up_NF = self.gate_up_proj(x_ND, ends_E).chunk(2, dim=-1)
        y_ND: Tensor = self.down_proj(F.silu(gate_NF) * up_NF, ends_E)
        return y_ND


def in_fp32(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A router's logits: rounded to bf16, close choices would fall at random (Fedus et al. 2021, arXiv:2101.03961)."""
    with torch.autocast(x.device.type, enabled=False):
        return F.linear(x.float(), weight.float(), None if bias is None else bias.float())
