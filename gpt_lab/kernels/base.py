"""The kernel interface: the request that a kernel is chosen by, which keys a query sees, cached masks.

Shape letters in names: B rows, T queries, S keys, H query heads, G key/value heads, K head dimension, V that of values.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

F = TypeVar("F", bound=Callable[..., Any])


def constant(function: F) -> F:
    """Marks a function whose result torch.compile may take as a constant.

    All that torch.compiler.assume_constant_result does, which however imports the compiler: longer than torch itself.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


@dataclass(frozen=True)
class KernelRequest:
    """What one attention layer asks of its kernel.

    device: "cpu", "cuda" or "mps"; dtype: name of the precision (fp32, tf32, bf16, fp16); window: tokens each query
    sees, itself included, None for all; bias_kind: "none", "alibi" or "tensor" (any other added scores); value_dim: of
    a head's values, None: as head_dim; sinks: whether a logit of each head joins its softmax; causal: whether a query
    sees no later key; capability: the CUDA device's, None elsewhere; twice: whether training differentiates twice.
    """

    device: str
    dtype: str
    heads: int
    kv_heads: int
    head_dim: int
    context: int
    window: int | None = None
    bias_kind: str = "none"
    softcap: float | None = None
    dropout: float = 0.0
    documents: bool = False
    value_dim: int | None = None
    sinks: bool = False
    causal: bool = True
    capability: tuple[int, int] | None = None
    twice: bool = False


@dataclass(frozen=True)
class KernelChoice:
    """The kernel a layer will use, and one line that says why."""

    name: str
    reason: str


class KeyView(NamedTuple):
    """What a query sees and what is added to its scores; the last T of the S keys are the queries' own tokens, unless
    positions say otherwise, (T,) and (S,), or (B, T) and (B, S) or (S,) where rows are at different ones.

    all_seen: whether it is known that every query sees every key, so that nothing need be hidden.
    """

    window: int | None = None
    slopes_H: Tensor | None = None
    bias_HTS: Tensor | None = None
    positions_q: Tensor | None = None
    positions_k: Tensor | None = None
    documents_q: Tensor | None = None
    documents_k: Tensor | None = None
    sinks_H: Tensor | None = None
    causal: bool = True
    all_seen: bool = False


TWICE = "it cannot be differentiated twice, as this optimizer asks"


class Kernel(Protocol):
    """What a registered kernel class offers."""

    @staticmethod
    def unavailable() -> str | None:
        """Why it does not work on this machine, as the end of a sentence; None where it does."""
        ...

    @staticmethod
    def refusal(request: KernelRequest) -> str | None:
        """Why it cannot do what is asked, as a sentence; None if it can."""
        ...

    @staticmethod
    def run(
        q_BHTK: Tensor,
        k_BGSK: Tensor,
        v_BGSV: Tensor,
        view: KeyView,
        scale: float,
        softcap: float | None,
        dropout: float,
        keys_B: Tensor | None,
        salt: int,
    ) -> Tensor:
        """Attention as `gpt_lab.kernels.attention` describes it: (B, H, T, V)."""
        ...


class Memo:
    """Keeps the last few tensors built from a key and from other tensors (compared by identity and version).

    Every layer of a forward pass, and mostly every pass, asks for the same mask or table. Under torch.compile nothing
    is kept: there the builder becomes part of the graph.
    """

    def __init__(self, size: int = 8) -> None:
        self._size = size
        self._kept: OrderedDict[Hashable, tuple[tuple[Tensor, ...], Any]] = OrderedDict()

    def __call__(self, key: Hashable, tensors: tuple[Tensor, ...], build: Callable[[], Any]) -> Any:
        if torch.compiler.is_compiling():
            return build()
        full_key = (key, *((id(t), 0 if t.is_inference() else t._version) for t in tensors))
        found = self._kept.get(full_key)
        if found is not None:
            return found[1]
        with torch.inference_mode(False), torch.no_grad():  # usable in training, even if first built in evaluation
            value = build()
        if type(value) is Tensor or not isinstance(value, Tensor):  # a traced or fake tensor must not outlive its mode
            self._kept[full_key] = (tensors, value)  # holding the tensors keeps their ids theirs
            if len(self._kept) > self._size:
                self._kept.popitem(last=False)
        return value


_masks = Memo()
_masks_by_row = Memo()


def distance(queries: int, keys: int, device: torch.device, view: KeyView) -> Tensor:
    """Position of the query less that of the key: int64 (T, S), or (B, T, S) where rows are at different positions."""
    if view.positions_q is not None and view.positions_k is not None:
        return view.positions_q[..., :, None] - view.positions_k[..., None, :]
    key_S = torch.arange(keys, device=device)
    return key_S[keys - queries :, None] - key_S[None, :]


def visible(queries: int, keys: int, device: torch.device, view: KeyView) -> Tensor:
    """Which keys each query sees: bool (T, S), or (B, 1, T, S) where documents or positions differ between rows."""

    def build() -> Tensor:
        distance_TS = distance(queries, keys, device, view)
        seen = distance_TS >= 0 if view.causal else torch.ones_like(distance_TS, dtype=torch.bool)
        if view.window is not None:
            seen = seen & (distance_TS < view.window)
        if distance_TS.dim() == 3:
            seen = seen[:, None]
        if view.documents_q is not None and view.documents_k is not None:
            seen = seen & (view.documents_q[:, None, :, None] == view.documents_k[:, None, None, :])
        return seen

    if view.positions_q is not None:
        return _cached_step(("visible", view.window, view.causal), view, build)
    tensors = () if view.documents_q is None or view.documents_k is None else (view.documents_q, view.documents_k)
    return _masks(("visible", queries, keys, device, view.window, view.causal), tensors, build)


def additive(
    queries: int, keys: int, device: torch.device, dtype: torch.dtype, view: KeyView, *, repeat: int = 1
) -> Tensor:
    """What is added to the scores: ALiBi's bias where there are slopes, -inf where the key is hidden.

    Shape: (T, S), with slopes (H, T, S), with documents or rows at different positions (B, H or 1, T, S). `repeat`
    stacks the (T, S) rows that often. A learned bias is not in it.
    """

    def build() -> Tensor:
        seen = visible(queries, keys, device, view)
        if view.slopes_H is None:
            added = torch.zeros((), device=device, dtype=dtype)
        else:
            added = alibi(view.slopes_H, distance(queries, keys, device, view)).to(dtype)
        added = torch.where(seen, added, float("-inf"))
        return added.repeat(repeat, 1) if repeat > 1 else added

    if view.positions_q is not None:
        return _cached_step(("additive", view.window, view.causal, dtype, repeat), view, build)
    tensors = tuple(t for t in (view.slopes_H, view.documents_q, view.documents_k) if t is not None)
    return _masks(("additive", queries, keys, device, view.window, view.causal, dtype, repeat), tensors, build)


def _cached_step(key: Hashable, view: KeyView, build: Callable[[], Tensor]) -> Tensor:
    """Positions differ at every call; where rows are at different ones, all layers ask with the same tensors."""
    if view.positions_q is None or view.positions_k is None or view.positions_q.dim() == 1:
        return build()
    tensors = tuple(t for t in (view.positions_q, view.positions_k, view.slopes_H) if t is not None)
    built: Tensor = _masks_by_row(key, tensors, build)
    return built


def alibi(slopes_H: Tensor, distance_TS: Tensor) -> Tensor:
    """Linear penalty of the distance, one slope for each head: (H, T, S), or (B, H, T, S) of (B, T, S)."""
    return -slopes_H[:, None, None] * distance_TS.unsqueeze(-3)
