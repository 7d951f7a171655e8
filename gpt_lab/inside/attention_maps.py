"""Attention maps of a text, by layer and head, as the shipped model computes them; norms of states where it has none.

Shapes: H heads, T tokens, S keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gpt_lab.errors import ConfigError, LabError
from gpt_lab.infer.cache import Cache
from gpt_lab.kernels.recorded import Call, recording
from gpt_lab.model.gpt import GPT
from gpt_lab.parts.attention.softmax import Softmax

CLOSE = 1e-4
"""Difference up to which weights times values are what the layer's kernel computed."""


class AttentionMap(NamedTuple):
    """Weights of one attention.

    Fields:
        layer: its depth, from 0. name: which of several in the layer; "" where there is one.
        weights_HTS: of each key, for each query. Rows sum to one, with what a sink takes; those of a difference do not.
        sinks_HT: what a sink takes; None: there is none.
    """

    layer: int
    name: str
    weights_HTS: Tensor
    sinks_HT: Tensor | None


class StateNorms(NamedTuple):
    """Euclidean norm of what a recurrent layer keeps, after each token: (T, parts of the state), each with its name."""

    layer: int
    names: tuple[str, ...]
    norms_TN: Tensor


class Inside(NamedTuple):
    """What was seen, by layer."""

    maps: list[AttentionMap]
    states: list[StateNorms]


def look(model: GPT, ids: Sequence[int]) -> Inside:
    """Maps and norms of a text that the model reads.

    Raises:
        ConfigError: an empty text, or one that the model cannot read at once.
        LabError: weights that do not give what the layer's kernel computed.
    """
    if not ids:
        raise ConfigError('the prompt has no tokens: give a prompt="..."')
    if len(ids) > model.shape.context:
        raise ConfigError(f"the prompt has {len(ids)} tokens, and the context is {model.shape.context}: shorten it")
    maps = _maps(model, torch.tensor([list(ids)], device=model.embed.weight.device))
    drawn = {one.layer for one in maps}
    return Inside(maps, _states(model, ids, drawn) if model.shape.causal else [])


@torch.no_grad()
def _maps(model: GPT, tokens_BT: Tensor) -> list[AttentionMap]:
    found: list[AttentionMap] = []
    here: list[tuple[int, Any]] = []

    def enter(module: torch.nn.Module, args: tuple[Any, ...]) -> None:
        here.append((args[1].layer, module))

    def leave(module: torch.nn.Module, args: tuple[Any, ...], output: Any) -> None:
        here.pop()

    def keep(call: Call) -> None:
        layer, module = here[-1]
        weights_HTS = call.weights()[0].float()
        same = weights_HTS @ call.values()[0].float()
        if not torch.allclose(same, call.output_BHTV[0].float(), rtol=CLOSE, atol=CLOSE):
            why = "the two compute different things" if same.isfinite().all() else "the model's numbers are not finite"
            raise LabError(f"layer {layer}: the plain softmax does not give what kernel={call.kernel} computed: {why}")
        sinks_HT = None if call.view.sinks_H is None else 1.0 - weights_HTS.sum(-1)
        if (subtracted := getattr(module, "subtracted", None)) is None:
            found.append(AttentionMap(layer, "", weights_HTS, sinks_HT))
            return
        one, two = weights_HTS.chunk(2)
        found.append(AttentionMap(layer, "first", one, None))
        found.append(AttentionMap(layer, "second", two, None))
        found.append(AttentionMap(layer, "difference", one - subtracted().float() * two, None))

    softmax = [module for module in model.modules() if isinstance(module, Softmax)]
    hooks = [part.register_forward_pre_hook(enter) for part in softmax]
    hooks += [part.register_forward_hook(leave) for part in softmax]
    try:
        with recording(keep):
            model(tokens_BT)
    finally:
        for hook in hooks:
            hook.remove()
    return found


@torch.no_grad()
def _states(model: GPT, ids: Sequence[int], drawn: set[int]) -> list[StateNorms]:
    """Norms by layer that keeps a state and has no map, token by token."""
    device, cache = model.embed.weight.device, Cache()
    rows: dict[int, list[dict[str, float]]] = {}
    for place, token in enumerate(ids):
        model(torch.tensor([[token]], device=device), positions_T=torch.tensor([place], device=device), states=cache)
        if not cache.read(model, 1):
            return []
        for layer, tensors in cache.tensors().items():
            if layer not in drawn and tensors:
                rows.setdefault(layer, []).append({name: t.float().norm().item() for name, t in tensors.items()})
    made = []
    for layer, each in sorted(rows.items()):
        names = tuple(each[-1])
        norms = torch.tensor([[one.get(name, 0.0) for name in names] for one in each])
        made.append(StateNorms(layer, names, norms))
    return made
