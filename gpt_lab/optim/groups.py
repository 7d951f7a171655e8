"""Parameter groups: parameters by role, with learning-rate multiplier and weight decay."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import nn

from gpt_lab.parts.base import Role, init_roles, role


class InitLike(Protocol):
    """What optimisation needs to know of an init part."""

    def lr_multiplier(self, role: Role, tensor_shape: tuple[int, ...]) -> float: ...


@dataclass(frozen=True)
class Group:
    """Parameters that one rule treats alike.

    Fields:
        role: as parts.base.role tells it.
        params: (name, parameter) in the model's order.
        lr_multiplier: factor on the learning rate, from the init part.
        decay: whether weight decay applies. Vectors (gains, biases) are never decayed; embeddings and head are, as in
            GPT-3 and nanoGPT.
        rows: name -> rows of the stacked matrices that a fused weight holds, as (q, k, v) in an attention's `qkv`.
    """

    role: Role
    params: list[tuple[str, nn.Parameter]]
    lr_multiplier: float = 1.0
    decay: bool = True
    rows: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


def groups(model: nn.Module, init: InitLike) -> list[Group]:
    """The model's trainable parameters, each once (a tied weight is its embedding), in groups of a fixed order."""
    found: dict[tuple[Role, float], list[tuple[str, nn.Parameter]]] = {}
    stated = init_roles(model)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            its = role(name, parameter.ndim)
            key = (its, init.lr_multiplier(stated.get(name, its), tuple(parameter.shape)))
            found.setdefault(key, []).append((name, parameter))
    fused = _fused_rows(model)
    return [
        Group(its, params, multiplier, its != "vector", {name: fused[name] for name, _ in params if name in fused})
        for (its, multiplier), params in found.items()
    ]


def param_group(group: Group, lr: float, weight_decay: float, **settings: Any) -> dict[str, Any]:
    """A torch parameter group; `base_lr` is its peak learning rate, which the trainer multiplies by the schedule."""
    base_lr = lr * group.lr_multiplier
    return {
        "params": [parameter for _, parameter in group.params],
        "lr": base_lr,
        "base_lr": base_lr,
        "weight_decay": weight_decay if group.decay else 0.0,
        "vectors": group.role == "vector",
        **settings,
    }


def param_groups(found: Iterable[Group], lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """Torch parameter groups under one rule; groups that it treats alike are one, for each costs time at every step."""
    alike: dict[tuple[float, bool, bool], dict[str, Any]] = {}
    for group in found:
        settings = param_group(group, lr, weight_decay)
        known = alike.setdefault((group.lr_multiplier, group.decay, settings["vectors"]), settings)
        if known is not settings:
            known["params"] += settings["params"]
    return list(alike.values())


def _fused_rows(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Rows of q, k and v in every fused `qkv` weight whose module states its heads."""
    rows: dict[str, tuple[int, ...]] = {}
    for name, module in model.named_modules():
        sizes = [getattr(module, key, None) for key in ("heads", "kv_heads", "head_dim")]
        weight = getattr(getattr(module, "qkv", None), "weight", None)
        if weight is None or not all(isinstance(size, int) for size in sizes):
            continue
        heads, kv_heads, head_dim = (int(size) for size in sizes if size is not None)
        split = (heads * head_dim, kv_heads * head_dim, kv_heads * head_dim)
        if sum(split) == weight.shape[0]:
            rows[f"{name}.qkv.weight" if name else "qkv.weight"] = split
    return rows
