"""Cross-entropy of what a head makes of hidden states, some tokens at a time: all logits never stand in memory at once.

Their gradients are made with them, while a chunk's logits are there (Hsu et al. 2024, arXiv:2410.10989, Liger kernels;
Wijmans et al. 2024, arXiv:2411.09009), so that no product is computed twice. N tokens, D width, V vocabulary, R rows of
the head, C tokens of a chunk.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from gpt_lab.parts.objective.base import IGNORED, Projection


class LossRule(NamedTuple):
    """What is summed over the tokens beside their cross-entropy, as objective=ce has it; tokens of a chunk."""

    label_smoothing: float
    z_loss: float
    chunk: int


def chunked_sums(projection: Projection, targets_BT: Tensor, rule: LossRule) -> tuple[Tensor, Tensor]:
    """The loss and the cross-entropy, both summed over the counted targets, fp32; only the loss has a gradient."""
    x_ND, targets_N = projection.x_BTD.flatten(0, -2), targets_BT.flatten()
    found: tuple[Tensor, Tensor] = _ChunkedLoss.apply(
        x_ND, projection.weight_RD, targets_N, projection.vocab_size, projection.softcap, rule
    )
    return found


class _ChunkedLoss(torch.autograd.Function):
    """The sums of `chunked_sums`; gradients of x and of the weight are those of a loss of weight 1."""

    @staticmethod
    def forward(
        ctx: Any,
        x_ND: Tensor,
        weight_RD: Tensor,
        targets_N: Tensor,
        vocab_size: int,
        softcap: float | None,
        rule: LossRule,
    ) -> tuple[Tensor, Tensor]:
        kind = x_ND.device.type
        lowered = torch.is_autocast_enabled(kind)
        dtype = torch.get_autocast_dtype(kind) if lowered else weight_RD.dtype
        weight_VD = weight_RD[:vocab_size].to(dtype)
        of_x, of_weight = ctx.needs_input_grad[:2]
        grad_x_ND = torch.empty_like(x_ND) if of_x else None
        grad_weight_RD = torch.zeros_like(weight_RD) if of_weight else None
        wide = torch.promote_types(weight_RD.dtype, torch.float32)
        total = torch.zeros((), dtype=wide, device=x_ND.device)
        nats = torch.zeros_like(total)
        for first in range(0, len(x_ND), rule.chunk):
            here = slice(first, first + rule.chunk)
            x_CD = x_ND[here].to(dtype)
            logits_CV = F.linear(x_CD, weight_VD).to(wide)
            loss, own_nats, grad_CV = _of_chunk(logits_CV, targets_N[here], softcap, rule)
            total, nats = total + loss, nats + own_nats
            grad_CV = grad_CV.to(dtype)
            if grad_x_ND is not None:
                grad_x_ND[here] = grad_CV @ weight_VD
            if grad_weight_RD is not None:
                if dtype == grad_weight_RD.dtype:
                    grad_weight_RD[:vocab_size].addmm_(grad_CV.t(), x_CD)
                else:  # sums over chunks are in fp32
                    grad_weight_RD[:vocab_size] += grad_CV.t() @ x_CD
        ctx.save_for_backward(grad_x_ND, grad_weight_RD)
        ctx.mark_non_differentiable(nats)
        return total, nats

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        grad_x_ND, grad_weight_RD = ctx.saved_tensors
        of_x = None if grad_x_ND is None else grad_x_ND * grad.to(grad_x_ND.dtype)
        of_weight = None if grad_weight_RD is None else grad_weight_RD * grad.to(grad_weight_RD.dtype)
        return of_x, of_weight, None, None, None, None


def _of_chunk(
    logits_CV: Tensor, targets_C: Tensor, softcap: float | None, rule: LossRule
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss and cross-entropy, summed, and the loss's gradient of the logits, which are overwritten."""
    smoothing, counted_C = rule.label_smoothing, targets_C != IGNORED
    slope_CV = None
    if softcap is not None:
        share_CV = logits_CV.div_(softcap).tanh_()
        slope_CV = 1 - share_CV.square()
        logits_CV = share_CV.mul_(softcap)
    at_target_C1 = targets_C.clamp(min=0)[:, None]
    log_z_C = logits_CV.logsumexp(-1)
    nats_C = log_z_C - logits_CV.gather(1, at_target_C1).squeeze(1)
    loss_C = nats_C
    if smoothing:
        loss_C = (1 - smoothing) * loss_C + smoothing * (log_z_C - logits_CV.mean(-1))
    if rule.z_loss:
        loss_C = loss_C + rule.z_loss * log_z_C.square()
    grad_CV = logits_CV.sub_(log_z_C[:, None]).exp_()
    if rule.z_loss:
        grad_CV *= (1 + 2 * rule.z_loss * log_z_C)[:, None]
    if smoothing:
        grad_CV -= smoothing / grad_CV.shape[1]
    grad_CV.scatter_add_(1, at_target_C1, grad_CV.new_full((1, 1), smoothing - 1).expand_as(at_target_C1))
    grad_CV *= counted_C[:, None]
    if slope_CV is not None:
        grad_CV *= slope_CV
    return (loss_C * counted_C).sum(), (nats_C * counted_C).sum(), grad_CV
