"""What parts share: the model's shape, what flows beside the activations, parameter roles, reproducible dropout.

Shape letters in names: B rows, T tokens, S cached tokens, D width, H heads, G key/value heads, K head dimension,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, Protocol, Self

import torch
from torch import Tensor, nn

Role = Literal["embedding", "head", "residual", "matrix", "vector"]
Site = Literal["attention", "attention_out", "mlp_out", "embed"]
_SITES: tuple[Site, ...] = ("attention", "attention_out", "mlp_out", "embed")
_LOW_32 = 0xFFFFFFFF


@dataclass(frozen=True)
class Shape:
    """What a part may know of the model around it: layers, model width, query heads, training context, flags."""

    depth: int
    width: int
    heads: int
    context: int
    bias: bool = False
    dropout: float = 0.0


class LayerCacheLike(Protocol):
    """Keys and values that one layer has seen."""

    def update(self, k_BGTK: Tensor, v_BGTK: Tensor, positions_T: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Adds T tokens; returns all that attention may see: keys, values (B, G, S, K), their positions (S,)."""


class KVCacheLike(Protocol):
    """One LayerCacheLike for each layer."""

    def __getitem__(self, layer: int, /) -> LayerCacheLike: ...


class Position(nn.Module):
    """The hooks of a position encoding, all of them doing nothing.

    Attributes:
        extrapolates: whether positions beyond the training context can be computed.
        bias_kind: what is added to scores: "none", "alibi" (through `slopes_H`) or "tensor" (through `bias`).
        slopes_H: ALiBi's slopes, None elsewhere.
    """

    extrapolates: ClassVar[bool] = True
    bias_kind: ClassVar[Literal["none", "alibi", "tensor"]] = "none"
    slopes_H: Tensor | None

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.register_buffer("slopes_H", None, persistent=False)

    def embed(self, x_BTD: Tensor, positions_T: Tensor) -> Tensor:
        """Acts on the token embeddings."""
        return x_BTD

    def rotate(self, q_BHTK: Tensor, k_BGTK: Tensor, positions_T: Tensor) -> tuple[Tensor, Tensor]:
        """Acts on queries and keys, before keys are cached."""
        return q_BHTK, k_BGTK

    def bias(self, positions_q: Tensor, positions_k: Tensor) -> Tensor | None:
        """What is added to the scores: (H, T, S), for queries at positions (T,) and keys at positions (S,)."""
        return None

    def flops_per_token(self, context: int) -> float:
        """Forward matmul FLOPs of a token, averaged over a sequence of `context` tokens."""
        return 0

    def fill_tables(self) -> None:
        """Computes the constant buffers anew, in fp32, where they are."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # after to_empty the tables hold anything, after .to(bfloat16) they are rounded: both pass here
        super()._apply(fn, recurse)
        self.fill_tables()
        return self


class Flow(NamedTuple):
    """What travels beside the activations through a forward pass.

    Fields:
        position: the position encoding, whose hooks attention calls.
        positions_T: int64, absolute position of each token.
        documents_BT: int64, document number of each token; attention stays inside equal numbers. None: one document.
        cache: keys and values of earlier tokens. None: all tokens are here.
        keys_B: int64, dropout key of each row. None: no dropout.
    """

    position: Position
    positions_T: Tensor
    documents_BT: Tensor | None = None
    cache: KVCacheLike | None = None
    keys_B: Tensor | None = None


def keys_seen(context: int, window: int | None = None) -> float:
    """Keys that a causal query sees, itself included, averaged over the positions of a sequence of `context` tokens.

    (T + 1) / 2 without a window: the first query sees one key, the last all T.
    """
    most = context if window is None else min(context, window)
    return most - most * (most - 1) / (2 * context)


def role(name: str, ndim: int) -> Role:
    """How a parameter is initialised and optimised, told by its standard name and number of dimensions."""
    if ndim < 2:
        return "vector"
    if name == "embed.weight" or name.startswith("position."):
        return "embedding"
    if name == "head.weight":
        return "head"
    if name.endswith(("o_proj.weight", "down_proj.weight")):
        return "residual"
    return "matrix"


def salt(layer: int, site: Site) -> int:
    """A number that no two places of dropout in a model share."""
    return layer * len(_SITES) + _SITES.index(site)


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


def dropped(keys_B: Tensor, salt: int, shape: tuple[int, ...], p: float) -> Tensor:
    """Which elements of a (B, *shape) tensor dropout removes, as bool.

    A pure integer hash of (row key, salt, index of the element in its row): the same on every device, in every
    micro-batch, compiled or not, and when activations are recomputed.
    """
    key_B = _mix((keys_B & _LOW_32) ^ _mix((keys_B >> 32) & _LOW_32))
    key_B = _mix(key_B ^ ((salt * 0x9E3779B1 + 1) & _LOW_32))
    count = 1
    for size in shape:
        count *= size
    index_N = _mix(torch.arange(count, device=keys_B.device))
    return (_mix(index_N ^ key_B[:, None]) < int(p * 2**32)).view(-1, *shape)


class KeyedDropout(nn.Module):
    """Inverted dropout with a reproducible mask; the identity if p is 0, in eval mode, or without keys.

    Args:
        p: probability that an element is dropped.
        salt: tells this place in the model from all others, see `salt`.
    """

    def __init__(self, p: float, salt: int) -> None:
        super().__init__()
        self.p = p
        self.salt = salt

    def forward(self, x: Tensor, keys_B: Tensor | None) -> Tensor:
        """x: (B, ...); keys_B: (B,) int64."""
        if self.p == 0.0 or keys_B is None or not self.training:
            return x
        mask = dropped(keys_B, self.salt, tuple(x.shape[1:]), self.p)
        return (x * (1.0 / (1.0 - self.p))).masked_fill(mask, 0.0)

    def extra_repr(self) -> str:
        return f"p={self.p}, salt={self.salt}"
