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
    """A matrix (O, I) for each of E groups: weight (E, O, I), and bias (E, O) if asked.

    forward: rows (N, I) sorted by group, and where each group ends, int32 (E,), ascending -> (N, O). Rows behind the
    last end are not computed: theirs are arbitrary numbers, and so are their gradients.
    """

    def __init__(self, groups: int, inner: int, outer: int, bias: bool = False) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(groups, outer)) if bias else None
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
        y_NO = y_NO[:, :outer] if outer % ALIGNED else y_NO
        if self.bias is None:
            return y_NO
        rows_N = torch.arange(x_NI.shape[0], device=x_NI.device, dtype=ends_E.dtype)
        group_N = torch.searchsorted(ends_E, rows_N, right=True).clamp(max=self.bias.shape[0] - 1)
        return y_NO + self.bias.to(dtype).index_select(0, group_N)


class GatedExperts(nn.Module):
    """A SwiGLU for each group: down(silu(gate x) * up x). forward: as Stacked, (N, D) -> (N, D).

    Args:
        clamp: gpt-oss's SwiGLU: with the gate at most and up within +- this, gate sigmoid(1.702 gate) (up + 1); None:
            the plain one.
    """

    def __init__(self, groups: int, width: int, hidden: int, bias: bool = False, clamp: float | None = None) -> None:
        super().__init__()
        self.clamp = clamp
        self.gate_up_proj = Stacked(groups, width, 2 * hidden, bias)
        self.down_proj = Stacked(groups, hidden, width, bias)

    def forward(self, x_ND: Tensor, ends_E: Tensor) -> Tensor:
        gate_NF, up_NF = self.gate_up_proj(x_ND, ends_E).chunk(2, dim=-1)
        y_ND: Tensor = self.down_proj(self.gated(gate_NF, up_NF), ends_E)
        return y_ND

    def gated(self, gate_NF: Tensor, up_NF: Tensor) -> Tensor:
        """What the way down reads."""
        if self.clamp is None:
            return F.silu(gate_NF) * up_NF
        gate_NF = gate_NF.clamp(max=self.clamp)
        return gate_NF * torch.sigmoid(1.702 * gate_NF) * (up_NF.clamp(-self.clamp, self.clamp) + 1)


def in_fp32(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A router's logits: rounded to bf16, close choices would fall at random (Fedus et al. 2021, arXiv:2101.03961)."""
    with torch.autocast(x.device.type, enabled=False):
        return F.linear(x.float(), weight.float(), None if bias is None else bias.float())
