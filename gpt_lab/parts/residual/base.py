"""What every way of joining attention, MLP and norms to the residual stream offers the model.

Constructor: (shape, layer, attention, mlp, make_norm, *, options); forward: (stream, Flow) -> stream, where a stream is
(B, T, D) unless `streams` says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from gpt_lab.parts.base import Flow, Shape
from gpt_lab.parts.dropout import KeyedDropout

MakeNorm = Callable[[int], nn.Module]


def norm_for(branch: nn.Module, shape: Shape, make_norm: MakeNorm) -> nn.Module:
    """The norm before or after a branch; the identity where the branch says that it is `absent`, and does nothing."""
    return nn.Identity() if getattr(branch, "absent", False) else make_norm(shape.width)


class Streams(nn.Module):
    """How the residual stream begins and ends, where it is more than one (B, T, D) tensor."""

    def enter(self, x_BTD: Tensor, flow: Flow) -> Any:
        """What the first block reads, from the embeddings."""
        raise NotImplementedError

    def leave(self, stream: Any, flow: Flow) -> Tensor:
        """What the head reads, (B, T, D), from what the last block gave."""
        raise NotImplementedError


class Block(nn.Module):
    """A layer: its two branches and their dropout, which acts on the output of each.

    Attributes:
        final_norm: whether the model puts a norm after the last block.
        by_row: whether it can read rows that are at different positions, a token of each: unless it keeps a state of
            its own that goes by position.
    """

    final_norm: ClassVar[bool] = True
    by_row: ClassVar[bool] = True

    def __init__(self, shape: Shape, layer: int, attention: nn.Module, mlp: nn.Module) -> None:
        super().__init__()
        self.attention = attention
        self.attention_dropout = KeyedDropout(shape.dropout, "attention_out")
        self.mlp = mlp
        self.mlp_dropout = KeyedDropout(shape.dropout, "mlp_out")

    @classmethod
    def order(cls, depth: int, **options: Any) -> Sequence[int]:
        """Which block stands at each depth; the model builds as many as the numbers need. Options are those given."""
        return range(depth)

    def join(self, init: Any, earlier: Sequence[Any]) -> None:
        """Told once, while the model is built, what initialises it and which blocks were built before this one.

        Raises:
            ConfigError: it does not go with that init.
        """

    def streams(self, shape: Shape) -> Streams | None:
        """The stream's beginning and end; None: it is one (B, T, D) tensor. Asked of the last block."""
        return None

    def attend(self, x_BTD: Tensor, flow: Flow, norm: nn.Module | None = None) -> Tensor:
        """The attention branch, normalised if asked, after dropout."""
        y_BTD = self.attention(x_BTD, flow)
        out_BTD: Tensor = self.attention_dropout(y_BTD if norm is None else norm(y_BTD), flow.keys_B, flow.layer)
        return out_BTD

    def feed(self, x_BTD: Tensor, flow: Flow, norm: nn.Module | None = None) -> Tensor:
        """The MLP branch, normalised if asked, after dropout."""
        # most need the activations alone; `takes_flow = True` asks for the rest: losses, states, what layers share
        y_BTD = self.mlp(x_BTD, flow) if getattr(self.mlp, "takes_flow", False) else self.mlp(x_BTD)
        out_BTD: Tensor = self.mlp_dropout(y_BTD if norm is None else norm(y_BTD), flow.keys_B, flow.layer)
        return out_BTD
