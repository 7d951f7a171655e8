"""Each optimizer against torch's, or against the paper's update written as a loop; state survives a checkpoint."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gpt_lab import registry
from gpt_lab.errors import ConfigError
from gpt_lab.optim.adam import Adam, AdamW
from gpt_lab.optim.groups import Group
from gpt_lab.optim.lion import Lion
from gpt_lab.optim.sgd import SGD

RECIPES = sorted(registry.index()["optim"])


def problem(dtype: torch.dtype = torch.float64) -> tuple[list[nn.Parameter], Callable[[], Tensor]]:
    """A quadratic in two parameters plus a random matrix's least squares."""
    generator = torch.Generator().manual_seed(3)
    vector = nn.Parameter(torch.tensor([1.5, -0.5], dtype=dtype))
    matrix = nn.Parameter(torch.randn(6, 4, generator=generator, dtype=dtype))
    tall = nn.Parameter(torch.randn(9, 4, generator=generator, dtype=dtype))
    x = torch.randn(5, 4, generator=generator, dtype=dtype)
    target = torch.randn(5, 6, generator=generator, dtype=dtype)

    def loss() -> Tensor:
        bowl = 3 * vector[0] ** 2 + 0.5 * vector[1] ** 2 + vector[0] * vector[1]
        return bowl + (x @ matrix.T - target).square().mean() + (x @ tall.T).sin().sum()

    return [vector, matrix, tall], loss


def as_groups(params: list[nn.Parameter]) -> list[Group]:
    vectors = [(f"v{i}", p) for i, p in enumerate(params) if p.ndim == 1]
    matrices = [(f"blocks.{i}.up_proj.weight", p) for i, p in enumerate(params) if p.ndim == 2]
    return [Group("vector", vectors, decay=False), Group("matrix", matrices, lr_multiplier=0.5)]


def rate(step: int) -> float:
    return 1.0 - 0.07 * step


def run(optimizer: torch.optim.Optimizer, loss: Callable[[], Tensor], steps: int = 10, start: int = 0) -> None:
    """Steps under a learning rate that changes at each, as the trainer's does."""
    for step in range(start, start + steps):
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * rate(step)
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()


