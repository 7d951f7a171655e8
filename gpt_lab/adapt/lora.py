"""Low-rank adapters: y = W x + (alpha / rank) B A x, of which A and B alone are trained.

Paper: Hu et al. 2021, arXiv:2106.09685; over weights in few bits: Dettmers et al. 2023, arXiv:2305.14314.
An adapted layer keeps its class's ways, its names and its place: `weight` is the sum, for whoever reads it.

O rows, I columns, R rank.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt_lab.adapt import group_codes
from gpt_lab.adapt.group_codes import CODES, FORMAT, SCALES
from gpt_lab.config.schema import RunConfig
from gpt_lab.errors import ConfigError, unknown

A, B, SCALE = "lora_A", "lora_B", "lora_scale"


class AdaptedLinear(nn.Linear):
    """A linear layer with an adapter; its own weight is frozen, and may be kept in few bits."""

    lora_A: nn.Parameter
    lora_B: nn.Parameter
    lora_scale: Tensor

    @property
    def base(self) -> Tensor:
        """The frozen weight (O, I)."""
        held = self._parameters.get("weight")
        if held is not None:
            return held
        kept = self._buffers
        codes, scales, about = kept[CODES], kept[SCALES], kept[FORMAT]
        assert codes is not None and scales is not None and about is not None
        return group_codes.decode(codes, scales, about)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The weight with the adapter added, (O, I)."""
        return self.base + self.lora_scale * (self.lora_B @ self.lora_A)

    def forward(self, x: Tensor) -> Tensor:
        """(..., I) to (..., O)."""
        low = F.linear(F.linear(x, self.lora_A), self.lora_B)
        return F.linear(x, self.base, self.bias) + self.lora_scale * low


def attach(model: nn.Module, cfg: RunConfig) -> None:
    """Gives a model's linear layers adapters as cfg.adapt says, and freezes all else; without a rank, nothing.

    A is drawn from (cfg.draw_seed, its name), uniform as in the paper's code; B is 0, so that the model is as it was.

    Raises:
        ConfigError: no linear layer has a name that is among the targets, or one that the model shares.
    """
    adapt = cfg.adapt
    if adapt.rank is None:
        return
    chosen = list(_chosen(model, list(adapt.targets)))
    model.requires_grad_(False)
    for name, module in chosen:
        rows, columns = module.weight.shape
        device = module.weight.device
        digest = hashlib.sha256(f"{cfg.draw_seed}/{name}.{A}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        drawn = torch.empty(adapt.rank, columns).uniform_(-1, 1, generator=generator) / math.sqrt(columns)
        if adapt.bits is not None:
            for key, tensor in group_codes.encode(module.weight, adapt.bits, adapt.group).items():
                module.register_buffer(key, tensor)
            del module._parameters["weight"]
        module.__class__ = AdaptedLinear
        module.register_parameter(A, nn.Parameter(drawn.to(device)))
        module.register_parameter(B, nn.Parameter(torch.zeros(rows, adapt.rank, device=device)))
        module.register_buffer(SCALE, torch.tensor(adapt.alpha / adapt.rank, device=device))


def _chosen(model: nn.Module, targets: list[str]) -> Iterator[tuple[str, nn.Linear]]:
    """Linear layers by name, whose last word, or more of it, is among the targets; of none: all but the head."""
    there = {name: module for name, module in model.named_modules() if type(module) is nn.Linear}
    for target in targets:
        if not any(_called(name, target) for name in there):
            raise ConfigError(unknown("adapt.targets: linear layer", target, {name.split(".")[-1] for name in there}))
    for name, module in there.items():
        if any(_called(name, target) for target in targets) or (not targets and name != "head"):
            yield name, module


def _called(name: str, target: str) -> bool:
    return f".{name}".endswith(f".{target}")


def plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A checkpoint's tensors as those of a model without adapters and few bits: fp32 weights, adapters added."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        place, _, last = name.rpartition(".")
        if last == CODES and f"{place}.{FORMAT}" in tensors:
            name = f"{place}.weight"
            tensor = group_codes.decode(tensor, tensors[f"{place}.{SCALES}"], tensors[f"{place}.{FORMAT}"])
        elif last in (A, B, SCALE) or (last in (SCALES, FORMAT) and f"{place}.{CODES}" in tensors):
            continue
        if name.endswith(".weight") and f"{place}.{A}" in tensors:
            added = tensors[f"{place}.{B}"] @ tensors[f"{place}.{A}"]
            tensor = tensor + tensors[f"{place}.{SCALE}"] * added
        found[name] = tensor
    return found


def trained(model: nn.Module) -> tuple[int, int]:
    """Numbers that are trained, and of those that are not."""
    counts: dict[bool, int] = {True: 0, False: 0}
    for parameter in model.parameters():
        counts[parameter.requires_grad] += parameter.numel()
    for module in model.modules():
        held: Any = module
        if isinstance(module, AdaptedLinear) and "weight" not in module._parameters:
            counts[False] += held.in_features * held.out_features
    return counts[True], counts[False]
