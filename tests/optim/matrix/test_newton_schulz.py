"""Newton-Schulz: what each iteration makes of singular values, and where its coefficients come from."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from gpt_lab.optim.matrix.newton_schulz import (
    DELTA,
    POLAR_EXPRESS,
    QUINTIC,
    SAFETY,
    Iteration,
    chebyshev,
    cubics,
    orthogonalize,
    polynomials,
)

SHAPES = [(8, 8), (16, 8), (8, 16), (16, 8), (8, 8), (5, 12)]
ITERATIONS: list[Iteration] = ["quintic", "polar_express", "chebyshev"]


def matrices(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=dtype) for shape in SHAPES]


@pytest.mark.parametrize("iteration", ITERATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_singular_values_come_near_one(dtype: torch.dtype, iteration: Iteration) -> None:
    for before, after in zip(matrices(), orthogonalize(matrices(), 5, dtype, iteration), strict=True):
        assert after.shape == before.shape and after.dtype == dtype
        values = torch.linalg.svdvals(after.float())
        assert values.min() > 0.3 and values.max() < 1.3 + 0.02


@pytest.mark.parametrize("iteration", ITERATIONS)
def test_directions_are_those_of_the_polar_factor(iteration: Iteration) -> None:
    """And singular values those of the polynomials, one after the other."""
    exact = orthogonalize(matrices(torch.float64), 4, torch.float64, iteration)
    for before, after in zip(matrices(torch.float64), exact, strict=True):
        u, s, vh = torch.linalg.svd(before, full_matrices=False)
        s = s / s.square().sum().sqrt()
        for a, b, c in polynomials(iteration, 4):
            s = a * s + b * s**3 + c * s**5
        torch.testing.assert_close(u.T @ after @ vh.T, torch.diag(s), rtol=1e-8, atol=1e-9)


def test_batched_equals_one_at_a_time() -> None:
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-4), (torch.bfloat16, 0.05)):
        together = orthogonalize(matrices(), dtype=dtype)
        for matrix, one in zip(matrices(), together, strict=True):
            torch.testing.assert_close(one, orthogonalize([matrix], dtype=dtype)[0], rtol=0.0, atol=tolerance)


def test_a_matrix_of_zeros_stays_finite() -> None:
    assert torch.equal(orthogonalize([torch.zeros(4, 6)])[0].float(), torch.zeros(4, 6))


def best_quintic(low: float, high: float) -> tuple[float, float, float]:
    """The odd quintic closest to 1 on [low, high], by its four points of equal error, found in turns with it."""
    if low / high > 1 - 5e-6:
        return 15 / 8 / high, -10 / 8 / high**3, 3 / 8 / high**5
    inner = np.array([low + (high - low) / 4, low + (high - low) * 3 / 4])
    for _ in range(1000):
        points = np.array([low, *inner, high])
        system = np.stack([points, points**3, points**5, [1, -1, 1, -1]], axis=1)
        a, b, c, _ = np.linalg.solve(system, np.ones(4))
        slopes = np.roots([5 * c, 3 * b, a])  # in x^2
        moved = np.sqrt(np.sort(slopes.real))
        if np.abs(moved - inner).max() < 1e-15:
            break
        inner = moved
    return float(a), float(b), float(c)


def test_polar_express_are_the_best_polynomials() -> None:
    """As in the paper, from [0.001, 1], cushioned: no polynomial looks below 0.024 of its interval's end."""
    low, high, cushion = 1e-3, 1.0, 0.02407327424182761
    for known in POLAR_EXPRESS[:7]:
        a, b, c = best_quintic(max(low, cushion * high), high)
        if cushion * high > low:  # what it makes of the ends of the whole interval is centred around 1
            factor = 2 / sum(a * x + b * x**3 + c * x**5 for x in (low, high))
            a, b, c = a * factor, b * factor, c * factor
        assert known == pytest.approx((a, b, c), rel=1e-9)
        low = a * low + b * low**3 + c * low**5
        high = 2 - low
    assert POLAR_EXPRESS[7] == (15 / 8, -10 / 8, 3 / 8), "the limit: Newton-Schulz itself"
    first, last = polynomials("polar_express", 5)[0], polynomials("polar_express", 5)[-1]
    assert first == tuple(known / SAFETY**power for known, power in zip(POLAR_EXPRESS[0], (1, 3, 5), strict=True))
    assert last == POLAR_EXPRESS[4] and polynomials("polar_express", 10)[-1] == POLAR_EXPRESS[7]


def test_chebyshevs_cubics_are_the_papers() -> None:
    """Grishina et al., appendix G, 7 rounds: those from [0.0009, 1], whose error is a little below delta."""
    published = [
        (5.181702879894027, -5.177039351076183),
        (2.585422564566848, -0.647862782007566),
        (2.565592012027513, -0.645264570196127),
        (2.516223347431526, -0.638782620243433),
        (2.401068707564606, -0.623585125272674),
        (2.170844761790119, -0.592849780534662),
        (1.839437716819516, -0.547668362229117),
    ]
    found, error = cubics(9e-4, 7)
    for (a, b, c), known in zip(found, published, strict=True):
        assert (a, b) == pytest.approx(known, rel=1e-12) and c == 0
    assert error == pytest.approx(DELTA, rel=0.01) and chebyshev(7)[0] == pytest.approx(found[0], rel=1e-4)


@pytest.mark.parametrize("rounds", [1, 3, 5])
def test_chebyshev_ends_within_delta_and_not_closer(rounds: int) -> None:
    """From as low as it can: a value half as large as the lowest ends below."""
    slope = math.prod(a for a, _, _ in chebyshev(rounds))
    x = np.geomspace(1e-6, 1, 20_001)
    y = x
    for a, b, _ in chebyshev(rounds):
        y = a * y + b * y**3
    inside = (y > 1 - DELTA - 1e-6) & (y < 1 + DELTA + 1e-6)
    lowest = x[inside].min()
    assert inside[x > lowest].all() and y.max() == pytest.approx(1 + DELTA, abs=1e-4)
    assert lowest * slope == pytest.approx(1 - DELTA, rel=0.35), "the slope at 0 is what lifts it"
    assert slope > math.prod(1.5 for _ in range(rounds)), "more than Newton-Schulz's"


def test_the_quintic_is_steeper_than_it_is_exact() -> None:
    assert QUINTIC[0] > 15 / 8 and sum(QUINTIC) < 0.8
