"""Multi-head attention with one change each: a gate on its output, sinks, the first layer's values. Constructor:
(shape, layer, *, options).

Shape letters as in parts/base.py.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from gpt_lab.errors import ConfigError
from gpt_lab.options import PositiveInt
from gpt_lab.parts.attention.softmax import SelfAttention
from gpt_lab.parts.base import Flow, Shape
from gpt_lab.registry import register


@register("attention", "gated")
class Gated(SelfAttention):
    """Multi-head attention whose output passes a sigmoid gate before the last projection.

    Paper: Qiu et al. 2025, arXiv:2505.06708.

    The gate reads what attention read; a head that has nothing to say closes, which replaces the attention sink.
    Elementwise with qk_norm=head is the attention of Qwen3-Next.

    gate: headwise, one number for each head and token; elementwise, one for each channel (a matrix of width x width).
    kv_heads: key/value heads, which must divide scale.heads; null: as many as query heads.
    """

    def __init__(
        self,
        shape: Shape,
        layer: int,
        *,
        gate: Literal["headwise", "elementwise"] = "elementwise",
        kv_heads: PositiveInt | None = None,
        **options: Any,
    ) -> None:
        super().__init__(shape, layer, kv_heads, **options)
        self.gate_proj = nn.Linear(
            shape.width, self.heads if gate == "headwise" else self.heads * self.value_dim, bias=shape.bias
        )

    def output(self, y_BTD: Tensor, x_BTD: Tensor) -> Tensor:
        gate = torch.sigmoid(self.gate_proj(x_BTD))
        gated = y_BTD.unflatten(-1, (self.heads, -1)) * gate.unflatten(-1, (self.heads, -1))
        return super().output(gated.flatten(-2), x_BTD)

    def flops_per_token(self, context: int) -> float:
        return super().flops_per_token(context) + 2 * self.gate_proj.weight.numel()


@register("attention", "sinks")
class Sinks(SelfAttention):
    """Multi-head attention with a learned logit for each head in the softmax: a head may attend to nothing.

    Paper: Agarwal et al. 2025, arXiv:2508.10925 (gpt-oss), after Xiao et al. 2023, arXiv:2309.17453.

    The logit stands in the softmax's denominator alone, so that the weights of a query sum to less than 1; softcap does
    not act on it. Kernels math and sdpa can; the logit starts at 0.

    kv_heads: key/value heads, which must divide scale.heads; null: as many as query heads.
    """

    def __init__(self, shape: Shape, layer: int, *, kv_heads: PositiveInt | None = None, **options: Any) -> None:
        super().__init__(shape, layer, kv_heads, **options)
        self.sinks_H = nn.Parameter(torch.zeros(shape.heads))


@register("attention", "value_residual")
class ValueResidual(SelfAttention):
    """Multi-head attention whose later layers mix the first layer's values into their own.

    Paper: Zhou et al. 2024, arXiv:2410.17897 (ResFormer with learned scalars).

    Layer n > 0 attends to a V_n + b V_0, with a and b learned and 0.5 each at first; the first layer is plain. V_0 are
    the values of the same tokens, so that decoding keeps nothing beside keys and mixed values.

    kv_heads: key/value heads, which must divide scale.heads; null: as many as query heads.

    Raises:
        ConfigError: layer 0 left no values of this shape: it has another attention.
    """

    def __init__(self, shape: Shape, layer: int, *, kv_heads: PositiveInt | None = None, **options: Any) -> None:
        super().__init__(shape, layer, kv_heads, **options)
        if layer:
            self.mix = nn.Parameter(torch.tensor([0.5, 0.5]))

    def attend(self, q_BHTK: Tensor, k_BGTK: Tensor, v_BGTV: Tensor, flow: Flow) -> Tensor:
        assert flow.shared is not None, "a pass through the model carries it"
        if flow.layer == 0:
            flow.shared["values"] = v_BGTV
        elif self.layer:
            first_BGTV = flow.shared.get("values")
            if first_BGTV is None or first_BGTV.shape != v_BGTV.shape:
                raise ConfigError(
                    "attention=value_residual mixes in the values of layer 0, which has none of its shape: give it "
                    "attention=value_residual too, with the same kv_heads"
                )
            own, first = self.mix.to(v_BGTV.dtype)
            v_BGTV = own * v_BGTV + first * first_BGTV
        return super().attend(q_BHTK, k_BGTK, v_BGTV, flow)
