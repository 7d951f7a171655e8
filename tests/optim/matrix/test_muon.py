"""Muon and NorMuon: torch's Muon, fused weights, experts, and who gets AdamW."""

from __future__ import annotations

import math
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from gpt_lab.optim.groups import Group
from gpt_lab.optim.matrix.muon import Muon, NorMuon
from gpt_lab.optim.matrix.newton_schulz import adjustment, orthogonalize
from gpt_lab.train.speed.eager import light_step, spare_compiler

spare_compiler()

ADJUSTS: list[Literal["original", "match_rms_adamw"]] = ["original", "match_rms_adamw"]
SHAPES = [(8, 8), (16, 8), (8, 16), (16, 8), (8, 8), (5, 12)]


def matrices(dtype: torch.dtype = torch.float32, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=dtype) for shape in SHAPES]


@pytest.mark.parametrize("adjust", ADJUSTS)
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
        light_step(optimizer)()
        light_step(reference)()
    for p, q, s in zip(ours, theirs, start, strict=True):
        assert (p - q).norm() < 0.05 * (q - s).norm()
        assert (q - s).norm() > 0.05


def test_decay_is_of_the_unadjusted_rate() -> None:
    weight = nn.Parameter(torch.ones(4, 16))
    optimizer = Muon(lr=0.1, weight_decay=0.5).build([Group("matrix", [("up_proj.weight", weight)])])
    weight.grad = torch.zeros(4, 16)
    light_step(optimizer)()
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
    light_step(one)()
    light_step(many)()
    torch.testing.assert_close(fused.detach(), torch.cat([p.detach() for p in apart]), rtol=1e-4, atol=1e-6)
    whole = nn.Parameter(torch.zeros(16, 8))
    whole.grad = gradient
    unsplit = Group("matrix", [("q", whole)], rows={"q": (8, 4, 4)})
    light_step(Muon(split_qkv=False, **settings).build([unsplit]))()
    assert not torch.allclose(whole[8:], fused[8:], rtol=0.2)


def test_only_hidden_matrices_get_muon() -> None:
    def parameter(*shape: int) -> nn.Parameter:
        return nn.Parameter(torch.ones(shape))

    found = [
        Group("embedding", [("embed.weight", parameter(10, 4))]),
        Group("head", [("head.weight", parameter(10, 4))]),
        Group("vector", [("norm.weight", parameter(4))], decay=False),
        Group(
            "matrix", [("up_proj.weight", parameter(8, 4)), ("routed.weight", parameter(4, 1, 3))], lr_multiplier=0.25
        ),
        Group("residual", [("down_proj.weight", parameter(4, 8))]),
    ]
    optimizer = Muon(lr=0.02, adam_lr=0.003, weight_decay=0.1).build(found)
    seen = {
        tuple(p.shape): (g["own"], g["base_lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]
    }
    assert seen == {
        (10, 4): (False, 0.003, 0.1),
        (4,): (False, 0.003, 0.0),
        (8, 4): (True, 0.01, 0.1),
        (4, 1, 3): (True, 0.01, 0.1),
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
        light_step(optimizer)()
        light_step(reference)()
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    assert math.isclose(optimizer.state[ours]["step"].item(), 10)


def test_multipliers_of_the_init_follow_its_updates() -> None:
    """Adam's updates of n x n grow with n, these with its root, or not at all."""
    found = [Group("matrix", [("up_proj.weight", nn.Parameter(torch.ones(8, 4)))], lr_multiplier=0.25)]
    rates = {how: Muon(lr=0.02, adjust_lr=how).build(found).param_groups[0]["base_lr"] for how in ADJUSTS}
    assert rates == {"match_rms_adamw": 0.01, "original": 0.02}


@pytest.mark.parametrize("recipe", [Muon, NorMuon])
def test_each_expert_is_a_matrix(recipe: Any) -> None:
    """A stack of two moves as the two would alone."""
    stack = nn.Parameter(torch.stack([torch.eye(4, 6), torch.ones(4, 6)]))
    apart = [nn.Parameter(one.detach().clone()) for one in stack]
    together = recipe(ns_dtype="fp32").build([Group("matrix", [("mlp.routed.weight", stack)])])
    alone = recipe(ns_dtype="fp32").build([Group("matrix", [(f"m{i}.weight", p) for i, p in enumerate(apart)])])
    for step in range(3):
        gradients = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(step))
        stack.grad = gradients
        for p, gradient in zip(apart, gradients, strict=True):
            p.grad = gradient.clone()
        light_step(together)()
        light_step(alone)()
    torch.testing.assert_close(stack.detach(), torch.stack([p.detach() for p in apart]), rtol=1e-4, atol=1e-6)


def test_normuons_neurons_take_steps_of_one_size() -> None:
    """Of a tall matrix, whose rows orthogonalisation leaves unequal; the whole update is of Muon's size."""
    gradient = torch.randn(12, 4, generator=torch.Generator().manual_seed(0)).square()
    sizes = {}
    for recipe in (Muon, NorMuon):
        weight = nn.Parameter(torch.zeros(12, 4))
        optimizer = recipe(lr=1.0, weight_decay=0.0, ns_dtype="fp32").build([Group("matrix", [("w", weight)])])
        for _ in range(3):
            weight.data.zero_()
            weight.grad = gradient.clone()
            light_step(optimizer)()
        sizes[recipe] = weight.detach().square().mean(1).sqrt()
    assert sizes[Muon].max() > 2 * sizes[Muon].min()
    torch.testing.assert_close(sizes[NorMuon], torch.full((12,), 0.2))
