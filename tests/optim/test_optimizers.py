"""What holds for every optimizer: torch's where it has one, resuming, memory, options, learning."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gpt_lab import registry
from gpt_lab.cost import memory
from gpt_lab.errors import ConfigError
from gpt_lab.model.gpt import GPT, initialize
from gpt_lab.optim.adam import Adam, AdamW
from gpt_lab.optim.adaptive.adafactor import Adafactor
from gpt_lab.optim.base import state_bytes
from gpt_lab.optim.fit import fitted
from gpt_lab.optim.groups import Group
from gpt_lab.optim.sgd import SGD
from gpt_lab.train import checkpoint, precision
from gpt_lab.train.feed import Micro, StepBatch
from gpt_lab.train.speed.eager import light_step
from gpt_lab.train.step import Stepper
from tests.helpers import tiny_config
from tests.optim.problems import NAMES, as_groups, problem, run

RECIPES = sorted(registry.index()["optim"])
INT8 = {"name": "adamw", "state": "int8"}
VARIANTS: dict[str, dict[str, Any]] = {
    **{name: {"name": name} for name in RECIPES},
    "adamw int8": INT8,
    "adafactor with a mean": {"name": "adafactor", "beta1": 0.9, "relative": True},
    "shampoo of its first paper": {
        "name": "shampoo",
        "beta1": 0.0,
        "moment_beta": 1.0,
        "root_every": 1,
        "graft": "none",
    },
    "soap that turns often": {"name": "soap", "basis_every": 2},
    "sophia every third": {"name": "sophia", "hessian_every": 3},
}
BETAS = {"beta1": 0.8, "beta2": 0.9, "eps": 1e-6}
Reference = Callable[..., torch.optim.Optimizer]
REFERENCES: dict[str, tuple[Any, Reference, dict[str, Any]]] = {
    "adamw": (AdamW(lr=0.05, weight_decay=0.2, **BETAS), torch.optim.AdamW, {"betas": (0.8, 0.9), "eps": 1e-6}),
    "adam": (Adam(lr=0.05, weight_decay=0.2, **BETAS), torch.optim.Adam, {"betas": (0.8, 0.9), "eps": 1e-6}),
    "sgd": (SGD(lr=0.05, weight_decay=0.2, momentum=0.7), torch.optim.SGD, {"momentum": 0.7}),
    "nesterov": (
        SGD(lr=0.05, weight_decay=0.2, momentum=0.7, nesterov=True),
        torch.optim.SGD,
        {"momentum": 0.7, "nesterov": True},
    ),
    "adafactor": (Adafactor(lr=0.05, weight_decay=0.2, relative=True), torch.optim.Adafactor, {}),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_equals_torch(name: str) -> None:
    """One tensor after the other, where the lab's are fused or take lists."""
    recipe, reference, settings = REFERENCES[name]
    ours, loss = problem()
    run(recipe.build(as_groups(ours)), loss)
    theirs, loss = problem()
    plain = [
        {"params": theirs[:1], "lr": 0.05, "base_lr": 0.05, "weight_decay": 0.0},
        {"params": theirs[1:4], "lr": 0.025, "base_lr": 0.025, "weight_decay": 0.2},
        {"params": theirs[4:], "lr": 0.05, "base_lr": 0.05, "weight_decay": 0.2},
    ]
    run(reference(plain, lr=0.05, foreach=False, **settings), loss)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def as_model(params: list[nn.Parameter]) -> nn.Module:
    model = nn.Module()
    for name, p in zip(NAMES, params, strict=True):
        model.register_parameter(name.replace(".", "_"), p)
    return model


