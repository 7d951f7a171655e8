"""Kernels that every device has: plain matrix products, and PyTorch's scaled_dot_product_attention."""

from __future__ import annotations

from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from gpt_lab.kernels.base import TWICE, KernelRequest, KeyView, additive, constant, visible
from gpt_lab.parts.dropout import dropped
from gpt_lab.registry import register

_HOPPER_ORDER = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]


@register("kernel", "math")
class Math:
    """Two batched matrix products around a softmax: can do everything, and the fastest on CPU at short contexts.

    Reference: Vaswani et al. 2017, arXiv:1706.03762. Holds all scores, (B, H, T, S), in memory. No options.
    """

    @staticmethod
    def unavailable() -> str | None:
        return None

    @staticmethod
    def refusal(request: KernelRequest) -> str | None:
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
        batch, heads, queries, head_dim = q_BHTK.shape
        groups, keys = k_BGSK.shape[1], k_BGSK.shape[2]
        added = (view.slopes_H, view.bias_HTS, view.sinks_H, softcap, keys_B if dropout else None)
        if queries == 1 and view.all_seen and q_BHTK.is_cpu and all(part is None for part in added):
            return one_query(q_BHTK, k_BGSK, v_BGSV, scale)
        decoding = queries == 1 and view.positions_q is not None and head_dim == v_BGSV.shape[3]
        if decoding and (heads == groups or batch == 1) and all(part is None for part in added):
            return Sdpa.run(q_BHTK, k_BGSK, v_BGSV, view, scale, softcap, 0.0, None, salt)
        block = _block(queries, keys, view, dropout)
        if block < queries:
            blocks = []
            for first in range(0, queries, block):
                last = min(first + block, queries)
                begin = 0 if view.window is None else max(0, first + 1 - view.window)
                q, k, v = q_BHTK[:, :, first:last], k_BGSK[:, :, begin:last], v_BGSV[:, :, begin:last]
                blocks.append(Math.run(q, k, v, view, scale, softcap, dropout, keys_B, salt))
            return torch.cat(blocks, dim=2)
        weights = softmax_weights(q_BHTK, k_BGSK, view, scale, softcap)
        if dropout > 0.0 and keys_B is not None:
            gone = dropped(keys_B, salt, (heads, queries, keys), dropout).view_as(weights)
            weights = (weights * (1.0 / (1.0 - dropout))).masked_fill(gone, 0.0)
        v = v_BGSV.reshape(batch * groups, keys, v_BGSV.shape[3])
        return torch.bmm(weights.to(v.dtype), v).view(batch, heads, queries, -1)


FUSED_QUERIES = 64
"""Rows times heads from which on plain products take less time than sdpa for one query each, on a CPU in fp32."""