BETAS = {"beta1": 0.8, "beta2": 0.9, "eps": 1e-6}
REFERENCES: dict[str, tuple[Any, Callable[..., torch.optim.Optimizer], dict[str, Any]]] = {
    "adamw": (AdamW(lr=0.05, weight_decay=0.2, **BETAS), torch.optim.AdamW, {"betas": (0.8, 0.9), "eps": 1e-6}),
    "adam": (Adam(lr=0.05, weight_decay=0.2, **BETAS), torch.optim.Adam, {"betas": (0.8, 0.9), "eps": 1e-6}),
    "sgd": (SGD(lr=0.05, weight_decay=0.2, momentum=0.7), torch.optim.SGD, {"momentum": 0.7}),
    "nesterov": (
        SGD(lr=0.05, weight_decay=0.2, momentum=0.7, nesterov=True),
        torch.optim.SGD,
        {"momentum": 0.7, "nesterov": True},
    ),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_equals_torch(name: str) -> None:
    recipe, reference, settings = REFERENCES[name]
    ours, loss = problem()
    run(recipe.build(as_groups(ours)), loss)
    theirs, loss = problem()
    plain = [
        {"params": theirs[:1], "lr": 0.05, "base_lr": 0.05, "weight_decay": 0.0},
        {"params": theirs[1:], "lr": 0.025, "base_lr": 0.025, "weight_decay": 0.2},
    ]
    run(reference(plain, lr=0.05, foreach=False, **settings), loss)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_lion_equals_the_papers_loop() -> None:
    ours, loss = problem()
    run(Lion(lr=0.01, weight_decay=0.2, beta1=0.7, beta2=0.9).build(as_groups(ours)), loss)
    theirs, loss = problem()
    memory = [torch.zeros_like(p) for p in theirs]
    for step in range(10):
        for p in theirs:
            p.grad = None
        loss().backward()
        with torch.no_grad():
            for p, m in zip(theirs, memory, strict=True):
                lr, decay = (0.01, 0.0) if p.ndim == 1 else (0.005, 0.2)
                assert p.grad is not None
                direction = torch.sign(0.7 * m + 0.3 * p.grad)
                p.sub_(lr * rate(step) * (direction + decay * p))
                m.copy_(0.9 * m + 0.1 * p.grad)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def through_json(state: dict[str, Any]) -> dict[str, Any]:
    """The optimizer's state as a checkpoint keeps it: tensors apart, the rest as JSON with text keys."""
    tensors = {(i, k): v.clone() for i, s in state["state"].items() for k, v in s.items() if torch.is_tensor(v)}
    plain = {i: {k: v for k, v in s.items() if not torch.is_tensor(v)} for i, s in state["state"].items()}
    read = json.loads(json.dumps({"state": plain, "param_groups": state["param_groups"]}))
    restored: dict[int, dict[str, Any]] = {int(i): dict(s) for i, s in read["state"].items()}
    for (i, k), tensor in tensors.items():
        restored[i][k] = tensor
    return {"state": restored, "param_groups": read["param_groups"]}


@pytest.mark.parametrize("name", RECIPES)
def test_resumes_bit_for_bit(name: str) -> None:
    recipe = registry.build("optim", {"name": name})
    whole, loss = problem(torch.float32)
    run(recipe.build(as_groups(whole)), loss, steps=8)

    first, loss = problem(torch.float32)
    optimizer = recipe.build(as_groups(first))
    run(optimizer, loss, steps=5)
    saved = through_json(optimizer.state_dict())
    values = [p.detach().clone() for p in first]

    second, loss = problem(torch.float32)
    with torch.no_grad():
        for p, value in zip(second, values, strict=True):
            p.copy_(value)
    resumed = recipe.build(as_groups(second))
    resumed.load_state_dict(saved)
    run(resumed, loss, steps=3, start=5)
    for one, other in zip(whole, second, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", RECIPES)
def test_descends(name: str) -> None:
    params, loss = problem(torch.float32)
    before = loss().item()
    run(registry.build("optim", {"name": name, "lr": 0.01}).build(as_groups(params)), loss)
    assert loss().item() < before - 0.01


@pytest.mark.parametrize("name", RECIPES)
def test_a_parameter_without_gradient_stays(name: str) -> None:
    params, loss = problem(torch.float32)
    params.append(nn.Parameter(torch.ones(3, 3)))
    params.append(nn.Parameter(torch.ones(3)))
    run(registry.build("optim", {"name": name, "lr": 0.1}).build(as_groups(params)), loss, steps=2)
    assert torch.equal(params[-1], torch.ones(3)) and torch.equal(params[-2], torch.ones(3, 3))


@pytest.mark.slow
def test_no_optimizer_imports_the_compiler() -> None:
    """In a process of its own, as the trainer uses them: building, stepping, saving, restoring."""
    code = """
import sys, torch
from gpt_lab import registry
from gpt_lab.optim.groups import Group
from gpt_lab.train.speed.eager import light_step, spare_compiler
spare_compiler()
for name in registry.index()["optim"]:
    weight = torch.nn.Parameter(torch.ones(4, 4))
    gain = torch.nn.Parameter(torch.ones(4))
    found = [Group("matrix", [("up_proj.weight", weight)]), Group("vector", [("norm.weight", gain)])]
    optimizer = registry.build("optim", {"name": name}).build(found)
    (weight * gain).sum().backward()
    light_step(optimizer)()
    optimizer.zero_grad()
    optimizer.load_state_dict(optimizer.state_dict())
    assert weight.grad is None and not torch.equal(weight, torch.ones(4, 4)) and weight.requires_grad
    assert "torch._dynamo" not in sys.modules, name
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", RECIPES)
def test_a_closure_is_called_with_gradients_on(name: str) -> None:
    params, loss = problem(torch.float32)
    optimizer = registry.build("optim", {"name": name}).build(as_groups(params))

    def closure() -> float:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value.item()

    assert optimizer.step(closure) == pytest.approx(problem(torch.float32)[1]().item())


CHANGED: dict[str, Any] = {
    "weight_decay": 0.7,
    "beta1": 0.2,
    "beta2": 0.6,
    "momentum": 0.3,
    "eps": 0.1,
    "ns_steps": 3,
    "ns_dtype": "fp32",
    "adjust_lr": "original",
    "adam_lr": 0.5,
    "lr": 0.05,
}


@pytest.mark.parametrize("name", RECIPES)
def test_every_option_changes_the_step(name: str) -> None:
    """All but clip, which the trainer applies."""
    plain = _after(name, {})
    for key, option in registry.get("optim", name).options.items():
        if key == "clip":
            assert registry.build("optim", {"name": name, "clip": 0.25}).clip == 0.25
        else:
            value = (not option.default) if isinstance(option.default, bool) else CHANGED[key]
            assert any(not torch.equal(a, b) for a, b in zip(plain, _after(name, {key: value}), strict=True)), key


def _after(name: str, settings: dict[str, Any]) -> list[Tensor]:
    params, loss = problem(torch.float32)
    found = as_groups(params)
    fused = Group("matrix", found[1].params, 0.5, rows={"blocks.1.up_proj.weight": (2, 2, 2)})
    large = {"lr": 0.2} if name == "lion" else {}  # so that signs turn
    run(registry.build("optim", {"name": name, **large, **settings}).build([found[0], fused]), loss, steps=12)
    return [p.detach() for p in params]


def test_nesterov_without_momentum_is_refused() -> None:
    with pytest.raises(ConfigError, match="set optim.momentum"):
        SGD(momentum=0.0, nesterov=True)
