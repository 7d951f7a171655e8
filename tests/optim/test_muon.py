"""Muon: Newton-Schulz, batching, torch's Muon, fused weights, and who gets AdamW."""

from __future__ import annotations

import math
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from gpt_lab.optim.groups import Group
from gpt_lab.optim.muon import QUINTIC, Muon, MuonOptimizer, adjustment, orthogonalize

SHAPES = [(8, 8), (16, 8), (8, 16), (16, 8), (8, 8), (5, 12)]


def matrices(dtype: torch.dtype = torch.float32, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=dtype) for shape in SHAPES]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_singular_values_come_near_one(dtype: torch.dtype) -> None:
    for before, after in zip(matrices(), orthogonalize(matrices(), dtype=dtype), strict=True):
        assert after.shape == before.shape and after.dtype == dtype
        values = torch.linalg.svdvals(after.float())
        assert values.min() > 0.3 and values.max() < 1.3


def test_directions_are_those_of_the_polar_factor() -> None:
    for before, after in zip(
        matrices(torch.float64), orthogonalize(matrices(torch.float64), dtype=torch.float64), strict=True
    ):
        u, _, vh = torch.linalg.svd(before, full_matrices=False)
        core = u.T @ after @ vh.T
        assert torch.allclose(core, torch.diag(core.diagonal()), atol=1e-10)
        assert core.diagonal().min() > 0.3


def test_equals_a_scalar_polynomial_of_the_singular_values() -> None:
    (matrix,) = matrices(torch.float64)[:1]
    s = torch.linalg.svdvals(matrix)
    s = s / s.square().sum().sqrt()
    for _ in range(5):
        s = QUINTIC[0] * s + QUINTIC[1] * s**3 + QUINTIC[2] * s**5
    found = torch.linalg.svdvals(orthogonalize([matrix], dtype=torch.float64)[0])
    torch.testing.assert_close(found.sort().values, s.abs().sort().values, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-4), (torch.bfloat16, 0.05)]
)
def test_batched_equals_one_at_a_time(dtype: torch.dtype, tolerance: float) -> None:
    together = orthogonalize(matrices(), dtype=dtype)
    for matrix, one in zip(matrices(), together, strict=True):
        torch.testing.assert_close(one, orthogonalize([matrix], dtype=dtype)[0], rtol=0.0, atol=tolerance)


def test_a_matrix_of_zeros_stays_finite() -> None:
    assert torch.equal(orthogonalize([torch.zeros(4, 6)])[0].float(), torch.zeros(4, 6))


@pytest.mark.parametrize("adjust", ["original", "match_rms_adamw"])
@pytest.mark.parametrize("nesterov", [True, False])
def test_equals_torch(adjust: Literal["original", "match_rms_adamw"], nesterov: bool) -> None:
    """Both multiply in bf16, in another order: updates agree within a few per cent, so weights do to that share."""
    ours, theirs = ([nn.Parameter(m.clone()) for m in matrices()] for _ in range(2))
    names = [(f"blocks.{i}.up_proj.weight", p) for i, p in enumerate(ours)]
    recipe = Muon(lr=0.02, weight_decay=0.3, momentum=0.9, nesterov=nesterov, adjust_lr=adjust)
    optimizer = recipe.build([Group("matrix", names)])
    reference = torch.optim.Muon(
        theirs, lr=0.02, weight_decay=0.3, momentum=0.9, nesterov=nesterov, adjust_lr_fn=adjust
    )
    start = matrices()
    for step in range(5):
        for p, q, gradient in zip(ours, theirs, matrices(seed=step + 1), strict=True):
            p.grad, q.grad = gradient.clone(), gradient.clone()
        optimizer.step()
        reference.step()
    for p, q, s in zip(ours, theirs, start, strict=True):
        assert (p - q).norm() < 0.05 * (q - s).norm()
        assert (q - s).norm() > 0.05


def test_decay_is_of_the_unadjusted_rate() -> None:
    weight = nn.Parameter(torch.ones(4, 16))
    optimizer = MuonOptimizer([{"params": [weight]}], lr=0.1, weight_decay=0.5, adjust_lr="match_rms_adamw")
    weight.grad = torch.zeros(4, 16)
    optimizer.step()
    torch.testing.assert_close(weight.detach(), torch.full((4, 16), 0.95))


