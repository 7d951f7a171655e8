"""Attention kernels of a device against plain matrix products in float64, forward and backward."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gpt_lab import kernels
from gpt_lab.device_check.steps import Place, Wrong
from gpt_lab.errors import ConfigError
from gpt_lab.kernels import KernelRequest
from gpt_lab.parts.position.alibi import alibi_slopes

ROWS, HEADS, TOKENS, HEAD_DIM = 2, 4, 256, 64
CASES: dict[str, dict[str, Any]] = {
    "causal": {},
    "grouped": {"groups": 2},
    "window": {"window": 100},
    "both ways": {"causal": False},
    "documents": {"documents": True},
    "alibi": {"alibi": True},
    "softcap": {"softcap": 20.0},
}
LIMIT = {"fp32": 2e-3, "bf16": 4e-2}
"""Largest difference, relative to the largest value. fp32 is what the device makes of it: tf32 in some kernels."""


def kernel_step(name: str) -> Callable[[Place], dict[str, Any]]:
    """A step that holds one kernel against the plain products, in each case and number format that it takes."""

    def step(place: Place) -> dict[str, Any]:
        if (reason := kernels.available()[name]) is not None:
            raise ConfigError(f"kernel={name} {reason}")
        found = {f"{case}, {dtype}": _apart(name, place.device, case, dtype) for case in CASES for dtype in LIMIT}
        ran = {key: apart for key, apart in found.items() if apart is not None}
        wrong = [key for key, apart in ran.items() if not apart <= LIMIT[key.rpartition(", ")[2]]]
        if wrong or not ran:
            raise Wrong(f"differs from plain products: {'; '.join(wrong)}" if ran else "takes no case", found)
        return found

    return step


def _apart(name: str, device: str, case: str, dtype: str) -> float | None:
    """The largest relative difference of output and gradients; None where the kernel refuses."""
    what = CASES[case]
    capability = torch.cuda.get_device_capability() if device == "cuda" else None
    groups, causal, window = what.get("groups", HEADS), what.get("causal", True), what.get("window")
    kind = "alibi" if "alibi" in what else "none"
    asked = KernelRequest(device, dtype, HEADS, groups, HEAD_DIM, TOKENS, window, kind, what.get("softcap"))
    asked = replace(asked, documents="documents" in what, causal=causal, capability=capability)
    try:
        kernels.choose(name, asked)
    except ConfigError:
        return None
    draw = torch.Generator().manual_seed(0)
    shapes = (HEADS, groups, groups)
    q, k, v = (torch.randn(ROWS, heads, TOKENS, HEAD_DIM, generator=draw) for heads in shapes)
    weight = torch.randn(ROWS, HEADS, TOKENS, HEAD_DIM, generator=draw)
    low = torch.bfloat16 if dtype == "bf16" else torch.float32
    documents = (torch.arange(TOKENS) // 90).expand(ROWS, -1) if "documents" in what else None

    def of(kernel: str, where: str, kind: torch.dtype) -> list[Tensor]:
        leaves = [tensor.to(low).to(where, kind).requires_grad_() for tensor in (q, k, v)]
        slopes = torch.tensor(alibi_slopes(HEADS), device=where, dtype=kind) if "alibi" in what else None
        inside = None if documents is None else documents.to(where)
        options: dict[str, Any] = {"window": window, "softcap": what.get("softcap"), "causal": causal}
        options |= {"scale": HEAD_DIM**-0.5, "slopes_H": slopes, "documents_q": inside, "documents_k": inside}
        y = kernels.attention(*leaves, kernel=kernel, **options)
        made = [y, *torch.autograd.grad((y * weight.to(where, kind)).sum(), leaves)]
        return [tensor.detach().cpu().double() for tensor in made]

    pairs = zip(of(name, device, low), of("math", "cpu", torch.float64), strict=True)
    return max(float((got - want).abs().max() / want.abs().max()) for got, want in pairs)
