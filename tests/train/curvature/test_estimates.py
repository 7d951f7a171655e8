"""Estimates of the Hessian's diagonal: what they are of, what they cost, and what cannot be had."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from gpt_lab import registry
from gpt_lab.config.schema import RunConfig
from gpt_lab.cost.flops import cost_of
from gpt_lab.data.dataset import open_dataset
from gpt_lab.errors import ConfigError
from gpt_lab.kernels import KernelRequest, choose
from gpt_lab.model.gpt import GPT, initialize
from gpt_lab.optim.fit import fitted
from gpt_lab.parts.norm import rmsnorm
from gpt_lab.parts.objective.base import IGNORED
from gpt_lab.train import precision
from gpt_lab.train.curvature import twice
from gpt_lab.train.curvature.estimates import Curvature, sampled
from gpt_lab.train.feed import Micro, StepBatch
from gpt_lab.train.resolve_auto import resolve
from gpt_lab.train.step import Stepper
from tests.helpers import tiny_config

VOCABULARY = 16
SMALL = {"scale.width": 8, "scale.heads": 2, "scale.depth": 1, "scale.context": 8}


def stepper(cfg: RunConfig) -> Stepper:
    model = GPT(cfg, VOCABULARY)
    initialize(model, cfg)
    recipe = registry.build("optim", cfg.optim)
    optimizer = fitted(recipe, model, cfg)
    model.choose_kernels("cpu", "fp32")
    objective = registry.build("objective", cfg.objective)
    return Stepper(model, optimizer, objective, precision.resolve("fp32", "cpu"), 0.0, compiled=False, seed=5)


def batch(rows: int = 4, micro: int = 4, length: int = 8) -> StepBatch:
    """Rows of random tokens; the last targets of each row count for nothing, more of them in later rows."""
    tokens = torch.randint(VOCABULARY, (rows, length + 1), generator=torch.Generator().manual_seed(1))
    targets = tokens[:, 1:].clone()
    for row in range(rows):
        targets[row, length - row :] = IGNORED
    total = int((targets != IGNORED).sum())
    parts = [slice(at, at + micro) for at in range(0, rows, micro)]
    share = [int((targets[part] != IGNORED).sum()) / total for part in parts]
    micros = [Micro(tokens[p, :-1], targets[p], None, None, s) for p, s in zip(parts, share, strict=True)]
    return StepBatch(micros, total)


def config(name: str, **settings: Any) -> RunConfig:
    return tiny_config(optim={"name": name, "lr": 0.01}, **SMALL, **settings)


def test_hutchinson_is_signs_times_the_hessian_times_signs() -> None:
    """Against differences of gradients along the same signs; its gradients are a backward pass's."""
    made = stepper(config("adahessian"))
    model, step, size = made.model, 3, 1e-5
    estimates, nats = made.curvature.hutchinson(batch(), step, made._losses)
    left = [p.grad.clone() for p in made.parameters if p.grad is not None]
    made._drop_gradients()
    assert torch.equal(nats, made._gradients(batch().micro))
    for p, gradient in zip(made.parameters, left, strict=True):
        torch.testing.assert_close(p.grad, gradient)
    generator = made.curvature.generator(step, torch.device("cpu"))
    signs = [torch.randint_like(p, 2, generator=generator).mul_(2).sub_(1) for p in made.parameters]
    assert all((one.abs() == 1).all() for one in signs)
    model.double()

    def gradients(along: float) -> list[Tensor]:
        with torch.no_grad():
            for p, sign in zip(made.parameters, signs, strict=True):
                p.add_(sign.double(), alpha=along)
        made._drop_gradients()
        made._gradients(batch().micro)
        with torch.no_grad():
            for p, sign in zip(made.parameters, signs, strict=True):
                p.sub_(sign.double(), alpha=along)
        return [p.grad.clone() for p in made.parameters if p.grad is not None]

    ahead, behind = gradients(size), gradients(-size)
    for estimate, sign, plus, minus in zip(estimates, signs, ahead, behind, strict=True):
        expected = sign * (plus - minus) / (2 * size)
        torch.testing.assert_close(estimate.double(), expected, rtol=1e-3, atol=1e-3)
    assert max(estimate.abs().max().item() for estimate in estimates) > 0.1


