"""Muon: orthogonalized momentum, all matrices of one shape at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from gpt_lab.optim.groups import Group, param_group
from gpt_lab.options import NonNegativeFloat, PositiveFloat, Probability, Rounds
from gpt_lab.registry import register

Adjust = Literal["original", "match_rms_adamw"]
QUINTIC = (3.4445, -4.7750, 2.0315)
"""Jordan et al.: steepest at 0, so that five rounds lift small singular values; they end in about 0.7 to 1.2."""
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32, "fp64": torch.float64}


def orthogonalize(matrices: Sequence[Tensor], steps: int = 5, dtype: torch.dtype = torch.bfloat16) -> list[Tensor]:
    """Each matrix with its singular values brought near 1, by Newton-Schulz rounds.

    Args:
        matrices: 2-D tensors of any shapes; equal shapes, up to transposition, share their matrix products.
        steps: rounds.
        dtype: of the products and of the result.
    """
    alike: dict[tuple[int, int], list[int]] = {}
    for i, matrix in enumerate(matrices):
        alike.setdefault((min(matrix.shape), max(matrix.shape)), []).append(i)
    result: list[Tensor] = list(matrices)
    for members in alike.values():
        flat = [matrices[i].T if matrices[i].shape[0] > matrices[i].shape[1] else matrices[i] for i in members]
        x_NRC = _newton_schulz(torch.stack([matrix.to(dtype) for matrix in flat]), steps)
        for i, x_RC in zip(members, x_NRC, strict=True):
            result[i] = x_RC.T if matrices[i].shape[0] > matrices[i].shape[1] else x_RC
    return result


def _newton_schulz(x_NRC: Tensor, steps: int) -> Tensor:
    a, b, c = QUINTIC
    x_NRC = x_NRC / torch.linalg.matrix_norm(x_NRC, keepdim=True).clamp(min=1e-7)
    for _ in range(steps):
        gram_NRR = x_NRC @ x_NRC.mT
        poly_NRR = torch.baddbmm(gram_NRR, gram_NRR, gram_NRR, beta=b, alpha=c)
        x_NRC = torch.baddbmm(x_NRC, poly_NRR, x_NRC, beta=a)
    return x_NRC


def adjustment(how: Adjust, rows: int, columns: int) -> float:
    """Factor on the learning rate of a (rows, columns) = (out, in) matrix."""
    if how == "original":
        return math.sqrt(max(1.0, rows / columns))
    return 0.2 * math.sqrt(max(rows, columns))


class MuonOptimizer(torch.optim.Optimizer):
    """Muon for groups with `orthogonal: True`, AdamW for the others.

    Args:
        params: parameter groups; `orthogonal` groups hold 2-D parameters and may have `rows`: for each parameter, how
            many rows each of its stacked matrices has (empty: one matrix).
        momentum, nesterov, adjust_lr, ns_steps, ns_dtype: see Muon.
        betas, eps: of AdamW.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        nesterov: bool = True,
        adjust_lr: Adjust = "original",
        ns_steps: int = 5,
        ns_dtype: Literal["bf16", "fp32", "fp64"] = "bf16",
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-8,
    ) -> None:
        defaults: dict[str, Any] = {
            "lr": lr,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "nesterov": nesterov,
            "adjust_lr": adjust_lr,
            "ns_steps": ns_steps,
            "ns_dtype": ns_dtype,
            "betas": betas,
            "eps": eps,
            "orthogonal": True,
            "rows": [],
            "fused": True,  # torch then restores AdamW's step counters to the parameters' device
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if group["orthogonal"]:
                self._muon(group)
            else:
                self._adamw(group)
        return loss

    def _muon(self, group: dict[str, Any]) -> None:
        splits = group["rows"] or [[]] * len(group["params"])
        pairs = [(p, split) for p, split in zip(group["params"], splits, strict=True) if p.grad is not None]
        if not pairs:
            return
        params: list[Tensor] = [p for p, _ in pairs]
        grads: list[Tensor] = [p.grad for p in params if p.grad is not None]
        for p in params:
            if not self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
        momenta: list[Tensor] = [self.state[p]["momentum"] for p in params]
        mu, lr = group["momentum"], group["lr"]
        torch._foreach_lerp_(momenta, grads, 1 - mu)
        ahead = torch._foreach_lerp(grads, momenta, mu) if group["nesterov"] else momenta
        targets = [part for p, split in pairs for part in _parts(p, split)]
        sources = [part for update, (_, split) in zip(ahead, pairs, strict=True) for part in _parts(update, split)]
        updates = orthogonalize(sources, group["ns_steps"], DTYPES[group["ns_dtype"]])
        torch._foreach_mul_(params, 1 - lr * group["weight_decay"])
        for target, update in zip(targets, updates, strict=True):
            target.add_(update, alpha=-lr * adjustment(group["adjust_lr"], *target.shape))

    def _adamw(self, group: dict[str, Any]) -> None:
        params: list[Tensor] = [p for p in group["params"] if p.grad is not None]
        for p in params:
            if not self.state[p]:
                self.state[p]["step"] = torch.zeros((), dtype=torch.float32, device=p.device)
                self.state[p]["exp_avg"] = torch.zeros_like(p)
                self.state[p]["exp_avg_sq"] = torch.zeros_like(p)
        if not params:
            return
        beta1, beta2 = group["betas"]
        adamw(
            params,
            [p.grad for p in params if p.grad is not None],
            [self.state[p]["exp_avg"] for p in params],
            [self.state[p]["exp_avg_sq"] for p in params],
            [],
            [self.state[p]["step"] for p in params],
            fused=True,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


def _parts(matrix: Tensor, rows: Sequence[int]) -> Sequence[Tensor]:
    return matrix.split(list(rows)) if rows else [matrix]


@register("optim", "muon")
class Muon:
    """Muon: hidden matrices move along their orthogonalised momentum; AdamW for embeddings, head and vectors.

    Paper: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon; Liu et al. 2025, arXiv:2502.16982

    A fused qkv weight is orthogonalised as its three matrices.

    lr: peak learning rate of hidden matrices.
    weight_decay: each step shrinks weights by their lr x weight_decay (gains and biases excepted).
    clip: largest global gradient norm; 0 clips nothing.
    momentum: decay of the mean of gradients.
    nesterov: look one step ahead along the momentum.
    adjust_lr: factor for an (out, in) matrix. match_rms_adamw: 0.2 sqrt(max(out, in)), so that lr and weight decay are
        of AdamW's size; original: sqrt(max(1, out / in)), for lr near 0.02.
    ns_steps: Newton-Schulz rounds.
    ns_dtype: number format of their products.
    split_qkv: orthogonalise q, k and v each by itself; false: the fused weight as one matrix.
    adam_lr: peak learning rate of embeddings, head and vectors; null: lr.
    beta1: AdamW's decay of the mean of gradients.
    beta2: AdamW's decay of the mean of their squares.
    eps: AdamW adds it to the root of the second moment.
    """

    def __init__(
        self,
        *,
        lr: PositiveFloat = 0.004,
        weight_decay: NonNegativeFloat = 0.1,
        clip: NonNegativeFloat = 1.0,
        momentum: Probability = 0.95,
        nesterov: bool = True,
        adjust_lr: Literal["match_rms_adamw", "original"] = "match_rms_adamw",
        ns_steps: Rounds = 5,
        ns_dtype: Literal["bf16", "fp32"] = "bf16",
        split_qkv: bool = True,
        adam_lr: PositiveFloat | None = None,
        beta1: Probability = 0.9,
        beta2: Probability = 0.95,
        eps: PositiveFloat = 1e-8,
    ) -> None:
        self.lr = lr
        self.weight_decay = weight_decay
        self.clip = clip
        self.split_qkv = split_qkv
        self.adam_lr = lr if adam_lr is None else adam_lr
        self.settings: dict[str, Any] = {
            "momentum": momentum,
            "nesterov": nesterov,
            "adjust_lr": adjust_lr,
            "ns_steps": ns_steps,
            "ns_dtype": ns_dtype,
            "betas": (beta1, beta2),
            "eps": eps,
        }

    def build(self, groups: Iterable[Group]) -> torch.optim.Optimizer:
        """The optimizer over these parameters."""
        settings = [one for group in groups for one in self._param_groups(group)]
        return MuonOptimizer(settings, lr=self.lr, **self.settings)

    def _param_groups(self, group: Group) -> Iterator[dict[str, Any]]:
        hidden = group.role in ("matrix", "residual")
        matrices = [(name, p) for name, p in group.params if hidden and p.ndim == 2]
        others = [(name, p) for name, p in group.params if not (hidden and p.ndim == 2)]
        if matrices:
            rows = [list(group.rows.get(name, ())) if self.split_qkv else [] for name, _ in matrices]
            found = replace(group, params=matrices)
            yield param_group(found, self.lr, self.weight_decay, orthogonal=True, rows=rows)
        if others:
            yield param_group(replace(group, params=others), self.adam_lr, self.weight_decay, orthogonal=False)
