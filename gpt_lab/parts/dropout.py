"""Reproducible dropout: masks are a pure hash of seed, step, row and place, never a generator's state.

B: rows of a batch.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

Site = Literal["attention", "attention_out", "mlp_out", "embed"]
_SITES: tuple[Site, ...] = ("attention", "attention_out", "mlp_out", "embed")
_LOW_32 = 0xFFFFFFFF


def salt(layer: int, site: Site) -> int:
    """A number that no two places of dropout in a model share."""
    return layer * len(_SITES) + _SITES.index(site)


def row_salt(layer: int, branch: int) -> int:
    """A number that no two branches (0 or 1) share, nor any place of dropout: below 0."""
    return -1 - (2 * layer + branch)


def objective_salt(draw: int, what: int) -> int:
    """A number that no two draws of an objective share, nor any place of dropout or branch: far below 0."""
    return -(1 << 24) - (4 * draw + what)


def _mix(h: Tensor) -> Tensor:
    """A 32-bit hash of numbers in [0, 2^32), held in int64.

    Both factors are below 2^31, so that no product overflows: overflow is where compilers and devices may differ.
    """
    h = ((h ^ (h >> 16)) * 0x21F0AAAD) & _LOW_32
    h = ((h ^ (h >> 15)) * 0x735A2D97) & _LOW_32
    return h ^ (h >> 15)


def row_keys(seed: int, step: int, rows: Tensor) -> Tensor:
    """Dropout keys (int64, one for each row number in `rows`) of one optimizer step: the model's `keys_B`."""
    key = _mix((rows ^ (rows >> 32)) & _LOW_32)
    for number in (step, seed, seed >> 32):
        key = _mix(key ^ ((number * 0x9E3779B1 + 1) & _LOW_32))
    return key


def row_noise(keys_B: Tensor, salt: int, shape: tuple[int, ...]) -> Tensor:
    """Random numbers in [0, 2^32), int64, (B, *shape).

    A pure integer hash of (row key, salt, index of the element in its row): the same on every device, in every
    micro-batch, compiled or not, and when activations are recomputed.
    """
    key_B = _mix((keys_B & _LOW_32) ^ _mix((keys_B >> 32) & _LOW_32))
    key_B = _mix(key_B ^ ((salt * 0x9E3779B1 + 1) & _LOW_32))
    count = 1
    for size in shape:
        count *= size
    index_N = _mix(torch.arange(count, device=keys_B.device))
    return _mix(index_N ^ key_B[:, None]).view(-1, *shape)


def dropped(keys_B: Tensor, salt: int, shape: tuple[int, ...], p: float) -> Tensor:
    """Which elements of a (B, *shape) tensor dropout removes, as bool."""
    return row_noise(keys_B, salt, shape) < int(p * 2**32)


class KeyedDropout(nn.Module):
    """Inverted dropout with a reproducible mask; the identity if p is 0, in eval mode, or without keys.

    Args:
        p: probability that an element is dropped.
        site: where in a layer it stands; with the layer's depth it tells this place from all others.
    """

    def __init__(self, p: float, site: Site) -> None:
        super().__init__()
        self.p = p
        self.site: Site = site

    @property
    def draws(self) -> bool:
        """Whether training draws random numbers here, so that rows need keys."""
        return self.p > 0.0

    def forward(self, x: Tensor, keys_B: Tensor | None, layer: int) -> Tensor:
        """x: (B, ...); keys_B: (B,) int64; layer: depth at which it is applied."""
        if self.p == 0.0 or keys_B is None or not self.training:
            return x
        mask = dropped(keys_B, salt(layer, self.site), tuple(x.shape[1:]), self.p)
        return (x * (1.0 / (1.0 - self.p))).masked_fill(mask, 0.0)

    def extra_repr(self) -> str:
        return f"p={self.p}, site={self.site}"
