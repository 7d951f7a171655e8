"""Adam with moments of 8 bits: blocks of 256 numbers share a scale (Dettmers et al. 2021, arXiv:2110.02861).

Torch's own arithmetic on plain tensors: it needs no compiler, and checkpoints keep codes and scales as they are.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gpt_lab.optim.base import Rule, grads_of, mean_, mean_square_, roots, shrink_

BLOCK, LEAST = 256, 4096
"""Numbers that share a scale; a tensor of fewer than LEAST stays in 32 bits."""


@functools.cache
def levels(signed: bool, device: torch.device) -> Tensor:
    """What the 256 codes mean, in [-1, 1] or [0, 1]: seven decades, each with half as many as the one above it."""
    found = [0.0, 1.0]
    for decade in range(7):
        count = 2 ** (decade if signed else decade + 1)
        middle = [10.0 ** (decade - 6) * (0.1 + 0.9 * (i + 0.5) / count) for i in range(count)]
        found += middle + ([-one for one in middle] if signed else [])
    return torch.tensor(sorted(found), dtype=torch.float32, device=device)


@functools.cache
def _borders(signed: bool, device: torch.device) -> Tensor:
    """Halfway from each level to the next; beyond the last there is none."""
    known = levels(signed, device)
    return torch.cat(((known[1:] + known[:-1]) / 2, known.new_full((1,), float("inf"))))


@functools.cache
def _first_codes(signed: bool, device: torch.device) -> Tensor:
    """The code of the lowest of all numbers that begin with the same 16 bits: at most one border lies among them."""
    top = torch.arange(2**16, dtype=torch.int32)
    lowest = ((top << 16) | (top >= 2**15).to(torch.int32) * 0xFFFF).view(torch.float32).nan_to_num()
    borders = _borders(signed, torch.device("cpu"))[:-1]
    return torch.bucketize(lowest, borders, right=True, out_int32=True).to(device)


def encode(values: Tensor, signed: bool) -> tuple[Tensor, Tensor]:
    """Codes, uint8 (N, BLOCK), of the nearest levels, and a scale for each block; squares above 0 stay above it."""
    flat = values.reshape(-1).float()
    flat = F.pad(flat, (0, -flat.numel() % BLOCK)).view(-1, BLOCK)
    scale = flat.abs().amax(-1).clamp_(min=1e-12)
    scaled = (flat / scale[:, None]).view(-1)
    # a look-up and one comparison: a binary search takes twenty times as long
    codes = _first_codes(signed, flat.device).index_select(0, (scaled.view(torch.int32) >> 16) & 0xFFFF)
    codes += scaled >= _borders(signed, flat.device).index_select(0, codes)
    if not signed:  # a root of 0 would make a step of any size
        codes = torch.maximum(codes, (flat.view(-1) > 0).to(codes.dtype))
    return codes.to(torch.uint8).view(-1, BLOCK), scale


def decode(codes: Tensor, scale: Tensor, signed: bool, like: Tensor) -> Tensor:
    """The numbers that codes and scales mean, in the shape and type of a tensor."""
    flat = levels(signed, codes.device).index_select(0, codes.view(-1).int()).view(-1, BLOCK) * scale[:, None]
    return flat.view(-1)[: like.numel()].view(like.shape).to(like.dtype)


class EightBitAdam(Rule):
    """Adam, or AdamW where `decoupled`, whose mean and mean square are kept as codes and scales, tensor by tensor."""

    def begin(self, p: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        if p.numel() < LEAST:
            return {"mean": torch.zeros_like(p), "square": torch.zeros_like(p)}
        blocks = -(-p.numel() // BLOCK)
        kept: dict[str, Any] = {}
        for name, zero in (("mean", 127), ("square", 0)):
            kept[name] = torch.full((blocks, BLOCK), zero, dtype=torch.uint8, device=p.device)
            kept[f"{name}_scale"] = torch.zeros(blocks, dtype=torch.float32, device=p.device)
        return kept

    def update(self, group: dict[str, Any], params: list[Tensor]) -> None:
        for step, members, _ in self.counted(params):
            small = [p for p in members if p.numel() < LEAST]
            if small:
                self._adam(group, step, small, self.kept(small, "mean"), self.kept(small, "square"))
            for p in members:
                if p.numel() >= LEAST:
                    state = self.state[p]
                    mean = decode(state["mean"], state["mean_scale"], True, p)
                    square = decode(state["square"], state["square_scale"], False, p)
                    self._adam(group, step, [p], [mean], [square])
                    state["mean"], state["mean_scale"] = encode(mean, True)
                    state["square"], state["square_scale"] = encode(square, False)

    @staticmethod
    def _adam(group: dict[str, Any], step: int, params: list[Tensor], mean: list[Tensor], square: list[Tensor]) -> None:
        (beta1, beta2), lr, decay = group["betas"], group["lr"], group["weight_decay"]
        grads = grads_of(params)
        if group["decoupled"]:
            shrink_(params, lr * decay)
        elif decay:
            grads = list(torch._foreach_add(grads, params, alpha=decay))
        mean_(mean, grads, beta1)
        mean_square_(square, grads, beta2)
        below = roots(square, group["eps"], 1 - beta2**step)
        torch._foreach_addcdiv_(params, mean, below, value=-lr / (1 - beta1**step))
