"""Self-attention: (B, T, D) -> (B, T, D). Constructor: (shape, layer, *, options).

Shape letters as in parts/base.py.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gpt_lab import kernels
from gpt_lab.errors import ConfigError
from gpt_lab.options import PositiveFloat, PositiveInt, Probability
from gpt_lab.parts.base import Flow, Shape, keys_seen, salt
from gpt_lab.parts.norm import RMSNorm
from gpt_lab.registry import register


class SelfAttention(nn.Module):
    """Causal attention with any number of key/value heads and, if asked, a sliding window: what all options share.

    qk_norm: RMS norm of queries and keys: none, head (each head, before rotation, as in Qwen3), full (all heads
        together, as in OLMo 2), unit (each head, after rotation, without a gain, as in nanochat).
    softcap: scores s become c tanh(s / c), as in Gemma 2; null for none.
    dropout: share of the attention weights dropped in training; only the math kernel can.
    qkv_bias: a bias for queries, keys and values (Qwen2 has it alone); null: as model.bias says.

    Args:
        kv_heads: key/value heads; None: as many as query heads.
        window: tokens a query sees, itself included; None: all.

    Attributes:
        scale: factor of the scores, 1/sqrt(head_dim) unless the model's init sets another.
        kernel: name of the kernel that computes it, see gpt_lab.kernels.choose.
    """

    def __init__(
        self,
        shape: Shape,
        layer: int,
        kv_heads: int | None = None,
        window: int | None = None,
        *,
        qk_norm: Literal["none", "head", "full", "unit"] = "none",
        softcap: PositiveFloat | None = None,
        dropout: Probability = 0.0,
        qkv_bias: bool | None = None,
    ) -> None:
        super().__init__()
        kv_heads = kv_heads or shape.heads
        if shape.width % shape.heads:
            raise ConfigError(f"scale.width={shape.width} must be a multiple of scale.heads={shape.heads}")
        if shape.heads % kv_heads:
            raise ConfigError(f"attention.kv_heads={kv_heads} must divide scale.heads={shape.heads}")
        self.layer = layer
        self.context = shape.context
        self.heads = shape.heads
        self.kv_heads = kv_heads
        self.head_dim = shape.width // shape.heads
        self.window = window
        self.softcap = softcap
        self.dropout = dropout
        self.scale = 1.0 / math.sqrt(self.head_dim)
        self.kernel = "math"
        self._salt = salt(layer, "attention")
        self._widths = (shape.width, kv_heads * self.head_dim, kv_heads * self.head_dim)
        self.qkv = nn.Linear(shape.width, sum(self._widths), bias=shape.bias if qkv_bias is None else qkv_bias)
        self.o_proj = nn.Linear(shape.width, shape.width, bias=shape.bias)
        self.qk_norm = qk_norm
        if qk_norm != "none":
            dims = self._widths[:2] if qk_norm == "full" else (self.head_dim, self.head_dim)
            self.q_norm, self.k_norm = (RMSNorm(dim, gain=qk_norm != "unit") for dim in dims)

    def forward(self, x_BTD: Tensor, flow: Flow) -> Tensor:
        batch, length, width = x_BTD.shape
        q_BHTK, k_BGTK, v_BGTK = self.project(x_BTD)
        dtype = v_BGTK.dtype  # autocast may leave norms in fp32
        if self.qk_norm == "head":
            q_BHTK, k_BGTK = self.q_norm(q_BHTK).to(dtype), self.k_norm(k_BGTK).to(dtype)
        position = flow.position
        q_BHTK, k_BGTK = position.rotate(q_BHTK, k_BGTK, flow.positions_T)
        if self.qk_norm == "unit":
            q_BHTK, k_BGTK = self.q_norm(q_BHTK).to(dtype), self.k_norm(k_BGTK).to(dtype)
        positions_q = positions_k = None
        if flow.cache is not None:
            positions_q = flow.positions_T
            k_BGTK, v_BGTK, positions_k = flow.cache[self.layer].update(k_BGTK, v_BGTK, positions_q)
        bias_HTS = None
        if position.bias_kind == "tensor":
            positions_T = flow.positions_T
            bias_HTS = position.bias(positions_T, positions_T if positions_k is None else positions_k)
        y_BHTK = kernels.attention(
            q_BHTK,
            k_BGTK,
            v_BGTK,
            kernel=self.kernel,
            scale=self.scale,
            window=self.window,
            slopes_H=position.slopes_H,
            bias_HTS=bias_HTS,
            softcap=self.softcap,
            dropout=self.dropout if self.training else 0.0,
            keys_B=flow.keys_B,
            salt=self._salt,
            positions_q=positions_q,
            positions_k=positions_k,
            documents_q=flow.documents_BT,
            documents_k=flow.documents_BT,
        )
        out_BTD: Tensor = self.o_proj(y_BHTK.transpose(1, 2).reshape(batch, length, width))
        return out_BTD

    def project(self, x_BTD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, H, T, K), keys and values (B, G, T, K)."""
        batch, length, _ = x_BTD.shape
        counts = (self.heads, self.kv_heads, self.kv_heads)
        qkv = self.qkv(x_BTD)
        if self.qk_norm == "full":
            q, k, v = qkv.split(self._widths, dim=-1)
            qkv = torch.cat((self.q_norm(q).to(v.dtype), self.k_norm(k).to(v.dtype), v), dim=-1)
        # split by heads, not by widths: backward then gathers their gradients in one copy
        q_BHTK, k_BGTK, v_BGTK = (
            qkv.view(batch, length, sum(counts), self.head_dim).transpose(1, 2).split(counts, dim=1)
        )
        return q_BHTK, k_BGTK, v_BGTK

    def request(
        self, device: str | torch.device, dtype: str, bias_kind: str = "none", documents: bool = False
    ) -> kernels.Request:
        """What this layer asks of its kernel on a device, in a precision (fp32, tf32, bf16, fp16)."""
        where = torch.device(device)
        capability = torch.cuda.get_device_capability(where) if where.type == "cuda" else None
        return kernels.Request(
            device=where.type,
            dtype=dtype,
            heads=self.heads,
            kv_heads=self.kv_heads,
            head_dim=self.head_dim,
            context=self.context,
            window=self.window,
            bias_kind=bias_kind,
            softcap=self.softcap,
            dropout=self.dropout,
            documents=documents,
            capability=capability,
        )

    def flops_per_token(self, context: int) -> float:
        """Forward matmul FLOPs of a token, averaged over a sequence of `context` tokens.

        Projections, then scores and weighted values of the keys that a causal query sees; a kernel may compute hidden
        ones as well.
        """
        matrices = self.qkv.weight.numel() + self.o_proj.weight.numel()
        return 2 * matrices + 4 * self.heads * self.head_dim * keys_seen(context, self.window)

    def extra_repr(self) -> str:
        return f"heads={self.heads}, kv_heads={self.kv_heads}, window={self.window}, kernel={self.kernel}"


