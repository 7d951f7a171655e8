"""Ten steps in fp64 against pytorch-optimizer, where it has the papers' updates; nobody here wrote it.

It is no dependency of the lab: importing it takes as long as importing torch (sympy, and transformers where it is
there), Shampoo, SOAP and LAMB are other methods than their papers' or cannot be saved, and a state that is not fp32
would come back as another.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch

from gpt_lab import registry
from tests.optim.problems import as_groups, curvature, problem, rate, run

LR, DECAY = 0.05, 0.2
BETAS = {"beta1": 0.8, "beta2": 0.9, "eps": 1e-3}
Make = Callable[[Any, list[dict[str, Any]]], torch.optim.Optimizer]
CASES: dict[str, tuple[dict[str, Any], Make]] = {
    "adan": (
        {"beta1": 0.8, "beta2": 0.7, "beta3": 0.9, "eps": 1e-3},
        lambda package, groups: package.Adan(groups, betas=(0.8, 0.7, 0.9), eps=1e-3),
    ),
    "ademamix": (
        {"beta3": 0.99, "alpha": 3.0, **BETAS},
        lambda package, groups: package.AdEMAMix(
            groups, betas=(0.8, 0.9, 0.99), alpha=3.0, t_alpha_beta3=11, weight_decouple=True, eps=1e-3
        ),
    ),
    "schedule_free": (
        BETAS,
        lambda package, groups: package.ScheduleFreeAdamW(groups, betas=(0.8, 0.9), eps=1e-3),
    ),
    "adahessian": (
        {"block": 1, **BETAS},
        lambda package, groups: package.AdaHessian(groups, betas=(0.8, 0.9), eps=1e-3),
    ),
    "shampoo": (
        {"root_every": 1, "beta1": 0.0, "moment_beta": 1.0, "graft": "none", "eps": 1e-3},
        lambda package, groups: package.Shampoo(groups, weight_decouple=True, matrix_eps=1e-3),
    ),
}


@pytest.fixture(scope="module")
def package() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pytorch_optimizer
    return pytorch_optimizer


@pytest.mark.parametrize("name", CASES)
def test_equal(name: str, package: Any) -> None:
    options, make = CASES[name]
    ours, loss = problem()
    recipe = registry.build("optim", {"name": name, "lr": LR, "weight_decay": DECAY, **options})
    run(recipe.build(as_groups(ours)), loss)
    theirs, loss = problem()
    parts = [(theirs[:1], LR, 0.0), (theirs[1:4], LR / 2, DECAY), (theirs[4:], LR, DECAY)]
    optimizer: Any = make(package, [{"params": p, "lr": lr, "weight_decay": decay} for p, lr, decay in parts])
    for step in range(10):
        for group, (_, lr, _) in zip(optimizer.param_groups, parts, strict=True):
            group["lr"] = lr * (max(map(rate, range(step + 1))) if name == "schedule_free" else rate(step))
        for p, gradient in zip(theirs, torch.autograd.grad(loss(), theirs), strict=True):
            p.grad = gradient
        estimates = {"hessian": [curvature(p, step) for p in theirs]} if name == "adahessian" else {}
        optimizer.step(**estimates)
    # its Shampoo acts on the vector too, and on both sides of an embedding; its stack is one tensor of three sides
    held = slice(1, 3) if name == "shampoo" else slice(None)
    for one, other in zip(ours[held], theirs[held], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)  # it adds 1e-15 to a mean square
