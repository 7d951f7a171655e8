"""What parts share: the model's shape, what flows beside the activations, parameter roles.

Shape letters in names: B rows, T tokens, S cached tokens, D width, H heads, G key/value heads, K head dimension,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, Protocol, Self, TypeVar

from torch import Tensor, nn

Role = Literal["embedding", "head", "residual", "matrix", "vector", "fixed_input", "head_input"]
"""What a parameter is to init and optimizer: the first five by its name.

The last two are to the init alone, and a part gives them to its own (`init_roles`): what acts on an input that does not
widen with the model, because its size is fixed, or follows the head dimension.
"""


@dataclass(frozen=True)
class Shape:
    """What a part may know of the model around it: layers, model width, query heads, training context, flags.

    Fields:
        causal: whether a token sees earlier ones only; False: attention reads both ways, if it says `both_ways`.
    """

    depth: int
    width: int
    heads: int
    context: int
    bias: bool = False
    dropout: float = 0.0
    causal: bool = True


class State(Protocol):
    """What one part at one depth keeps of the tokens already read, so that a new one costs one token (parts/states)."""

    seen: int
    """Tokens read so far."""

    @property
    def nbytes(self) -> int:
        """Bytes allocated."""
        ...

    def expand(self, rows: int) -> None:
        """Repeats the one row held for `rows` continuations of it."""

    def clear(self) -> None:
        """Forgets the tokens."""


S = TypeVar("S", bound=State)


class States(Protocol):
    """The decoding states of a whole model."""

    def slot(self, layer: int, site: str, make: Callable[[], S]) -> S:
        """The state of one part at one depth, made when it is first asked for."""
        ...


class Position(nn.Module):
    """The hooks of a position encoding, all of them doing nothing.

    Attributes:
        extrapolates: whether positions beyond the training context can be computed.
        both_ways: whether it tells later tokens from earlier ones where attention sees both.
        by_row: whether its hooks take positions by row too, (B, T); biases are then (B, H, T, S), of queries at (B, T)
            and keys at (S,) or (B, S).
        bias_kind: what is added to scores: "none", "alibi" (through `slopes_H`), "tensor" (through `bias`) or "content"
            (through `content_bias`).
        slopes_H: ALiBi's slopes, None elsewhere.
    """

    extrapolates: ClassVar[bool] = True
    both_ways: ClassVar[bool] = False
    by_row: ClassVar[bool] = False
    bias_kind: ClassVar[Literal["none", "alibi", "tensor", "content"]] = "none"
    slopes_H: Tensor | None

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.register_buffer("slopes_H", None, persistent=False)

    def at(self, layer: int) -> Position:
        """The encoding as the attention at one depth sees it: the same everywhere unless it goes by a pattern."""
        return self

    def embed(self, x_BTD: Tensor, positions_T: Tensor) -> Tensor:
        """Acts on the token embeddings."""
        return x_BTD

    def rotate(self, q_BHTK: Tensor, k_BGTK: Tensor, positions_T: Tensor) -> tuple[Tensor, Tensor]:
        """Acts on queries and keys, before keys are cached. Their head dimension may be any: mla rotates a part."""
        return q_BHTK, k_BGTK

    def bias(self, positions_q: Tensor, positions_k: Tensor) -> Tensor | None:
        """What is added to the scores: (H, T, S), for queries at positions (T,) and keys at positions (S,)."""
        return None

    def content_bias(self, q_BHTK: Tensor, k_BGSK: Tensor, scale: float, seen: Tensor) -> Tensor | None:
        """What is added to the scores where that depends on them: (B, H, T, S).

        Args:
            k_BGSK: in the order of their positions.
            scale: factor of the scores q k.
            seen: bool, (T, S) or (B, 1, T, S): the keys that each query sees.
        """
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
        positions_T: int64, absolute position of each token; (B, T) where rows at different positions are read together,
            which only parts that say `by_row` are asked to.
        documents_BT: int64, document number of each token; attention stays inside equal numbers. None: one document.
        states: what parts keep of earlier tokens. None: all tokens are here.
        keys_B: int64, dropout key of each row. None: no dropout.
        layer: depth at which a block is applied, which is not its number where blocks are used again.
        shared: what a layer of this pass leaves to later ones, by name; `x0` is there from the start: the embeddings.
        losses: where parts put what is to be minimised beside the objective, each a scalar. None: nobody asks.
    """

    position: Position
    positions_T: Tensor
    documents_BT: Tensor | None = None
    states: States | None = None
    keys_B: Tensor | None = None
    layer: int = 0
    shared: dict[str, Tensor] | None = None
    losses: list[Tensor] | None = None

    def state(self, site: str, make: Callable[[], S]) -> S | None:
        """The decoding state of the part that asks; None where all tokens are here."""
        return None if self.states is None else self.states.slot(self.layer, site, make)


def keys_seen(context: int, window: int | None = None) -> float:
    """Keys that a causal query sees, itself included, averaged over the positions of a sequence of `context` tokens.

    (T + 1) / 2 without a window: the first query sees one key, the last all T.
    """
    most = context if window is None else min(context, window)
    return most - most * (most - 1) / (2 * context)


def role(name: str, ndim: int) -> Role:
    """How a parameter is initialised and optimised, told by its standard name and number of dimensions."""
    if ndim < 2 or name.endswith(("conv.weight", ".bias")):  # a few gains a channel; biases of stacked experts
        return "vector"
    if name == "embed.weight" or name.startswith("position."):
        return "embedding"
    if name == "head.weight":
        return "head"
    if name.endswith(("o_proj.weight", "down_proj.weight")):
        return "residual"
    return "matrix"


def init_roles(model: nn.Module) -> dict[str, Role]:
    """Roles that parts give to parameters of theirs towards the init alone, by the parameter's name in the model."""
    found: dict[str, Role] = {}
    for prefix, module in model.named_modules():
        own: dict[str, Role] = getattr(module, "init_roles", {})
        found |= {f"{prefix}.{name}": its for name, its in own.items()}
    return found