@register("attention", "mha")
class MultiHead(SelfAttention):
    """Multi-head attention: every query head has its own keys and values.

    Paper: Vaswani et al. 2017, arXiv:1706.03762
    """


@register("attention", "gqa")
class GroupedQuery(SelfAttention):
    """Grouped-query attention: several query heads share one head of keys and values, and the cache shrinks by that.

    Paper: Ainslie et al. 2023, arXiv:2305.13245

    kv_heads: key/value heads; must divide scale.heads.
    """

    def __init__(self, shape: Shape, layer: int, *, kv_heads: PositiveInt = 2, **options: Any) -> None:
        super().__init__(shape, layer, kv_heads, **options)


@register("attention", "mqa")
class MultiQuery(SelfAttention):
    """Multi-query attention: all query heads share a single head of keys and values.

    Paper: Shazeer 2019, arXiv:1911.02150
    """

    def __init__(self, shape: Shape, layer: int, **options: Any) -> None:
        super().__init__(shape, layer, kv_heads=1, **options)


@register("attention", "sliding")
class Sliding(SelfAttention):
    """Sliding-window attention in some or all layers: a query sees only the latest tokens.

    Paper: Beltagy et al. 2020, arXiv:2004.05150

    window: tokens a query sees, itself included; null: a quarter of scale.context.
    pattern: one letter a layer, repeated over the layers: S sliding, L long (the whole context).
    kv_heads: key/value heads, which must divide scale.heads; null: as many as query heads.
    """

    def __init__(
        self,
        shape: Shape,
        layer: int,
        *,
        window: PositiveInt | None = None,
        pattern: str = "SSSL",
        kv_heads: PositiveInt | None = None,
        **options: Any,
    ) -> None:
        if not pattern or set(pattern) - set("SL"):
            raise ConfigError(f"attention.pattern={pattern!r} must be letters S (sliding) and L (long), such as SSSL")
        if window is not None and window > shape.context:
            raise ConfigError(
                f"attention.window={window} is larger than scale.context={shape.context}: "
                f"choose at most {shape.context}, or attention=mha"
            )
        wanted = max(1, shape.context // 4) if window is None else window
        super().__init__(shape, layer, kv_heads, wanted if pattern[layer % len(pattern)] == "S" else None, **options)
