"""FlashAttention 4 as a custom operator, so that torch.compile keeps one graph: the package has no fake implementation.

Import only where `flash_attn.cute` is installed.
"""

from __future__ import annotations

from typing import Any

import torch
from flash_attn.cute.interface import _flash_attn_bwd, _flash_attn_fwd
from torch import Tensor


def _settings(scale: float, left: int, softcap: float) -> dict[str, Any]:
    window = {} if left < 0 else {"window_size_left": left, "window_size_right": 0}
    return {"softmax_scale": scale, "causal": True, "softcap": softcap, **window}


@torch.library.custom_op("gpt_lab::flash4", mutates_args=())
def flash4(q: Tensor, k: Tensor, v: Tensor, scale: float, left: int, softcap: float) -> tuple[Tensor, Tensor]:
    """Causal attention of q (B,T,H,K), k (B,S,G,K), v (B,S,G,V): (B,T,H,V) and the log-sum-exp (B,H,T) in fp32.

    left: keys before the query that it sees, -1 for all; softcap: 0 for none.
    """
    out, lse = _flash_attn_fwd(q, k, v, return_lse=True, **_settings(scale, left, softcap))[:2]
    return out, lse


@flash4.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, scale: float, left: int, softcap: float) -> tuple[Tensor, Tensor]:
    batch, queries, heads, _ = q.shape
    lse = q.new_empty(batch, heads, queries, dtype=torch.float32)
    return q.new_empty(batch, queries, heads, v.shape[-1]), lse


@torch.library.custom_op("gpt_lab::flash4_backward", mutates_args=())
def _flash4_backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    grad: Tensor,
    scale: float,
    left: int,
    softcap: float,
) -> tuple[Tensor, Tensor, Tensor]:
    grads = _flash_attn_bwd(q, k, v, out, grad.contiguous(), lse, **_settings(scale, left, softcap))
    return grads[0], grads[1], grads[2]


@_flash4_backward.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    grad: Tensor,
    scale: float,
    left: int,
    softcap: float,
) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, ctx.scale, ctx.left, ctx.softcap = inputs
    ctx.save_for_backward(q, k, v, *output)


def _backward(ctx: Any, grad: Tensor, _grad_lse: Tensor) -> tuple[Tensor | None, ...]:
    q, k, v, out, lse = ctx.saved_tensors
    grads = _flash4_backward(q, k, v, out, lse, grad, ctx.scale, ctx.left, ctx.softcap)
    return *grads, None, None, None


flash4.register_autograd(_backward, setup_context=_keep)
