"""Muon and NorMuon: orthogonalised momentum, all matrices of one shape at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from gpt_lab.optim.adam import WithAdamW
from gpt_lab.optim.base import Recipe, grads_of, shrink_
from gpt_lab.optim.groups import Group, param_group
from gpt_lab.optim.matrix.newton_schulz import adjustment, orthogonalize
from gpt_lab.optim.matrix.qk_clip import limit_scores, score_flops
from gpt_lab.options import NonNegativeFloat, PositiveFloat, Probability, Rounds
from gpt_lab.registry import register

Work = Callable[[Sequence[Tensor]], Sequence[Tensor]]
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32, "fp64": torch.float64}


class Matrices:
    """The matrices that parameters hold, and who makes them orthogonal: this process, all of them.

    `rows` of a parameter says how many rows each of the matrices has that it holds below each other; empty: it is one
    matrix, or a stack of them.
    """

    def shapes(self, p: Tensor, rows: Sequence[int]) -> Sequence[tuple[int, int]]:
        """Of each of a parameter's matrices."""
        return [(part.shape[0], part.shape[1]) for part in self.parts(p, p, rows)]

    def parts(self, p: Tensor, like: Tensor, rows: Sequence[int]) -> Sequence[Tensor]:
        """The matrices in a tensor of a parameter's shape, or what is here of each."""
        if like.ndim == 3:
            return like.unbind(0)
        return like.split(list(rows)) if rows else [like]

    def orthogonal(
        self, params: Sequence[tuple[Tensor, Sequence[int]]], parts: Sequence[Tensor], work: Work
    ) -> Sequence[Tensor]:
        """What `work` makes of the matrices of some parameters, or what is here of it."""
        return work(parts)


