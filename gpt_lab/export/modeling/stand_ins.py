"""What takes the place of the lab's registry and kernels in an exported file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from gpt_lab.kernels.base import KeyView
from gpt_lab.kernels.dense import Math, Sdpa

PARTS: dict[tuple[str, str], Any] = {}
"""The classes of this file's parts, by kind and name."""


def load(kind: str, name: str) -> Any:
    """The class of a part."""
    return PARTS[kind, name]


def build(kind: str, settings: Mapping[str, Any], *args: Any) -> Any:
    """An instance of the part that `settings["name"]` selects, with the other settings as its options."""
    return load(kind, settings["name"])(*args, **{key: value for key, value in settings.items() if key != "name"})


def parts_of(kind: str, settings: Mapping[str, Any], where: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The parts that a group's settings choose, each with where its options stand: its letters', else itself."""
    if "letters" not in settings:
        yield where or kind, settings
        return
    for letter, chosen in settings["letters"].items():
        yield from parts_of(kind, chosen, f"{where or kind}.letters.{letter}")


class Backend:
    """Where the scores of one layer are computed: here, or by a function of transformers or of whoever serves it.

    Args:
        find: gives the function that the configuration names, or None for those here.
        part: the attention, as such functions want it: with layer_idx, num_key_value_groups and is_causal.
        fused: whether PyTorch's fused attention is meant, where it can do what is asked.
    """

    def __init__(self, find: Callable[[], tuple[Any, bool]], part: nn.Module, layer: int) -> None:
        self.find, self.part = find, part
        self.arguments: dict[str, Any] = {}
        attention: Any = part
        attention.layer_idx, attention.is_causal = layer, True
        attention.num_key_value_groups = attention.heads // attention.kv_heads

    def __repr__(self) -> str:
        return "config"


def attention(
    q_BHTK: Tensor,
    k_BGSK: Tensor,
    v_BGSV: Tensor,
    *,
    kernel: Backend,
    scale: float,
    softcap: float | None = None,
    dropout: float = 0.0,
    keys_B: Tensor | None = None,
    salt: int = 0,
    **seen: Any,
) -> Tensor:
    """Attention: softmax(softcap(scale q k) + bias) v over the keys that each query sees; (B, H, T, V)."""
    view = KeyView(**seen)
    function, fused = kernel.find()
    if function is None:
        run = Sdpa.run if fused and softcap is None and not dropout else Math.run
        return run(q_BHTK, k_BGSK, v_BGSV, view, scale, softcap, dropout, keys_B, salt)
    if softcap is not None or any(
        part is not None for name, part in seen.items() if name not in ("window", "causal", "all_seen")
    ):
        raise ValueError("this attention adds to its scores what only attn_implementation='eager' computes")
    out_BTHV, _ = function(
        kernel.part, q_BHTK, k_BGSK, v_BGSV, None, scaling=scale, sliding_window=view.window, **kernel.arguments
    )
    out_BHTV: Tensor = out_BTHV.transpose(1, 2)
    return out_BHTV
