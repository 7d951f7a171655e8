"""What the tests of attention kernels compute: cases, inputs, and attention written out by hand."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gpt_lab.errors import ConfigError
from gpt_lab.kernels import KernelRequest, attention, choose
from gpt_lab.parts.position.alibi import alibi_slopes

HEADS, HEAD_DIM, ROWS = 4, 8, 2
SLOPES = torch.tensor(alibi_slopes(HEADS))
DOCUMENTS = torch.tensor([[0] * 5 + [1] * 6, [3] * 1 + [2] * 7 + [9] * 3])
RING = torch.tensor([8, 9, 10, 3, 4, 5, 6, 7])

CASES: dict[str, dict[str, Any]] = {
    "causal": {},
    "one token": {"length": 1},
    "window": {"window": 10},  # T = window + 1: one key is out of sight
    "window of 1": {"window": 1},
    "window beyond": {"window": 40},
    "grouped": {"groups": 2},
    "one key head": {"groups": 1, "window": 3},
    "documents": {"documents_q": DOCUMENTS, "documents_k": DOCUMENTS},
    "documents, window, grouped": {"documents_q": DOCUMENTS, "documents_k": DOCUMENTS, "window": 3, "groups": 2},
    "alibi": {"slopes_H": SLOPES},
    "alibi, grouped, documents": {"slopes_H": SLOPES, "groups": 2, "documents_q": DOCUMENTS, "documents_k": DOCUMENTS},
    "bias": {"bias": True},
    "bias, window, grouped": {"bias": True, "window": 4, "groups": 2},
    "softcap": {"softcap": 1.5},
    "softcap, alibi, window": {"softcap": 1.5, "slopes_H": SLOPES, "window": 5},
    "both ways": {"causal": False, "groups": 2},
    "both ways, documents": {"causal": False, "documents_q": DOCUMENTS, "documents_k": DOCUMENTS},
    "last of the keys": {"keys": 15},
    "last of the keys, window, alibi": {"keys": 15, "window": 6, "slopes_H": SLOPES, "groups": 2},
    "ring buffer": {"length": 1, "keys": 8, "positions_q": torch.tensor([10]), "positions_k": RING, "window": 6},
    "ring buffer, alibi": {
        "length": 2,
        "keys": 8,
        "groups": 2,
        "positions_q": torch.tensor([9, 10]),
        "positions_k": RING,
        "slopes_H": SLOPES,
    },
}
FP32: dict[str, Any] = {"rtol": 1e-5, "atol": 2e-5}


def by_hand(q: Tensor, k: Tensor, v: Tensor, scale: float, case: dict[str, Any], bias: Tensor | None) -> Tensor:
    """Attention written out query by query."""
    rows, heads, length, _ = q.shape
    keys, shared = k.shape[2], heads // k.shape[1]
    at_q = case.get("positions_q", torch.arange(keys - length, keys)).tolist()
    at_k = case.get("positions_k", torch.arange(keys)).tolist()
    documents, window, cap = case.get("documents_q"), case.get("window", 10**9), case.get("softcap")
    least = 0 if case.get("causal", True) else -keys
    rows_out = []
    for b in range(rows):
        for h in range(heads):
            for t in range(length):
                seen = [
                    s
                    for s in range(keys)
                    if least <= at_q[t] - at_k[s] < window
                    and (documents is None or bool(documents[b, t] == documents[b, s]))
                ]
                score = scale * (k[b, h // shared, seen] @ q[b, h, t])
                if cap is not None:
                    score = cap * torch.tanh(score / cap)
                if "slopes_H" in case:
                    score = score - case["slopes_H"][h].to(q) * torch.tensor([at_q[t] - at_k[s] for s in seen]).to(q)
                if bias is not None:
                    score = score + bias[h, t, seen]
                rows_out.append(torch.softmax(score, 0) @ v[b, h // shared, seen])
    return torch.stack(rows_out).view(rows, heads, length, -1)


def inputs(case: dict[str, Any], device: str = "cpu", head_dim: int = HEAD_DIM) -> list[Tensor]:
    """q, k, v (strided, as attention makes them) and the bias if there is one, fp64."""
    generator = torch.Generator().manual_seed(0)
    length = case.get("length", DOCUMENTS.shape[1])
    keys, groups = case.get("keys", length), case.get("groups", HEADS)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(device)

    made = [draw(ROWS, n, h, head_dim).transpose(1, 2) for n, h in ((length, HEADS), (keys, groups), (keys, groups))]
    made[0] *= 2
    return made + ([draw(HEADS, length, keys)] if case.get("bias") else [])


def options(case: dict[str, Any], device: str = "cpu") -> dict[str, Any]:
    found = {name: value for name, value in case.items() if name not in ("length", "keys", "groups", "bias")}
    return {name: v.to(device) if isinstance(v, Tensor) else v for name, v in found.items()}


def run(kernel: str, case: dict[str, Any], tensors: list[Tensor], scale: float = 0.4) -> list[Tensor]:
    """Output and the gradients of q, k, v (and bias) of a kernel."""
    leaves = [t.detach().clone().requires_grad_() for t in tensors]
    bias = leaves[3] if len(leaves) == 4 else None
    device = str(leaves[0].device.type)
    y = attention(*leaves[:3], kernel=kernel, scale=scale, bias_HTS=bias, **options(case, device))
    return [y.detach(), *torch.autograd.grad(_loss(y), leaves)]


def expected(case: dict[str, Any], tensors: list[Tensor], scale: float = 0.4) -> list[Tensor]:
    leaves = [t.detach().cpu().double().requires_grad_() for t in tensors]
    y = by_hand(*leaves[:3], scale, case, leaves[3] if len(leaves) == 4 else None)
    return [y.detach(), *torch.autograd.grad(_loss(y), leaves)]


def _loss(y: Tensor) -> Tensor:
    return (y * torch.linspace(-1, 1, y.numel(), device=y.device, dtype=y.dtype).view_as(y)).sum()


def request(case: dict[str, Any], device: str = "cpu", dtype: str = "fp32", head_dim: int = HEAD_DIM) -> KernelRequest:
    capability = torch.cuda.get_device_capability() if device == "cuda" else None
    kind = "alibi" if "slopes_H" in case else "tensor" if case.get("bias") else "none"
    length = case.get("length", DOCUMENTS.shape[1])
    return KernelRequest(
        device,
        dtype,
        HEADS,
        case.get("groups", HEADS),
        head_dim,
        length,
        window=case.get("window"),
        bias_kind=kind,
        softcap=case.get("softcap"),
        documents="documents_q" in case,
        causal=case.get("causal", True),
        capability=capability,
    )


def can(kernel: str, asked: KernelRequest) -> bool:
    try:
        choose(kernel, asked)
    except ConfigError:
        return False
    return True
