"""Attention and activations of some rows, by layer. Shapes: B rows, T tokens, H heads, S keys, D width."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gpt_lab.kernels.recorded import Call, recording
from gpt_lab.model.gpt import GPT
from gpt_lab.parts.attention.score_limit import largest_scores
from gpt_lab.parts.attention.softmax import Softmax

DEAD = 1e-3
"""A hidden unit is dead that no token of the rows moves further than this share of the layer's root mean square."""


@torch.no_grad()
def activations(model: GPT, tokens_BT: Tensor, documents_BT: Tensor | None) -> dict[str, float]:
    """Of each layer, as `layer<number>/<name>`; the model is in eval mode.

    entropy: of the attention weights of a query, nats, the mean over queries and heads. logit: the largest scaled score
    before cap and bias. rms, kurtosis: of the stream after the layer (kurtosis of a Gaussian: 3). dead: share of the
    MLP's hidden units.
    """
    found: dict[str, float] = {}
    entropies: dict[int, list[float]] = {}
    logits: dict[int, list[float]] = {}
    here: list[int] = []
    hooks: list[Any] = []

    def keep(call: Call) -> None:
        if not here:
            return
        weights = call.weights().float()
        entropies.setdefault(here[-1], []).append(-torch.xlogy(weights, weights).sum(-1).mean().item())
        added = call.view.bias_HTS
        mask = None if added is None else torch.where(added == float("-inf"), added, 0.0)
        mask = mask if mask is None or mask.dim() == 4 else mask[None]
        largest_H = largest_scores(call.q_BHTK, call.k_BGSK, call.scale, call.view, mask)
        logits.setdefault(here[-1], []).append(largest_H.max().item())

    def enter(module: nn.Module, args: tuple[Any, ...]) -> None:
        here.append(args[1].layer)

    def leave(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        here.pop()

    def stream(block: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        x = output.float()
        away = x - x.mean()
        found[f"layer{args[1].layer}/rms"] = x.square().mean().sqrt().item()
        found[f"layer{args[1].layer}/kurtosis"] = (away.pow(4).mean() / away.square().mean().square()).item()

    def hidden(linear: nn.Module, args: tuple[Any, ...]) -> None:
        x_ND = args[0].float().flatten(0, -2)
        if len(x_ND):
            limit = DEAD * x_ND.square().mean().sqrt()
            found[f"layer{depth[0]}/dead"] = (x_ND.abs().amax(0) <= limit).float().mean().item()

    for part in model.modules():
        if isinstance(part, Softmax):
            hooks += [part.register_forward_pre_hook(enter), part.register_forward_hook(leave)]
    depth = [0]
    for block in model.blocks:
        hooks.append(block.register_forward_pre_hook(lambda module, args: depth.__setitem__(0, args[1].layer)))
        hooks.append(block.register_forward_hook(stream))
        for linear in getattr(block, "mlp", nn.Identity()).modules():
            if isinstance(linear, nn.Linear) and linear.out_features == model.shape.width != linear.in_features:
                hooks.append(linear.register_forward_pre_hook(hidden))
    try:
        with recording(keep):
            model(tokens_BT, documents_BT=documents_BT)
    finally:
        for hook in hooks:
            hook.remove()
    for layer, values in entropies.items():
        found[f"layer{layer}/entropy"] = sum(values) / len(values)
        found[f"layer{layer}/logit"] = max(logits[layer])
    return {key: found[key] for key in sorted(found, key=lambda key: (len(key.split("/")[0]), key))}
