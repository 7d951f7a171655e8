"""Linear layers whose three matrix products multiply 8-bit floats (Micikevicius et al. 2022, arXiv:2209.05433).

Each row of each factor is scaled by its own largest value, found anew at every product: one scale for a whole tensor
would let later tokens change how earlier ones are rounded. R, S rows, C what is summed over.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from gpt_lab.errors import ConfigError

MULTIPLE = 16
"""What the hardware wants both sizes of the second factor to be a multiple of."""
VALUES, GRADIENTS = torch.float8_e4m3fn, torch.float8_e5m2
"""3 bits of mantissa up to 448; 2 bits up to 57,344, for gradients differ more in size."""


def quantize(values_RC: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """8-bit floats (R, C), and the factors (R, 1), fp32, that make them the values again."""
    scale_R1 = values_RC.abs().amax(-1, keepdim=True).float().clamp(min=1e-12) / torch.finfo(dtype).max
    return (values_RC.float() / scale_R1).to(dtype), scale_R1


def product(left_RC: Tensor, right_SC: Tensor, kind: torch.dtype = VALUES) -> Tensor:
    """left @ right.T in bf16, (R, S), of 8-bit floats; `kind` is that of the left one. S must be a multiple of 16."""
    missing = -left_RC.shape[1] % MULTIPLE  # zeros add nothing to the sums
    if missing:
        left_RC, right_SC = F.pad(left_RC, (0, missing)), F.pad(right_SC, (0, missing))
    (left, left_R1), (right, right_S1) = quantize(left_RC, kind), quantize(right_SC, VALUES)
    found: Tensor = torch._scaled_mm(
        left.contiguous(),
        right.contiguous().t(),
        scale_a=left_R1,
        scale_b=right_S1.t(),
        out_dtype=torch.bfloat16,
        use_fast_accum=kind is VALUES,
    )
    return found


class Float8Product(torch.autograd.Function):
    """x W^T, x (N, I) in bf16 and W (O, I) in fp32; both gradients are products of 8-bit floats too."""

    @staticmethod
    def forward(ctx: Any, x_NI: Tensor, weight_OI: Tensor) -> Tensor:
        ctx.save_for_backward(x_NI, weight_OI)
        return product(x_NI, weight_OI)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NO: Tensor) -> tuple[Tensor, Tensor]:
        x_NI, weight_OI = ctx.saved_tensors
        grad_x_NI = product(grad_NO, weight_OI.t(), GRADIENTS)
        grad_weight_OI = product(grad_NO.t(), x_NI.t(), GRADIENTS)
        return grad_x_NI, grad_weight_OI.to(weight_OI.dtype)


class Float8Linear(nn.Linear):
    """nn.Linear whose products are Float8Product where autocast lowers products, and fp32 where it does not."""

    def forward(self, x: Tensor) -> Tensor:
        kind = x.device.type
        if not torch.is_autocast_enabled(kind):
            return super().forward(x)
        x = x.to(torch.bfloat16)
        y: Tensor = Float8Product.apply(x.flatten(0, -2), self.weight).view(*x.shape[:-1], self.out_features)
        return y if self.bias is None else y + self.bias.to(y.dtype)


def convert(model: nn.Module) -> None:
    """Makes every plain linear layer but the head a Float8Linear whose two sizes are multiples of 16; in place.

    Raises:
        ConfigError: there is none.
    """
    head, found = getattr(model, "head", None), 0
    for module in model.modules():
        sizes = (module.in_features, module.out_features) if type(module) is nn.Linear else (1,)
        if module is not head and not any(size % MULTIPLE for size in sizes):
            module.__class__ = Float8Linear  # parameters, names and hooks stay as they are
            found += 1
    if not found:
        raise ConfigError(
            "precision=fp8 multiplies layers whose sizes are multiples of 16, and this model has none: make "
            "scale.width one, or use precision=bf16"
        )
