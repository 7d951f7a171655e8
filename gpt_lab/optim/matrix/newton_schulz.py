"""Newton-Schulz iterations: every singular value of a matrix near 1, by matrix products alone.

Shape letters: N matrices of a shape, R their smaller dimension, C the larger.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Iteration = Literal["quintic", "polar_express", "chebyshev"]
Polynomial = tuple[float, float, float]
"""(a, b, c) of a x + b x^3 + c x^5."""

QUINTIC: Polynomial = (3.4445, -4.7750, 2.0315)
"""Jordan et al.: steepest at 0, so that five rounds lift small singular values; they end in about 0.7 to 1.2."""
POLAR_EXPRESS: tuple[Polynomial, ...] = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
    (1.875, -1.25, 0.375),
)
"""Amsel et al. 2025, arXiv:2505.16932: each is the closest to 1 on what those before make of [0.001, 1]."""
SAFETY = 1.01
"""Room for rounding: all but the last polynomial are taken of x / 1.01, as the paper has it for bf16."""
DELTA = 0.3
"""Singular values end in 1 +- 0.3 from as small as possible (Grishina et al. 2025, arXiv:2506.10935, section 3.3)."""


def polynomials(iteration: Iteration, rounds: int) -> tuple[Polynomial, ...]:
    """One polynomial for each round."""
    if iteration == "quintic":
        return (QUINTIC,) * rounds
    if iteration == "chebyshev":
        return chebyshev(rounds)
    known = [POLAR_EXPRESS[min(i, len(POLAR_EXPRESS) - 1)] for i in range(rounds)]
    return (*((a / SAFETY, b / SAFETY**3, c / SAFETY**5) for a, b, c in known[:-1]), known[-1])


@functools.cache
def chebyshev(rounds: int) -> tuple[Polynomial, ...]:
    """The cubics that bring [low, 1] to 1 +- DELTA in `rounds`, for the lowest such `low`, which halving finds."""
    low, high = 0.0, 1.0
    while high - low > 1e-15:
        middle = (low + high) / 2
        low, high = (low, middle) if cubics(middle, rounds)[1] < DELTA else (middle, high)
    return cubics(high, rounds)[0]


def cubics(low: float, rounds: int) -> tuple[tuple[Polynomial, ...], float]:
    """The best cubic for [low, 1], that for what it makes of it, and so on; the last one's error."""
    high, error, found = 1.0, 0.0, []
    for _ in range(rounds):
        square = low * low + low * high + high * high
        peak, ends = 2 * (square / 3) ** 1.5, low * high * (low + high)
        found.append((2 * square / (peak + ends), -2 / (peak + ends), 0.0))
        error = (peak - ends) / (peak + ends)
        low, high = 1 - error, 1 + error
    return tuple(found), error


def orthogonalize(
    matrices: Sequence[Tensor],
    rounds: int = 5,
    dtype: torch.dtype = torch.bfloat16,
    iteration: Iteration = "quintic",
) -> list[Tensor]:
    """Each matrix with its singular values brought near 1.

    Args:
        matrices: 2-D tensors of any shapes; equal shapes, up to transposition, share their matrix products.
        dtype: of the products and of the result.
    """
    alike: dict[tuple[int, int], list[int]] = {}
    for i, matrix in enumerate(matrices):
        alike.setdefault((min(matrix.shape), max(matrix.shape)), []).append(i)
    result: list[Tensor] = list(matrices)
    chosen = polynomials(iteration, rounds)
    for members in alike.values():
        flat = [matrices[i].T if matrices[i].shape[0] > matrices[i].shape[1] else matrices[i] for i in members]
        x_NRC = _iterate(torch.stack([matrix.to(dtype) for matrix in flat]), chosen)
        for i, x_RC in zip(members, x_NRC, strict=True):
            result[i] = x_RC.T if matrices[i].shape[0] > matrices[i].shape[1] else x_RC
    return result


def _iterate(x_NRC: Tensor, chosen: Sequence[Polynomial]) -> Tensor:
    x_NRC = x_NRC / torch.linalg.matrix_norm(x_NRC, keepdim=True).clamp(min=1e-7)
    for a, b, c in chosen:
        gram_NRR = x_NRC @ x_NRC.mT
        if c == 0:
            x_NRC = torch.baddbmm(x_NRC, gram_NRR, x_NRC, beta=a, alpha=b)
        else:
            poly_NRR = torch.baddbmm(gram_NRR, gram_NRR, gram_NRR, beta=b, alpha=c)
            x_NRC = torch.baddbmm(x_NRC, poly_NRR, x_NRC, beta=a)
    return x_NRC


Adjust = Literal["original", "match_rms_adamw"]


def adjustment(how: Adjust, rows: int, columns: int) -> float:
    """Factor on the learning rate of a (rows, columns) = (out, in) matrix."""
    if how == "original":
        return math.sqrt(max(1.0, rows / columns))
    return 0.2 * math.sqrt(max(rows, columns))