def one_query(q_BH1K: Tensor, k_BGSK: Tensor, v_BGSV: Tensor, scale: float) -> Tensor:
    """Attention on a CPU of one query a row that sees every key: (B, H, 1, V).

    For 8 heads and 200 keys sdpa takes 16 us in place of 22, but for 16 rows of 4 heads 400 in place of 220, and for 8
    rows of 8 heads that share 2 of keys 137 in place of 82.
    """
    batch, heads, _, head_dim = q_BH1K.shape
    groups, value_dim = k_BGSK.shape[1], v_BGSV.shape[3]
    few = batch * heads < FUSED_QUERIES or q_BH1K.dtype != torch.float32  # measured in fp32
    fused = batch == 1 or (heads == groups and few)
    if fused and head_dim == value_dim:
        return F.scaled_dot_product_attention(q_BH1K, k_BGSK, v_BGSV, scale=scale, enable_gqa=heads != groups)
    q = q_BH1K.reshape(batch * groups, heads // groups, head_dim)
    scores = torch.baddbmm(q.new_empty(()), q, k_BGSK.flatten(0, 1).transpose(1, 2), beta=0, alpha=scale)
    return torch.bmm(scores.softmax(-1), v_BGSV.flatten(0, 1)).view(batch, heads, 1, value_dim)


def softmax_weights(q_BHTK: Tensor, k_BGSK: Tensor, view: KeyView, scale: float, softcap: float | None) -> Tensor:
    """The weight of each key for each query: (B G, H/G T, S), the queries of heads that share keys below each other."""
    batch, heads, queries, head_dim = q_BHTK.shape
    groups, keys = k_BGSK.shape[1], k_BGSK.shape[2]
    shared = heads // groups
    # the query heads that share keys become rows of one product, so that keys and values are never repeated
    q = q_BHTK.reshape(batch * groups, shared * queries, head_dim)
    k = k_BGSK.reshape(batch * groups, keys, head_dim).transpose(1, 2)
    plain = softcap is None and view.slopes_H is None and view.bias_HTS is None and view.documents_q is None
    if plain and view.all_seen:
        scores = torch.baddbmm(q.new_empty(()), q, k, beta=0, alpha=scale)
    elif plain and (view.positions_q is None or view.positions_q.dim() == 1):
        mask = additive(queries, keys, q.device, q.dtype, view, repeat=shared)
        scores = torch.baddbmm(mask, q, k, alpha=scale)
    else:
        ignored = q.new_zeros(())
        if softcap is None:
            scores = torch.baddbmm(ignored, q, k, beta=0, alpha=scale)
        else:
            scores = torch.baddbmm(ignored, q, k, beta=0, alpha=scale / softcap).tanh() * softcap
        scores = scores.view(batch, heads, queries, keys)
        if view.bias_HTS is not None:
            scores = scores + view.bias_HTS
        if not view.all_seen or view.slopes_H is not None:
            scores = scores.add_(additive(queries, keys, q.device, q.dtype, view))
        scores = scores.view(batch * groups, shared * queries, keys)
    if view.sinks_H is None:
        return scores.softmax(-1)
    sinks = view.sinks_H.to(scores.dtype).view(groups, shared, 1).expand(batch, -1, -1, queries)
    return torch.cat((scores, sinks.reshape(batch * groups, shared * queries, 1)), -1).softmax(-1)[..., :-1]


def _block(queries: int, keys: int, view: KeyView, dropout: float) -> int:
    """Queries that are computed at a time, so that most of the keys that causality hides are left out.

    Four blocks save 3 % of a training step at context 256 on CPU; at 64 two cost more than they save.
    """
    whole = (view.slopes_H, view.bias_HTS, view.positions_q, view.documents_q)
    if queries != keys or dropout > 0.0 or not view.causal or any(part is not None for part in whole):
        return queries
    return max(64, -(-queries // 4))


@register("kernel", "sdpa")
class Sdpa:
    """PyTorch's fused attention: cuDNN's first on Hopper, flash or memory-efficient elsewhere, blocked on CPU.

    Reference: torch.nn.functional.scaled_dot_product_attention. No options.
    """

    @staticmethod
    def unavailable() -> str | None:
        return None

    @staticmethod
    def refusal(request: KernelRequest) -> str | None:
        if request.dropout > 0.0:
            return "it cannot do reproducible attention dropout"
        if request.softcap is not None:
            return "it cannot cap attention scores"
        return TWICE if request.twice else None

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
        heads, queries, groups, keys = q_BHTK.shape[1], q_BHTK.shape[2], k_BGSK.shape[1], k_BGSK.shape[2]
        device, dtype = q_BHTK.device, q_BHTK.dtype
        biased = any(part is not None for part in (view.slopes_H, view.bias_HTS, view.sinks_H))
        masked = view.positions_q is not None or view.documents_q is not None
        plain = queries == keys and not masked and not biased and (view.window is None or view.window >= keys)
        causal = plain and view.causal
        mask: Tensor | None = None
        if biased:
            mask = additive(queries, keys, device, dtype, view)
            if view.bias_HTS is not None:
                mask = view.bias_HTS.to(dtype) + mask
            mask = mask[(None,) * (4 - mask.dim())]
        elif not plain and not view.all_seen:
            mask = visible(queries, keys, device, view)
        if mask is not None and view.sinks_H is not None:  # one more key, of zeros, whose score is the sink
            sinks = view.sinks_H.to(dtype).view(1, heads, 1, 1).expand(mask.shape[0], -1, queries, -1)
            mask = torch.cat((mask.expand(-1, heads, -1, -1), sinks), dim=-1)
            k_BGSK, v_BGSV = (F.pad(t, (0, 0, 0, 1)) for t in (k_BGSK, v_BGSV))
        hopper = device.type == "cuda" and _is_hopper(device.index or 0)
        grouped = heads != groups
        # on CUDA only the flash kernel groups heads, and it takes neither a mask nor fp32; on MPS none is known to
        flash = device.type == "cuda" and plain and not hopper and dtype != torch.float32
        if grouped and device.type != "cpu" and not flash:
            k_BGSK = k_BGSK.repeat_interleave(heads // groups, dim=1)
            v_BGSV = v_BGSV.repeat_interleave(heads // groups, dim=1)
            grouped = False
        with sdpa_kernel(_HOPPER_ORDER, set_priority=True) if hopper else nullcontext():
            return F.scaled_dot_product_attention(
                q_BHTK, k_BGSK, v_BGSV, attn_mask=mask, is_causal=causal, scale=scale, enable_gqa=grouped
            )


_hopper: dict[int, bool] = {}


@constant
def _is_hopper(index: int) -> bool:
    if index not in _hopper:
        _hopper[index] = torch.cuda.get_device_capability(index)[0] == 9
    return _hopper[index]