class MuonRule(WithAdamW):
    """p <- (1 - lr wd) p - lr f orthogonal(m), f as `adjustment`, in the rule's groups, which may have `rows`.

    Attributes:
        matrices: how parameters hold them; processes that share a run put another one here.
    """

    matrices = Matrices()

    def begin_own(self, p: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        return {"momentum": torch.zeros_like(p)}

    def update_own(self, group: dict[str, Any], params: list[Tensor]) -> None:
        rows = dict(zip(group["params"], group["rows"] or [[]] * len(group["params"]), strict=True))
        grads, momenta = grads_of(params), self.kept(params, "momentum")
        mu, lr = group["momentum"], group["lr"]
        torch._foreach_lerp_(momenta, grads, 1 - mu)
        ahead = torch._foreach_lerp(grads, momenta, mu) if group["nesterov"] else momenta
        dtype, cut = DTYPES[group["ns_dtype"]], self.matrices.parts
        targets = [part for p in params for part in cut(p, p, rows[p])]
        sources = [part.to(dtype) for now, p in zip(ahead, params, strict=True) for part in cut(p, now, rows[p])]
        updates = self.matrices.orthogonal(
            [(p, rows[p]) for p in params],
            sources,
            lambda matrices: orthogonalize(matrices, group["ns_steps"], dtype, group["ns"]),
        )
        shrink_(params, lr * group["weight_decay"])
        factors = [adjustment(group["adjust_lr"], *shape) for p in params for shape in self.matrices.shapes(p, rows[p])]
        memories = [part for p in params for part in self.memory(p, rows[p])]
        for number, (target, update) in enumerate(zip(targets, updates, strict=True)):
            self.move(group, target, update, factors[number], memories[number])

    def memory(self, p: Tensor, rows: Sequence[int]) -> Sequence[Tensor | None]:
        """What is kept of each matrix in a parameter beside its momentum."""
        return [None] * len(self.matrices.parts(p, p, rows))

    def move(self, group: dict[str, Any], target: Tensor, update: Tensor, factor: float, memory: Tensor | None) -> None:
        """Moves a matrix by its orthogonalised momentum; `factor` is its `adjustment`."""
        target.add_(update, alpha=-group["lr"] * factor)


class NorMuonRule(MuonRule):
    """Muon whose update O is divided row by row by the root of the mean square that the row had, then scaled back.

    By match_rms_adamw to a root mean square of 0.2, as in the paper's algorithm; by original to the norm of O, as in
    its code.
    """

    def begin_own(self, p: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        rows = torch.zeros((*p.shape[:-1], 1), dtype=p.dtype, device=p.device)
        return super().begin_own(p, group) | {"row_square": rows}

    def memory(self, p: Tensor, rows: Sequence[int]) -> Sequence[Tensor | None]:
        return self.matrices.parts(p, self.state[p]["row_square"], rows)

    def move(self, group: dict[str, Any], target: Tensor, update: Tensor, factor: float, memory: Tensor | None) -> None:
        assert memory is not None
        update = update.to(target.dtype)
        memory.lerp_(update.square().mean(dim=-1, keepdim=True), 1 - group["row_beta"])
        normed = update / memory.sqrt().add_(group["row_eps"])
        if group["adjust_lr"] == "original":
            wanted = torch.linalg.matrix_norm(update) * factor
        else:
            wanted = torch.full_like(update[0, 0], 0.2 * math.sqrt(update.numel()))
        normed.mul_(wanted / torch.linalg.matrix_norm(normed).clamp(min=1e-7))
        target.add_(normed, alpha=-group["lr"])


@register("optim", "muon")
class Muon(Recipe):
    """Muon: hidden matrices move along their orthogonalised momentum; AdamW for embeddings, head and vectors.

    Paper: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon; Liu et al. 2025, arXiv:2502.16982; Amsel et
    al. 2025, arXiv:2505.16932 (polar_express); Grishina et al. 2025, arXiv:2506.10935 (chebyshev); Kimi Team 2025,
    arXiv:2507.20534 (qk_clip)

    A fused qkv weight is orthogonalised as its three matrices, each of stacked experts by itself. The projections of
    recurrences are matrices like others; their decays, steps and convolutions are vectors.

    lr: peak learning rate of hidden matrices.
    weight_decay: each step shrinks weights by their lr x weight_decay (gains and biases excepted).
    momentum: decay of the mean of gradients.
    nesterov: look one step ahead along the momentum.
    adjust_lr: factor for an (out, in) matrix. match_rms_adamw: 0.2 sqrt(max(out, in)), so that lr and weight decay are
        of AdamW's size; original: sqrt(max(1, out / in)), for lr near 0.02.
    ns: the Newton-Schulz iteration. quintic: one polynomial, which ends in about 0.7 to 1.2; polar_express: the best
        polynomial of each round, which goes to 1; chebyshev: the best cubics, 2 products a round in place of 3, which
        end in 0.7 to 1.3.
    ns_steps: its rounds.
    ns_dtype: number format of its products.
    split_qkv: orthogonalise q, k and v each by itself; false: the fused weight as one matrix.
    qk_clip: largest attention score; after a step with a larger one, the weights of the head's queries and keys shrink
        so that it would have been this. null: no limit.
    adam_lr: peak learning rate of embeddings, head and vectors; null: lr.
    beta1: AdamW's decay of the mean of gradients.
    beta2: AdamW's decay of the mean of their squares.
    eps: AdamW adds it to the root of the second moment.
    """

    rule: ClassVar[type[MuonRule]] = MuonRule

    def __init__(
        self,
        *,
        lr: PositiveFloat = 0.004,
        weight_decay: NonNegativeFloat = 0.1,
        clip: NonNegativeFloat = 1.0,
        momentum: Probability = 0.95,
        nesterov: bool = True,
        adjust_lr: Literal["match_rms_adamw", "original"] = "match_rms_adamw",
        ns: Literal["quintic", "polar_express", "chebyshev"] = "quintic",
        ns_steps: Rounds = 5,
        ns_dtype: Literal["bf16", "fp32"] = "bf16",
        split_qkv: bool = True,
        qk_clip: PositiveFloat | None = None,
        adam_lr: PositiveFloat | None = None,
        beta1: Probability = 0.9,
        beta2: Probability = 0.95,
        eps: PositiveFloat = 1e-8,
    ) -> None:
        own: dict[str, Any] = {"momentum": momentum, "nesterov": nesterov, "adjust_lr": adjust_lr, "rows": []}
        iteration = {"ns": ns, "ns_steps": ns_steps, "ns_dtype": ns_dtype}
        super().__init__(lr, weight_decay, clip, betas=(beta1, beta2), eps=eps, **own, **iteration)
        self.split_qkv = split_qkv
        self.qk_clip = qk_clip
        self.adam_lr = lr if adam_lr is None else adam_lr

    def build(self, groups: Iterable[Group]) -> torch.optim.Optimizer:
        """The optimizer over these parameters."""
        found = [one for group in groups for one in self._param_groups(group)]
        return self.rule(found, {"lr": self.lr, **self.settings})

    def prepare(self, model: Any) -> None:
        """Makes attention keep its scores below `qk_clip`.

        Raises:
            ConfigError: the model has no softmax attention, or one whose scores do not follow its weights.
        """
        if self.qk_clip is not None:
            limit_scores(model, self.qk_clip)

    def flops_per_token(self, model: Any, forward: float, context: int) -> float:
        """The scores of all queries and keys, once more, where they are limited."""
        return 0.0 if self.qk_clip is None else score_flops(model, context)

    def _param_groups(self, group: Group) -> Iterator[dict[str, Any]]:
        hidden = group.role in ("matrix", "residual")
        matrices = [(name, p) for name, p in group.params if hidden and p.ndim > 1]
        others = [(name, p) for name, p in group.params if not (hidden and p.ndim > 1)]
        if matrices:
            rows = [list(group.rows.get(name, ())) if self.split_qkv else [] for name, _ in matrices]
            # a multiplier is Adam's, whose updates of n x n grow with n: these with its root, or not at all
            power = 0.5 if self.settings["adjust_lr"] == "match_rms_adamw" else 0.0
            found = replace(group, params=matrices, lr_multiplier=group.lr_multiplier**power)
            yield param_group(found, self.lr, self.weight_decay, own=True, rows=rows)
        if others:
            yield param_group(replace(group, params=others), self.adam_lr, self.weight_decay, own=False)


@register("optim", "normuon")
class NorMuon(Muon):
    """NorMuon: Muon whose rows, the neurons, take steps of equal size over time.

    Paper: Li et al. 2025, arXiv:2510.05491

    Hidden matrices, a fused qkv as three, each of stacked experts and the projections of recurrences; AdamW for
    embeddings, head and vectors, as optim=muon.

    row_beta: decay of the mean square of each row's updates.
    row_eps: added to its root.
    """

    rule = NorMuonRule

    def __init__(self, *, row_beta: Probability = 0.95, row_eps: PositiveFloat = 1e-10, **options: Any) -> None:
        super().__init__(**options)
        self.settings |= {"row_beta": row_beta, "row_eps": row_eps}