def test_adjustments() -> None:
    assert adjustment("original", 16, 4) == 2.0
    assert adjustment("original", 4, 16) == 1.0
    assert adjustment("match_rms_adamw", 16, 4) == adjustment("match_rms_adamw", 4, 16) == 0.8


def test_match_rms_gives_an_update_of_adamws_size() -> None:
    (update,) = orthogonalize([torch.randn(64, 256, generator=torch.Generator().manual_seed(0))])
    size = update.float().square().mean().sqrt().item() * adjustment("match_rms_adamw", 64, 256)
    assert 0.14 < size < 0.26


def test_q_k_and_v_are_orthogonalised_each_by_itself() -> None:
    """Rows of a grouped attention: 8 of q, 4 of k, 4 of v."""
    generator = torch.Generator().manual_seed(1)
    gradient = torch.randn(16, 8, generator=generator)
    gradient[:8] *= 100  # q's gradient dwarfs the others
    fused = nn.Parameter(torch.zeros(16, 8))
    apart = [nn.Parameter(torch.zeros(rows, 8)) for rows in (8, 4, 4)]
    split = Group(
        "matrix", [("blocks.0.attention.qkv.weight", fused)], rows={"blocks.0.attention.qkv.weight": (8, 4, 4)}
    )
    settings: dict[str, Any] = {"ns_dtype": "fp32", "momentum": 0.0}
    one = Muon(**settings).build([split])
    many = Muon(**settings).build([Group("matrix", [(f"m{i}.weight", p) for i, p in enumerate(apart)])])
    fused.grad = gradient
    for p, part in zip(apart, gradient.split([8, 4, 4]), strict=True):
        p.grad = part.clone()
    one.step()
    many.step()
    torch.testing.assert_close(fused.detach(), torch.cat([p.detach() for p in apart]), rtol=1e-4, atol=1e-6)
    whole = nn.Parameter(torch.zeros(16, 8))
    whole.grad = gradient
    Muon(split_qkv=False, **settings).build([Group("matrix", [("q", whole)], rows={"q": (8, 4, 4)})]).step()
    assert not torch.allclose(whole[8:], fused[8:], rtol=0.2)


def test_only_hidden_matrices_get_muon() -> None:
    def parameter(*shape: int) -> nn.Parameter:
        return nn.Parameter(torch.ones(shape))

    found = [
        Group("embedding", [("embed.weight", parameter(10, 4))]),
        Group("head", [("head.weight", parameter(10, 4))]),
        Group("vector", [("norm.weight", parameter(4))], decay=False),
        Group("matrix", [("up_proj.weight", parameter(8, 4)), ("conv.weight", parameter(4, 1, 3))], lr_multiplier=0.5),
        Group("residual", [("down_proj.weight", parameter(4, 8))]),
    ]
    optimizer = Muon(lr=0.02, adam_lr=0.003, weight_decay=0.1).build(found)
    seen = {
        tuple(p.shape): (g["orthogonal"], g["base_lr"], g["weight_decay"])
        for g in optimizer.param_groups
        for p in g["params"]
    }
    assert seen == {
        (10, 4): (False, 0.003, 0.1),
        (4,): (False, 0.003, 0.0),
        (8, 4): (True, 0.01, 0.1),
        (4, 1, 3): (False, 0.0015, 0.1),
        (4, 8): (True, 0.02, 0.1),
    }
    assert all(g["base_lr"] == 0.02 for g in Muon(lr=0.02).build(found[:3]).param_groups)


def test_its_adamw_equals_torchs() -> None:
    ours, theirs = (nn.Parameter(torch.linspace(-1, 1, 12, dtype=torch.float64).view(3, 4)) for _ in range(2))
    optimizer = Muon(lr=0.01, weight_decay=0.2, beta1=0.8, beta2=0.9).build(
        [Group("embedding", [("embed.weight", ours)])]
    )
    reference = torch.optim.AdamW([theirs], lr=0.01, weight_decay=0.2, betas=(0.8, 0.9), foreach=False)
    for step in range(10):
        ours.grad = theirs.grad = torch.cos(torch.arange(12.0, dtype=torch.float64) * (step + 1)).view(3, 4)
        optimizer.step()
        reference.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    assert math.isclose(optimizer.state[ours]["step"].item(), 10)
