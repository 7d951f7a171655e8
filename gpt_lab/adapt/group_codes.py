"""Weights as whole numbers of 4 or 8 bits, with a scale for each group of columns.

Symmetric about 0 and rounded to nearest, so that no weight moves by more than half its group's scale. What is kept of a
weight (O, I) are three tensors in its place: `codes`, `scales` (O, groups), `format` (bits, group, I).

O rows, I columns, G columns of a group.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

CODES, SCALES, FORMAT = "codes", "scales", "format"


def encode(weight_OI: Tensor, bits: int, group: int) -> dict[str, Tensor]:
    """The tensors that stand for a weight: int8 codes, or two of 4 bits a byte."""
    columns = weight_OI.shape[1]
    group = min(group, columns + columns % 2)
    padded = F.pad(weight_OI.detach().float(), (0, -columns % group))
    if bits == 4 and padded.shape[1] % 2:  # an odd number of groups of odd length
        padded = F.pad(padded, (0, group))
    parts_OCG = padded.unflatten(1, (-1, group))
    largest = 2 ** (bits - 1) - 1
    scales_OC = parts_OCG.abs().amax(-1) / largest
    codes_OI = (parts_OCG / torch.where(scales_OC == 0, 1.0, scales_OC)[..., None]).round().clamp(-largest, largest)
    codes = codes_OI.flatten(1).to(torch.int8)
    if bits == 4:
        low, high = (codes + 8).view(torch.uint8).unflatten(1, (-1, 2)).unbind(-1)
        codes = low | (high << 4)
    about = torch.tensor([bits, group, columns], device=codes.device)
    return {CODES: codes, SCALES: scales_OC, FORMAT: about}


def decode(codes: Tensor, scales_OC: Tensor, about: Tensor) -> Tensor:
    """The weight (O, I) in fp32 that `encode`'s tensors stand for."""
    bits, group, columns = about.tolist()
    if bits == 4:
        codes = torch.stack((codes & 15, codes >> 4), dim=-1).flatten(1).to(torch.int8) - 8
    values_OCG = codes.float().unflatten(1, (-1, group)) * scales_OC[..., None]
    return values_OCG.flatten(1)[:, :columns].contiguous()


def encoded(tensors: Mapping[str, Tensor], bits: int, group: int, names: frozenset[str]) -> dict[str, Tensor]:
    """Tensors of a model with some of its weights in few bits.

    Args:
        names: of the weights that are, as `...weight`.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name in names:
            place = name.removesuffix("weight")
            found |= {place + key: value for key, value in encode(tensor, bits, group).items()}
        else:
            found[name] = tensor
    return found