def test_gauss_newton_is_targets_times_the_squared_gradient_at_sampled_targets() -> None:
    made = stepper(config("sophia"))
    found = made.curvature.gauss_newton(batch(), 3)
    assert all(p.grad is None for p in made.parameters)
    (micro,) = batch().micro
    draws = torch.rand(4, 8, generator=made.curvature.generator(3, torch.device("cpu")))
    logits = made.model(micro.tokens_BT)
    loss, count = torch.zeros(()), 0
    for row in range(4):
        for at in range(8 - row):
            below = logits[row, at].softmax(-1).detach().cumsum(-1)
            token = int((below <= draws[row, at] * below[-1]).sum())
            loss, count = loss - logits[row, at].log_softmax(-1)[token], count + 1
    gradients = torch.autograd.grad(loss / count, made.parameters)
    for one, gradient in zip(found, gradients, strict=True):
        torch.testing.assert_close(one, count * gradient**2, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("name", ["sophia", "adahessian"])
def test_estimates_are_the_same_whatever_the_micro_batch_and_others_at_each_step(name: str) -> None:
    made = stepper(config(name))

    def estimate(micro: int, step: int) -> list[Tensor]:
        made._drop_gradients()
        if name == "sophia":
            return made.curvature.gauss_newton(batch(micro=micro), step)
        return made.curvature.hutchinson(batch(micro=micro), step, made._losses)[0]

    whole = estimate(4, 0)
    for one, other in zip(whole, estimate(2, 0), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)
    assert not all(torch.allclose(a, b, rtol=0.1) for a, b in zip(whole, estimate(4, 1), strict=True))
    other_seed = Curvature(made.model, made.parameters, made.precision, 6)
    assert (
        other_seed.generator(0, torch.device("cpu")).initial_seed()
        != made.curvature.generator(0, torch.device("cpu")).initial_seed()
    )


def test_sampling_follows_the_probabilities() -> None:
    logits = torch.tensor([0.1, 0.6, 0.0, 0.3]).log()
    draws = (torch.arange(1000) + 0.5)[None] / 1000
    counts = torch.bincount(sampled(logits.expand(1, 1000, 4), draws)[0], minlength=4)
    assert (counts - torch.tensor([100, 600, 0, 300])).abs().max() <= 1
    assert sampled(logits.expand(1, 1, 4), torch.ones(1, 1)).item() == 3


def test_estimates_are_due_at_every_so_many_steps() -> None:
    made = stepper(config("sophia", **{"optim.hessian_every": 3}))
    seen: list[int] = []
    plain = made.curvature.gauss_newton

    def noted(one: StepBatch, step: int) -> list[Tensor]:
        seen.append(step)
        return plain(one, step)

    made.curvature.gauss_newton = noted  # type: ignore[method-assign]
    for step in range(7):
        made(batch(), 1.0, step=step)
    assert seen == [0, 3, 6]


@pytest.mark.parametrize("name", ["sophia", "adahessian"])
def test_a_step_costs_what_the_budget_says(name: str) -> None:
    """Against what torch counts of a step that has an estimate; a tenth of it where every tenth has."""
    cfg = config(name, **{"optim.hessian_every": 1, "attention": "none", "position": "learned", "norm": "layernorm"})
    made, one = stepper(cfg), batch()
    with FlopCounterMode(display=False) as counter:
        made(one, 1.0)
    price = cost_of(made.model, cfg.optim).train_flops_per_token
    assert counter.get_total_flops() == 4 * 8 * price
    plain = cost_of(made.model).train_flops_per_token
    assert price == plain * {"sophia": 2, "adahessian": 3}[name]
    rare = cost_of(made.model, {**cfg.optim, "hessian_every": 10}).train_flops_per_token
    assert rare == round(plain * {"sophia": 1.1, "adahessian": 1.2}[name])


def test_a_kernel_that_cannot_is_not_chosen() -> None:
    request = KernelRequest("cpu", "fp32", 4, 4, 8, context=4096, twice=True)
    assert choose("auto", request).name == "math"
    with pytest.raises(ConfigError, match=r"cannot be differentiated twice.*kernels that can: auto, math"):
        choose("sdpa", request)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "kernel": ({"kernel": "sdpa"}, "kernel=sdpa cannot be used: it cannot be differentiated twice"),
    "compile": ({"compile": "on"}, "optim=adahessian differentiates twice, and compiled code cannot be"),
    "fp16": ({"precision": "fp16", "optim": "sophia"}, "optim=sophia estimates the curvature of the loss, which "),
    "masks": ({"objective": "mlm", "optim": "sophia"}, "optim=sophia draws next tokens from the model"),
    "padding": (
        {"batch.packing": "bucketed", "optim": {"name": "muon", "qk_clip": 1.0}},
        "batch.packing=bucketed: optim.qk_clip would count the scores of padding",
    ),
    "mup": ({"init": "mup", "optim": "lamb"}, "init=mup cannot hold learning rates across widths with optim=lamb"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_work_is_refused_before_training(what: str) -> None:
    settings, said = REFUSED[what]
    cfg = tiny_config(**{"optim": "adahessian", "device": "cpu", **settings})
    with pytest.raises(ConfigError) as refused:
        resolve(cfg, open_dataset(cfg))
    assert str(refused.value).startswith(said) and "\n" not in str(refused.value)


def test_a_part_that_cannot_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = tiny_config(optim="adahessian")
    twice.check(cfg)
    once = torch.autograd.function.once_differentiable(rmsnorm._EagerRMSNorm.backward)
    monkeypatch.setattr(rmsnorm._EagerRMSNorm, "backward", staticmethod(once))
    with pytest.raises(ConfigError, match=r"differentiates twice, and a part .*once_differentiable") as refused:
        twice.check(cfg)
    assert "\n" not in str(refused.value)


def test_auto_does_not_compile_what_is_differentiated_twice() -> None:
    cfg = tiny_config(optim="adahessian", device="cpu", kernel="auto", **{"budget.steps": 10**7})
    plan = resolve(cfg, open_dataset(cfg))
    assert not plan.compile and plan.reasons["compile"] == "its optimizer differentiates twice"
    assert plan.kernels == ("math", "math")
