"""Softmax attention: (B, T, D) -> (B, T, D). Constructor: (shape, layer, *, options).

Shape letters as in parts/base.py.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from gpt_lab import kernels
from gpt_lab.errors import ConfigError
from gpt_lab.kernels.base import KeyView, visible
from gpt_lab.options import PositiveFloat, PositiveInt, Probability
from gpt_lab.parts.attention.score_limit import largest_scores, shrinking
from gpt_lab.parts.base import Flow, Position, Shape, keys_seen
from gpt_lab.parts.dropout import salt
from gpt_lab.parts.norm.rmsnorm import RMSNorm
from gpt_lab.parts.states import KeyValues
from gpt_lab.registry import register


class Softmax(nn.Module):
    """Attention by softmax over keys, whatever queries, keys and values are made from.

    softcap: scores s become c tanh(s / c), as in Gemma 2; null for none.
    dropout: share of the attention weights dropped in training; only the math kernel can.

    Args:
        kv_heads: key/value heads; None: as many as query heads.
        window: tokens a query sees, itself included; None: all.
        head_dim: of queries and keys; None: scale.width / scale.heads.
        value_dim: of a head's values; None: as head_dim.

    Attributes:
        scale: factor of the scores, 1/sqrt(head_dim) unless the model's init sets another.
        kernel: name of the kernel that computes it, see gpt_lab.kernels.choose.
        sinks_H: a logit for each head that joins the softmax and brings no value; None: no sinks.
        both_ways: whether it can see later tokens too, in a model whose shape is not causal.
        by_row: whether it can read rows that are at different positions, a token of each.
        score_limit: the largest score that training leaves; None: none is looked for.
    """

    both_ways: ClassVar[bool] = False
    by_row: ClassVar[bool] = True
    score_limit: float | None = None
    largest_H: Tensor
    """The largest score of each head since the last step, where there is a limit."""

    def __init__(
        self,
        shape: Shape,
        layer: int,
        kv_heads: int | None = None,
        window: int | None = None,
        head_dim: int | None = None,
        value_dim: int | None = None,
        *,
        softcap: PositiveFloat | None = None,
        dropout: Probability = 0.0,
    ) -> None:
        super().__init__()
        kv_heads = kv_heads or shape.heads
        if shape.width % shape.heads:
            raise ConfigError(f"scale.width={shape.width} must be a multiple of scale.heads={shape.heads}")
        if shape.heads % kv_heads:
            raise ConfigError(f"attention.kv_heads={kv_heads} must divide scale.heads={shape.heads}")
        self.layer = layer
        self.causal = shape.causal
        self.context = shape.context
        self.heads = shape.heads
        self.kv_heads = kv_heads
        self.head_dim = head_dim or shape.width // shape.heads
        self.value_dim = value_dim or self.head_dim
        self.window = window
        self.softcap = softcap
        self.dropout = dropout
        self.draws = dropout > 0.0
        self.scale = 1.0 / math.sqrt(self.head_dim)
        self.kernel = "math"
        self.sinks_H: Tensor | None = None

    def attend(self, q_BHTK: Tensor, k_BGTK: Tensor, v_BGTV: Tensor, flow: Flow) -> Tensor:
        """The weighted values of these and all earlier tokens: (B, H, T, V)."""
        return self.weigh(q_BHTK, *self.remember(k_BGTK, v_BGTV, flow), flow)

    def remember(self, k_BGTK: Tensor, v_BGTV: Tensor, flow: Flow) -> tuple[Tensor, Tensor, Tensor | None]:
        """Keys and values of these and all earlier tokens, with the keys' positions (S,); None: all are new.

        Where rows are at different positions, (B, S) or (S,): some keys are then not theirs, and hidden by causality.
        """
        state = flow.state("attention", lambda: KeyValues(self.window))
        return (k_BGTK, v_BGTV, None) if state is None else state.update(k_BGTK, v_BGTV, flow.positions_T)

    def weigh(
        self,
        q_BHTK: Tensor,
        k_BGSK: Tensor,
        v_BGSV: Tensor,
        positions_k: Tensor | None,
        flow: Flow,
        hidden_BHTS: Tensor | None = None,
    ) -> Tensor:
        """What the kernel makes of queries and of all keys and values in sight: (B, H, T, V).

        Args:
            positions_k: (S,) or (B, S), where the keys come from a state; None: they are the queries' own tokens.
            hidden_BHTS: what is added to the scores beside the position encoding's bias, such as a mask; H may be 1.
        """
        view = self.view(q_BHTK, k_BGSK, positions_k, flow, hidden_BHTS)
        if self.score_limit is not None and self.training:
            largest_H = largest_scores(q_BHTK, k_BGSK, self.scale, view, hidden_BHTS)
            self.largest_H.copy_(torch.maximum(self.largest_H, largest_H))
        return kernels.attention(
            q_BHTK,
            k_BGSK,
            v_BGSV,
            kernel=self.kernel,
            scale=self.scale,
            softcap=self.softcap,
            dropout=self.dropout if self.training else 0.0,
            keys_B=flow.keys_B,
            salt=salt(flow.layer, "attention"),
            **view._asdict(),
        )

    def limit_scores(self, most: float) -> None:
        """From now on, a step after which a score was larger shrinks what that head's queries and keys are made by.

        Raises:
            ConfigError: scores do not follow the weights.
        """
        if (why := self.unlimited()) is not None:
            raise ConfigError(f"optim.qk_clip cannot limit the scores of {why}: leave it out")
        self.score_limit = most
        self.register_buffer("largest_H", torch.full((self.heads,), float("-inf")), persistent=False)
        self.seen_H = self.largest_H.clone()
        self.after_step = self._clip_scores

    def unlimited(self) -> str | None:
        """Which scores are not multiplied when weights are; None: they are."""
        return f"attention={getattr(type(self), 'part', ('', type(self).__name__))[1]}"

    def scale_scores(self, factor_H: Tensor) -> None:
        """Multiplies the scores of each head, by its weights."""
        raise NotImplementedError

    @torch.no_grad()
    def _clip_scores(self) -> None:
        """QK-Clip: what comes after each step where there is a limit."""
        assert self.score_limit is not None
        self.scale_scores(shrinking(self.largest_H, self.score_limit))
        self.seen_H = self.largest_H.clone()
        self.largest_H.fill_(float("-inf"))

    def measures(self) -> dict[str, float]:
        """The largest score of the last step, where there is a limit."""
        return {} if self.score_limit is None else {"score": self.seen_H.max().item()}

    def view(
        self,
        q_BHTK: Tensor,
        k_BGSK: Tensor,
        positions_k: Tensor | None,
        flow: Flow,
        hidden_BHTS: Tensor | None = None,
    ) -> KeyView:
        """What each query sees and what is added to its scores; arguments as those of weigh."""
        position, documents_BT = flow.position.at(flow.layer), flow.documents_BT
        bias = self.bias(q_BHTK, k_BGSK, positions_k, position, flow)
        if hidden_BHTS is not None:
            bias = hidden_BHTS if bias is None else bias + hidden_BHTS
        positions_q = None if positions_k is None else flow.positions_T
        # a state holds nothing beyond the window of its last token
        alone = positions_q is not None and positions_q.shape == (1,) and documents_BT is None and self.causal
        return KeyView(
            self.window,
            position.slopes_H,
            bias,
            positions_q,
            positions_k,
            documents_BT,
            documents_BT,
            self.sinks_H,
            self.causal,
            alone,
        )

    def bias(
        self, q_BHTK: Tensor, k_BGSK: Tensor, positions_k: Tensor | None, position: Position, flow: Flow
    ) -> Tensor | None:
        """What the position encoding adds to the scores: (H, T, S), or (B, H, T, S) where it depends on them."""
        if position.bias_kind == "tensor":
            return position.bias(flow.positions_T, flow.positions_T if positions_k is None else positions_k)
        if position.bias_kind == "content":
            positions_q = None if positions_k is None else flow.positions_T
            documents_BT = flow.documents_BT
            view = KeyView(self.window, None, None, positions_q, positions_k, documents_BT, documents_BT)
            seen = visible(q_BHTK.shape[2], k_BGSK.shape[2], q_BHTK.device, view)
            if positions_k is None or self.window is None:
                return position.content_bias(q_BHTK, k_BGSK, self.scale, seen)
            order_B1S = positions_k.view(-1, 1, positions_k.shape[-1]).argsort()  # a ring buffer's lie in any order
            k_BGSK = k_BGSK.take_along_dim(order_B1S[..., None], 2)
            seen = seen.view(-1, 1, *seen.shape[-2:]).take_along_dim(order_B1S[:, None], -1)
            added = position.content_bias(q_BHTK, k_BGSK, self.scale, seen)
            return None if added is None else added.take_along_dim(order_B1S.argsort()[:, None], -1)
        return None

    def request(
        self, device: str | torch.device, dtype: str, bias_kind: str = "none", documents: bool = False
    ) -> kernels.KernelRequest:
        """What this layer asks of its kernel on a device, in a precision (fp32, tf32, bf16, fp16)."""
        where = torch.device(device)
        capability = torch.cuda.get_device_capability(where) if where.type == "cuda" else None
        return kernels.KernelRequest(
            device=where.type,
            dtype=dtype,
            heads=self.heads,
            kv_heads=self.kv_heads,
            head_dim=self.head_dim,
            value_dim=self.value_dim,
            context=self.context,
            window=self.window,
            bias_kind="tensor" if bias_kind == "content" else bias_kind,
            softcap=self.softcap,
            dropout=self.dropout,
            documents=documents,
            sinks=self.sinks_H is not None,
            causal=self.causal,
            capability=capability,
        )

    def keys_seen(self, context: int) -> float:
        """Keys that a query sees, averaged over a sequence of `context` tokens."""
        return keys_seen(context, self.window) if self.causal else context

    def extra_repr(self) -> str:
        return f"heads={self.heads}, kv_heads={self.kv_heads}, window={self.window}, kernel={self.kernel}"


class SelfAttention(Softmax):
    """Attention with any number of key/value heads and, if asked, a sliding window: what most options share.

    qk_norm: RMS norm of queries and keys: none, head (each head, before rotation, as in Qwen3), full (all heads
        together, as in OLMo 2), unit (each head, after rotation, without a gain, as in nanochat).
    qkv_bias: a bias for queries, keys and values (Qwen2 has it alone); null: as model.bias says.
    head_dim: of queries, keys and values, whatever the width (Qwen3, Gemma 3: 128 or 256); null: scale.width over
        scale.heads.
    """

    both_ways = True

    def __init__(
        self,
        shape: Shape,
        layer: int,
        kv_heads: int | None = None,
        window: int | None = None,
        *,
        qk_norm: Literal["none", "head", "full", "unit"] = "none",
        qkv_bias: bool | None = None,
        head_dim: PositiveInt | None = None,
        **options: Any,
    ) -> None:
        super().__init__(shape, layer, kv_heads, window, head_dim, **options)
        self._widths = (self.heads * self.head_dim, *[self.kv_heads * self.head_dim] * 2)
        self.qkv = nn.Linear(shape.width, sum(self._widths), bias=shape.bias if qkv_bias is None else qkv_bias)
        self.o_proj = nn.Linear(self._widths[0], shape.width, bias=shape.bias)
        self.qk_norm = qk_norm
        if qk_norm != "none":
            dims = self._widths[:2] if qk_norm == "full" else (self.head_dim, self.head_dim)
            self.q_norm, self.k_norm = (RMSNorm(dim, gain=qk_norm != "unit") for dim in dims)

    def forward(self, x_BTD: Tensor, flow: Flow) -> Tensor:
        q_BHTK, k_BGTK, v_BGTK = self.project(x_BTD)
        q_BHTK, k_BGTK = self.place(q_BHTK, k_BGTK, v_BGTK.dtype, flow)  # autocast may leave norms in fp32
        y_BHTK = self.attend(q_BHTK, k_BGTK, v_BGTK, flow)
        batch, length, _ = x_BTD.shape
        return self.output(y_BHTK.transpose(1, 2).reshape(batch, length, -1), x_BTD)

    def place(self, q_BHTK: Tensor, k_BGTK: Tensor, dtype: torch.dtype, flow: Flow) -> tuple[Tensor, Tensor]:
        """Queries and keys, normalised as asked and rotated by their positions."""
        if self.qk_norm == "head":
            q_BHTK, k_BGTK = self.q_norm(q_BHTK).to(dtype), self.k_norm(k_BGTK).to(dtype)
        q_BHTK, k_BGTK = flow.position.at(flow.layer).rotate(q_BHTK, k_BGTK, flow.positions_T)
        if self.qk_norm == "unit":
            q_BHTK, k_BGTK = self.q_norm(q_BHTK).to(dtype), self.k_norm(k_BGTK).to(dtype)
        return q_BHTK, k_BGTK

    def output(self, y_BTD: Tensor, x_BTD: Tensor) -> Tensor:
        """The heads' values, side by side, back to the model's width; x is what attention read."""
        out_BTD: Tensor = self.o_proj(y_BTD)
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

    def unlimited(self) -> str | None:
        """Those that a norm bounds, and those of a projection that is more than its weight."""
        if self.qk_norm != "none":
            return f"attention.qk_norm={self.qk_norm}, which no weight makes larger"
        return None if type(self.qkv) is nn.Linear else f"projections by a {type(self.qkv).__name__}"

    def scale_scores(self, factor_H: Tensor) -> None:
        """By queries and keys alike where each head has its own keys, else by queries, as the paper's rotary part."""
        own = self.heads == self.kv_heads
        rows = (factor_H.sqrt() if own else factor_H).repeat_interleave(self.head_dim)
        whole = torch.cat((rows, rows) if own else (rows,))
        for parameter in (self.qkv.weight, self.qkv.bias):
            if parameter is not None:
                part = parameter[: len(whole)]
                part.mul_(whole.view(-1, *[1] * (part.dim() - 1)).to(part.dtype))

    def flops_per_token(self, context: int) -> float:
        """Forward matmul FLOPs of a token, averaged over a sequence of `context` tokens.

        Projections, then scores and weighted values of the keys that a query sees; a kernel may compute hidden ones as
        well.
        """
        matrices = self.qkv.weight.numel() + self.o_proj.weight.numel()
        return 2 * matrices + 4 * self.heads * self.head_dim * self.keys_seen(context)


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
