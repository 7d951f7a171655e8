"""Kernels for CUDA devices: FlashAttention (version 2, or 4 in CuTe) and FlexAttention.

Both are for whole sequences. A call with positions (a few new tokens against a cache) goes to a dense kernel: it has
few queries, and a ring buffer's keys lie in any order.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gpt_lab.kernels.base import TWICE, KernelRequest, KeyView, Memo, constant
from gpt_lab.kernels.dense import Math, Sdpa
from gpt_lab.registry import register

INSTALL = "uv sync --extra cuda"
_FLASH_MAX_HEAD_DIM = 256
_FLEX_MIN_HEAD_DIM = 16


@register("kernel", "flash_attn")
class FlashAttention:
    """The flash-attn package on CUDA: version 2 (`flash_attn`) or 4 (`flash_attn.cute`); bf16 and fp16 only.

    Paper: Dao 2023, arXiv:2307.08691. Windows, grouped heads and score capping without any mask in memory; ALiBi with
    version 2. No options. Installed by `uv sync --extra cuda`.
    """

    @staticmethod
    def unavailable() -> str | None:
        if flash_version() is None:
            return f"is not installed: {INSTALL}"
        return None if torch.cuda.is_available() else "needs a CUDA device"

    @staticmethod
    def refusal(request: KernelRequest) -> str | None:
        lowest = (8, 0) if flash_version() == 2 else (9, 0)
        if request.device != "cuda":
            return "it needs a CUDA device"
        if request.capability is not None and request.capability < lowest:
            return f"it needs compute capability {lowest[0]}.{lowest[1]} or later"
        if request.dtype not in ("bf16", "fp16"):
            return f"it needs precision bf16 or fp16, not {request.dtype}"
        if request.twice:
            return TWICE
        if request.dropout > 0.0:
            return "it cannot do reproducible attention dropout"
        if not request.causal:
            return "it is causal here"
        if request.documents:
            return "it has no document mask here"
        if request.bias_kind == "tensor":
            return "it cannot add a bias to the scores"
        if request.bias_kind == "alibi" and flash_version() != 2:
            return "its version 4 has no ALiBi"
        if request.sinks:
            return "it has no sinks"
        if request.value_dim not in (None, request.head_dim):
            return f"its values must be as wide as keys, {request.head_dim}, not {request.value_dim}"
        if request.head_dim > _FLASH_MAX_HEAD_DIM or request.head_dim % 8:
            return f"it needs a head dimension that 8 divides, up to {_FLASH_MAX_HEAD_DIM}, not {request.head_dim}"
        return None

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
        if view.positions_q is not None:
            return _dense(q_BHTK, k_BGSK, v_BGSV, view, scale, softcap)
        left = -1 if view.window is None else view.window - 1  # the package does not count the query itself
        q, k, v = q_BHTK.transpose(1, 2), k_BGSK.transpose(1, 2), v_BGSV.transpose(1, 2)
        if flash_version() == 2:
            from flash_attn import flash_attn_func

            y_BTHV = flash_attn_func(
                q,
                k,
                v,
                softmax_scale=scale,
                causal=True,
                window_size=(left, 0 if left >= 0 else -1),
                softcap=softcap or 0.0,
                alibi_slopes=None if view.slopes_H is None else view.slopes_H.float(),
            )
        else:
            from gpt_lab.kernels.flash4 import flash4

            y_BTHV = flash4(q, k, v, scale, left, softcap or 0.0)[0]
        return y_BTHV.transpose(1, 2)


@register("kernel", "flex")
class Flex:
    """torch's FlexAttention, compiled for its mask and score change: windows and documents skip blocks; CUDA only.

    Paper: Dong et al. 2024, arXiv:2412.05496. Any precision. No options.
    """

    @staticmethod
    def unavailable() -> str | None:
        if not torch.cuda.is_available():
            return "needs a CUDA device (on CPU it has no backward pass)"
        return None if importlib.util.find_spec("triton") else "needs the triton package"

    @staticmethod
    def refusal(request: KernelRequest) -> str | None:
        if request.device != "cuda":
            return "it needs a CUDA device (on CPU it has no backward pass)"
        if request.twice:
            return TWICE
        if request.dropout > 0.0:
            return "it cannot do reproducible attention dropout"
        if request.bias_kind == "tensor":
            return "it cannot add a learned bias to the scores"
        if request.sinks:
            return "it has no sinks here"
        if request.head_dim < _FLEX_MIN_HEAD_DIM:
            return f"it needs a head dimension of at least {_FLEX_MIN_HEAD_DIM}, not {request.head_dim}"
        return None

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
        if view.positions_q is not None:
            return _dense(q_BHTK, k_BGSK, v_BGSV, view, scale, softcap)
        return flex_call()(
            q_BHTK,
            k_BGSK,
            v_BGSV,
            score_mod=_score_mod(softcap, view.slopes_H),
            block_mask=block_mask(q_BHTK.shape[0], q_BHTK.shape[2], k_BGSK.shape[2], q_BHTK.device, view),
            scale=scale,
            enable_gqa=q_BHTK.shape[1] != k_BGSK.shape[1],
        )


def _dense(q: Tensor, k: Tensor, v: Tensor, view: KeyView, scale: float, softcap: float | None) -> Tensor:
    kernel = Sdpa if softcap is None else Math
    return kernel.run(q, k, v, view, scale, softcap, 0.0, None, 0)


@constant
def flash_version() -> int | None:
    """2 or 4: the flash-attn package that works here; None if none does."""
    return _flash_version()


@functools.cache
def _flash_version() -> int | None:
    # the two versions share a namespace: with version 4 alone `import flash_attn` succeeds, so look for the function
    for version, module in ((2, "flash_attn"), (4, "flash_attn.cute")):
        try:
            if hasattr(importlib.import_module(module), "flash_attn_func"):
                return version
        except ImportError:  # absent, or built for another torch
            continue
    return None


_block_masks = Memo()
_compiled: dict[str, Callable[..., Any]] = {}


def flex_call() -> Callable[..., Any]:
    """flex_attention: compiled once for eager callers, itself inside a graph that is being compiled."""
    from torch.nn.attention.flex_attention import flex_attention

    if torch.compiler.is_compiling():
        return flex_attention
    if "flex" not in _compiled:
        _compiled["flex"] = torch.compile(flex_attention, dynamic=False)
    return _compiled["flex"]


def block_mask(batch: int, queries: int, keys: int, device: torch.device, view: KeyView) -> Any:
    """The BlockMask of a view, kept between layers and steps; the last T of the S keys are the queries' tokens."""
    from torch.nn.attention.flex_attention import create_block_mask

    window, offset, causal = view.window, keys - queries, view.causal
    documents_q, documents_k = view.documents_q, view.documents_k

    def seen(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        keep = q + offset >= k if causal else k >= 0
        if window is not None:
            keep = keep & (q + offset - k < window)
        if documents_q is not None and documents_k is not None:
            keep = keep & (documents_q[b, q] == documents_k[b, k])
        return keep

    tensors = () if documents_q is None or documents_k is None else (documents_q, documents_k)
    rows = batch if tensors else None
    return _block_masks(
        (rows, queries, keys, device, window, causal),
        tensors,
        lambda: create_block_mask(seen, rows, None, queries, keys, device=str(device)),
    )


def _score_mod(softcap: float | None, slopes_H: Tensor | None) -> Callable[..., Tensor] | None:
    if softcap is None and slopes_H is None:
        return None

    def change(score: Tensor, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        if softcap is not None:
            score = softcap * torch.tanh(score / softcap)
        return score if slopes_H is None else score + slopes_H[h] * (k - q)

    return change