@pytest.mark.parametrize("name", VARIANTS)
def test_resumes_bit_for_bit_from_a_checkpoint(name: str, tmp_path: Path) -> None:
    recipe = registry.build("optim", VARIANTS[name])
    whole, loss = problem(torch.float32)
    run(recipe.build(as_groups(whole)), loss, steps=8)
    first, loss = problem(torch.float32)
    optimizer = recipe.build(as_groups(first))
    run(optimizer, loss, steps=5)
    with getattr(optimizer, "averaged", torch.no_grad)():
        checkpoint.save(tmp_path / "step-5", as_model(first), optimizer, None, {"step": 5})
    second, loss = problem(torch.float32)
    resumed = recipe.build(as_groups(second))
    checkpoint.load(tmp_path / "step-5", as_model(second), resumed, None)
    run(resumed, loss, steps=3, start=5)
    for one, other in zip(whole, second, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", VARIANTS)
def test_state_is_as_large_as_it_says(name: str) -> None:
    """Of the dry run to the byte, of the settings alone never more; with a tensor that is quantized."""
    params, loss = problem(torch.float32)
    params[4] = nn.Parameter(torch.randn(1030, 4))

    def with_the_large_one() -> Tensor:
        return loss() + params[4].square().mean()

    optimizer = registry.build("optim", VARIANTS[name]).build(as_groups(params))
    run(optimizer, with_the_large_one, steps=1)
    kept = sum(t.nbytes for p in params for t in optimizer.state[p].values() if isinstance(t, Tensor))
    assert kept == state_bytes(optimizer)
    if "int8" in name:
        assert kept < 2.3 * sum(p.numel() for p in params), "a byte for each of two moments, and scales"
    least = memory.STATE.get(name.split()[0], 0)
    numbers = [sum(t.numel() for t in optimizer.state[p].values() if isinstance(t, Tensor)) for p in params]
    assert all(least * p.numel() <= most for p, most in zip(params, numbers, strict=True)) or "int8" in name
    if name.split()[0] not in ("sgd", "adafactor", "shampoo"):  # which with other settings keep less
        assert any((least + 1) * p.numel() > most for p, most in zip(params, numbers, strict=True))


@pytest.mark.parametrize("name", RECIPES)
def test_it_says_whom_it_acts_on(name: str) -> None:
    doc = registry.get("optim", name).doc
    assert all(word in doc for word in ("mbeddings", "experts", "recurrences")), "what becomes of each"


@pytest.mark.parametrize("name", VARIANTS)
def test_a_head_of_its_own_moves(name: str) -> None:
    """Beside embedding, biases and scalars, as in a model whose head is not tied."""
    params, loss = problem(torch.float32)
    head, scalar = nn.Parameter(torch.ones(5, 4)), nn.Parameter(torch.tensor(0.5))
    found = [
        *as_groups(params),
        Group("head", [("head.weight", head)]),
        Group("vector", [("gain", scalar)], decay=False),
    ]
    x = torch.linspace(0.1, 1, 4)
    run(registry.build("optim", VARIANTS[name]).build(found), lambda: loss() + scalar * (head @ x).cos().sum(), steps=3)
    assert not torch.equal(head, torch.ones(5, 4)) and scalar.item() != 0.5
    assert head.isfinite().all() and scalar.isfinite()


def test_the_state_of_a_strangers_optimizer_is_not_known() -> None:
    assert state_bytes(torch.optim.Adadelta([nn.Parameter(torch.ones(2))])) is None


@pytest.mark.parametrize("name", VARIANTS)
def test_a_parameter_without_gradient_stays(name: str) -> None:
    params, loss = problem(torch.float32)
    still = [nn.Parameter(torch.ones(3, 3)), nn.Parameter(torch.ones(3))]
    found = as_groups(params)
    found[0].params.append(("bias", still[1]))
    found[1].params.append(("blocks.1.up_proj.weight", still[0]))
    run(registry.build("optim", {"lr": 0.1, **VARIANTS[name]}).build(found), loss, steps=2)
    assert torch.equal(still[0], torch.ones(3, 3)) and torch.equal(still[1], torch.ones(3))


@pytest.mark.parametrize("name", RECIPES)
def test_a_gradient_that_comes_late_is_a_first_one(name: str) -> None:
    """A parameter that moves for the first time at the third step has its first step then."""
    late, early = nn.Parameter(torch.ones(4, 4)), nn.Parameter(torch.full((3, 4), 2.0))
    alone = nn.Parameter(torch.ones(4, 4))
    if name in ("prodigy", "schedule_free"):  # what all parameters have in common has gone on
        return
    recipe = registry.build("optim", {"name": name, "lr": 0.1})
    both = recipe.build([Group("matrix", [("blocks.0.up_proj.weight", early), ("blocks.1.up_proj.weight", late)])])
    one = recipe.build([Group("matrix", [("blocks.1.up_proj.weight", alone)])])
    for step in range(3):
        early.grad = torch.ones(3, 4)
        late.grad = torch.linspace(0.1, 1, 16).view(4, 4) if step == 2 else None
        light_step(both)()
    alone.grad = torch.linspace(0.1, 1, 16).view(4, 4)
    light_step(one)()
    assert torch.allclose(late, alone, rtol=1e-5)


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
    for _ in range(2):
        (weight * gain).sum().backward()
        light_step(optimizer)()
        optimizer.zero_grad()
    optimizer.load_state_dict(optimizer.state_dict())
    assert weight.grad is None and not torch.equal(weight, torch.ones(4, 4)) and weight.requires_grad
    for package in ("torch._dynamo", "pytorch_optimizer", "torchao"):
        assert package not in sys.modules, (name, package)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_a_closure_is_called_with_gradients_on() -> None:
    params, loss = problem(torch.float32)
    optimizer = registry.build("optim", {"name": "lion"}).build(as_groups(params))

    def closure() -> float:
        value = loss()
        for p, gradient in zip(params, torch.autograd.grad(value, params), strict=True):
            p.grad = gradient
        return float(value.item())

    assert optimizer.step(closure) == pytest.approx(problem(torch.float32)[1]().item())


CHANGED: dict[str, Any] = {
    "weight_decay": 0.7,
    "beta1": 0.2,
    "beta2": 0.6,
    "beta3": 0.5,
    "momentum": 0.3,
    "eps": 0.1,
    "eps1": 0.1,
    "eps2": 0.9,
    "eps_adam": 0.1,
    "ns": "chebyshev",
    "ns_steps": 3,
    "ns_dtype": "fp32",
    "adjust_lr": "original",
    "adam_lr": 0.5,
    "lr": 0.05,
    "state": "int8",
    "alpha": 1.0,
    "rise": 0.5,
    "gamma": 0.5,
    "decay": 0.5,
    "threshold": 0.1,
    "d0": 1e-3,
    "d_coef": 2.0,
    "row_beta": 0.3,
    "row_eps": 0.1,
    "hessian_every": 2,
    "root_every": 2,
    "basis_every": 2,
    "max_dim": 4,
    "graft": "none",
    "power": 0.5,
    "block": 3,
    "moment_beta": 0.5,
}
UNDER: dict[str, dict[str, Any]] = {"eps2": {"relative": True}, "lion": {"lr": 0.2}, "prodigy": {"d0": 1e-2}}
"""Other settings, so that this option or this optimizer has an effect: that signs turn, say."""
ELSEWHERE = {
    "clip": "the trainer applies it",
    "qk_clip": "tests/optim/test_qk_clip.py",
    "estimator": "tests/train/curvature/test_estimates.py",
}


@pytest.mark.parametrize("name", RECIPES)
def test_every_option_changes_the_step(name: str) -> None:
    known: dict[str, list[Tensor]] = {}
    for key, option in registry.get("optim", name).options.items():
        if key == "clip":
            assert registry.build("optim", {"name": name, "clip": 0.25}).clip == 0.25
        if key in ELSEWHERE:
            continue
        value = (not option.default) if isinstance(option.default, bool) else CHANGED[key]
        under = {**UNDER.get(name, {}), **UNDER.get(key, {})}
        plain = known.setdefault(repr(under), []) or _after(name, under)
        known[repr(under)] = plain
        other = _after(name, {**under, key: value})
        assert any(not torch.equal(a, b) for a, b in zip(plain, other, strict=True)), key


def _after(name: str, settings: dict[str, Any]) -> list[Tensor]:
    params, loss = problem(torch.float32)
    params[4] = nn.Parameter(params[4].detach().repeat(300, 4)[:, :4].contiguous())  # large enough for int8

    def every() -> Tensor:
        return loss() + (params[4] * torch.linspace(-1, 1, 4)).tanh().square().mean()

    run(registry.build("optim", {"name": name, **settings}).build(as_groups(params, rows=(2, 4))), every, steps=5)
    return [p.detach() for p in params]


def test_nesterov_without_momentum_is_refused() -> None:
    with pytest.raises(ConfigError, match="set optim.momentum"):
        SGD(momentum=0.0, nesterov=True)


VOCABULARY, STEPS = 64, 25
RATES = {"lion": 0.024, "lamb": 0.2, "prodigy": 10.0, "adahessian": 1.0}
"""Learning rates for the task below, where 0.08 is not of an optimizer's size."""


def trained(name: str, lr: float) -> float:
    """The loss of a small model after 25 steps of the trainer's: each token has one after it, most tokens are rare."""
    cfg = tiny_config(
        optim={"name": name, "weight_decay": 0.0, "lr": lr},
        **{"scale.width": 16, "scale.heads": 2, "scale.depth": 1, "scale.context": 16},
    )
    model = GPT(cfg, VOCABULARY)
    initialize(model, cfg)
    recipe = registry.build("optim", cfg.optim)
    optimizer: Any = fitted(recipe, model, cfg)
    objective = registry.build("objective", cfg.objective)
    stepper = Stepper(model, optimizer, objective, precision.resolve("fp32", "cpu"), recipe.clip, compiled=False)
    generator = torch.Generator().manual_seed(0)
    after = torch.randperm(VOCABULARY, generator=generator)

    def micro() -> Micro:
        tokens = torch.multinomial(1 / torch.arange(1.0, VOCABULARY + 1), 128, True, generator=generator).view(8, 16)
        return Micro(tokens, after[tokens], None, None, 1.0)

    for step in range(STEPS):
        multiplier = min(1.0, (step + 1) / 5) * (1 - step / (STEPS + 1))
        if hasattr(optimizer, "rate"):
            multiplier = optimizer.rate(multiplier)
        stepper(StepBatch([micro()], 128), multiplier, step=step, progress=(step + 1) / (STEPS + 1))
    with getattr(optimizer, "averaged", torch.no_grad)(), torch.no_grad():
        return float(stepper._losses(micro())[0])


@pytest.fixture(scope="module")
def by_sgd() -> float:
    return min(trained("sgd", lr) for lr in (0.3, 1.0, 3.0))


@pytest.mark.parametrize("name", [name for name in RECIPES if name != "sgd"])
def test_learns_and_does_not_lose_to_sgd(name: str, by_sgd: float) -> None:
    assert by_sgd < 1.2, "of 4.16 at first"
    assert trained(name, RATES.get(name, 0.08)) < by_sgd
