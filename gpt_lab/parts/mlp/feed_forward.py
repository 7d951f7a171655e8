"""Feed-forward networks: (B, T, D) -> (B, T, D). Constructor: (shape, layer, *, options)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from gpt_lab.options import PositiveInt
from gpt_lab.parts.base import Shape
from gpt_lab.registry import register


class _MLP(nn.Module):
    """What all have in common: the way down, and the count of its matmuls."""

    down_proj: nn.Linear

    def flops_per_token(self, context: int) -> float:
        """Forward matmul FLOPs of a token; the same at every context."""
        return 2 * sum(layer.weight.numel() for layer in self.children() if isinstance(layer, nn.Linear))


class _PlainMLP(_MLP):
    """down(activation(up x)).

    d_ff: hidden width; null means 4 x the model width.
    """

    def __init__(self, shape: Shape, layer: int, *, d_ff: PositiveInt | None = None) -> None:
        super().__init__()
        hidden = d_ff or 4 * shape.width
        self.up_proj = nn.Linear(shape.width, hidden, bias=shape.bias)
        self.down_proj = nn.Linear(hidden, shape.width, bias=shape.bias)

    def activation(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(self.activation(self.up_proj(x)))
        return out


class _GatedMLP(_MLP):
    """down(activation(gate x) * up x).

    d_ff: hidden width; null means 8/3 x the model width, to the nearest multiple of 8, so that three matrices have the
        parameters of a plain MLP's two (within 2 % from width 128 on).
    """

    def __init__(self, shape: Shape, layer: int, *, d_ff: PositiveInt | None = None) -> None:
        super().__init__()
        hidden = d_ff or max(8, round(shape.width / 3) * 8)
        self.gate_proj = nn.Linear(shape.width, hidden, bias=shape.bias)
        self.up_proj = nn.Linear(shape.width, hidden, bias=shape.bias)
        self.down_proj = nn.Linear(hidden, shape.width, bias=shape.bias)

    def activation(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(self.activation(self.gate_proj(x)) * self.up_proj(x))
        return out


@register("mlp", "relu")
class ReLU(_PlainMLP):
    """Two layers with ReLU between them, as in the first Transformer.

    Paper: Vaswani et al. 2017, arXiv:1706.03762
    """

    def activation(self, x: Tensor) -> Tensor:
        return F.relu(x)


@register("mlp", "gelu")
class GELU(_PlainMLP):
    """Two layers with the exact GELU (error function) between them.

    Paper: Hendrycks and Gimpel 2016, arXiv:1606.08415
    """

    def activation(self, x: Tensor) -> Tensor:
        return F.gelu(x)


@register("mlp", "gelu_tanh")
class GELUTanh(_PlainMLP):
    """Two layers with GELU's tanh approximation between them, as in GPT-2.

    Paper: Hendrycks and Gimpel 2016, arXiv:1606.08415
    """

    def activation(self, x: Tensor) -> Tensor:
        return F.gelu(x, approximate="tanh")


@register("mlp", "relu2")
class SquaredReLU(_PlainMLP):
    """Two layers with ReLU squared between them.

    Paper: So et al. 2021, arXiv:2109.08668
    """

    def activation(self, x: Tensor) -> Tensor:
        return F.relu(x).square()


@register("mlp", "silu")
class SiLU(_PlainMLP):
    """Two layers with SiLU (Swish) between them.

    Paper: Ramachandran et al. 2017, arXiv:1710.05941
    """

    def activation(self, x: Tensor) -> Tensor:
        return F.silu(x)


@register("mlp", "swiglu")
class SwiGLU(_GatedMLP):
    """Gated linear unit with SiLU on the gate, as in Llama.

    Paper: Shazeer 2020, arXiv:2002.05202
    """

    def activation(self, x: Tensor) -> Tensor:
        return F.silu(x)


@register("mlp", "geglu")
class GEGLU(_GatedMLP):
    """Gated linear unit with GELU (tanh approximation) on the gate, as in Gemma.

    Paper: Shazeer 2020, arXiv:2002.05202
    """

    def activation(self, x: Tensor) -> Tensor:
        return F.gelu(x, approximate="tanh")


@register("mlp", "reglu")
class ReGLU(_GatedMLP):
    """Gated linear unit with ReLU on the gate.

    Paper: Shazeer 2020, arXiv:2002.05202
    """

    def activation(self, x: Tensor) -> Tensor:
        return F.relu(x)
