"""Ten steps of each optimizer in fp64 against its paper's formula, written plainly over the history of gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from gpt_lab import registry
from gpt_lab.optim.matrix.newton_schulz import QUINTIC
from gpt_lab.parts.base import Role
from tests.optim.problems import MULTIPLIER, ROLES, as_groups, curvature, problem, rate, run

STEPS, LR, DECAY = 10, 0.05, 0.2
History = list[Tensor]
Formula = Callable[[Tensor, History, float, float, Role, dict[str, Any]], Tensor]
"""(p, gradients so far, lr, weight decay, role, memory of this parameter) -> the next p."""


def average(values: Sequence[Tensor], beta: float) -> Tensor:
    """What a mean with decay beta has become, from 0 on."""
    return sum(((1 - beta) * beta ** (len(values) - 1 - i) * v for i, v in enumerate(values)), torch.zeros(()).double())


def unbiased(values: Sequence[Tensor], beta: float) -> Tensor:
    return average(values, beta) / (1 - beta ** len(values))


def squares(values: Sequence[Tensor]) -> History:
    return [v * v for v in values]


def lion(p: Tensor, g: History, lr: float, wd: float, role: Role, memory: dict[str, Any]) -> Tensor:
    before = average(g[:-1], 0.9) if len(g) > 1 else torch.zeros_like(p)
    return p - lr * (torch.sign(0.7 * before + 0.3 * g[-1]) + wd * p)


def adam(p: Tensor, g: History, lr: float, wd: float, role: Role, memory: dict[str, Any]) -> Tensor:
    g = memory.setdefault("g", [])
    g.append(memory["now"] + wd * p)
    return p - lr * unbiased(g, 0.8) / (unbiased(squares(g), 0.9).sqrt() + 1e-3)


def adamw(p: Tensor, g: History, lr: float, wd: float, role: Role, memory: dict[str, Any]) -> Tensor:
    return p - lr * (unbiased(g, 0.8) / (unbiased(squares(g), 0.9).sqrt() + 1e-3) + wd * p)


def sgd(p: Tensor, g: History, lr: float, wd: float, role: Role, memory: dict[str, Any]) -> Tensor:
    buffer = memory["buffer"] = 0.7 * memory.get("buffer", 0.0) + memory["now"] + wd * p
    return p - lr * buffer


def adan(p: Tensor, g: History, lr: float, wd: float, role: Role, memory: dict[str, Any]) -> Tensor:
    d = [g[i] - g[max(i - 1, 0)] for i in range(len(g))]
    n = unbiased([(a + 0.7 * b) ** 2 for a, b in zip(g, d, strict=True)], 0.9)
    ahead = unbiased(g, 0.8) + 0.7 * unbiased(d, 0.7)
    return (p - lr * ahead / (n.sqrt() + 1e-3)) / (1 + lr * wd)


def adopt(p: Tensor, g: History, lr: float, wd: float, role: Role, memory: dict[str, Any]) -> Tensor:
    normed, v = [], g[0] ** 2
    for t, gradient in enumerate(g[1:], start=1):
        normed.append(torch.clamp(gradient / v.sqrt().clamp(min=1e-2), -(t**0.25), t**0.25))
        v = 0.9 * v + 0.1 * gradient**2
    return p - lr * (average(normed, 0.8) + wd * p) if normed else p


def ademamix(p: Tensor, g: History, lr: float, wd: float, role: Role, memory: dict[str, Any]) -> Tensor:
    share = min(len(g) / (STEPS + 1) / 0.5, 1.0)
    halves = [math.log(0.5) / math.log(beta) - 1 for beta in (0.8, 0.99)]
    beta3 = 0.5 ** (1 / ((1 - share) * halves[0] + share * halves[1] + 1))  # linear in the half-life
    slow = memory["slow"] = beta3 * memory.get("slow", 0.0) + (1 - beta3) * g[-1]
    both = unbiased(g, 0.8) + 3.0 * share * slow
    return p - lr * (both / (unbiased(squares(g), 0.9).sqrt() + 1e-3) + wd * p)


def lamb(p: Tensor, g: History, lr: float, wd: float, role: Role, memory: dict[str, Any]) -> Tensor:
    u = unbiased(g, 0.8) / (unbiased(squares(g), 0.9).sqrt() + 1e-3) + wd * p
    return p - lr * (1.0 if role == "vector" else p.norm() / u.norm()) * u


def mars(p: Tensor, g: History, lr: float, wd: float, role: Role, memory: dict[str, Any]) -> Tensor:
    c = g
    if role != "vector":
        c = [g[i] + 0.03 * 0.8 / 0.2 * (g[i] - g[max(i - 1, 0)]) for i in range(len(g))]
        c = [one / max(1.0, one.norm().item()) for one in c]
    return p - lr * (unbiased(c, 0.8) / (unbiased(squares(c), 0.9).sqrt() + 1e-3) + wd * p)


def adafactor(p: Tensor, g: History, lr: float, wd: float, role: Role, memory: dict[str, Any]) -> Tensor:
    updates, v = [], torch.zeros_like(p)
    rows, columns = torch.zeros_like(p.sum(-1)), torch.zeros_like(p.sum(-2)) if p.ndim > 1 else None
    for t, gradient in enumerate(g, start=1):
        beta, square = 1 - t**-0.6, gradient**2 + 1e-3
        v = beta * v + (1 - beta) * square
        if columns is not None:
            rows, columns = beta * rows + (1 - beta) * square.sum(-1), beta * columns + (1 - beta) * square.sum(-2)
            v = rows[..., :, None] * columns[..., None, :] / rows.sum(-1)[..., None, None]
        u = gradient / v.sqrt()
        updates.append(u / max(1.0, u.square().mean().sqrt().item() / 0.9))
    scale = max(p.square().mean().sqrt().item(), 0.7)
    return p - lr * (scale * average(updates, 0.4) + wd * p)


def schedule_free(p: Tensor, g: History, lr: float, wd: float, role: Role, memory: dict[str, Any]) -> Tensor:
    lr = memory["lr"] = max(lr, memory.get("lr", 0.0))
    total = memory["total"] = memory.get("total", 0.0) + lr**2
    x, z = memory.get("x", p), memory.get("z", p)
    z = memory["z"] = z - lr * (memory["now"] / (unbiased(squares(g), 0.9).sqrt() + 1e-3) + wd * p)
    x = memory["x"] = x + lr**2 / total * (z - x)
    return 0.2 * z + 0.8 * x


def sophia(p: Tensor, g: History, lr: float, wd: float, role: Role, memory: dict[str, Any]) -> Tensor:
    h = average([curvature(p, t) for t in range(0, len(g), 3)], 0.9)
    return p - lr * (torch.clamp(average(g, 0.8) / (0.5 * h).clamp(min=1e-3), -1, 1) + wd * p)


def adahessian(p: Tensor, g: History, lr: float, wd: float, role: Role, memory: dict[str, Any]) -> Tensor:
    h = unbiased([blocks_of_three(curvature(p, t)) ** 2 for t in range(0, len(g), 3)], 0.9)
    return p - lr * (unbiased(g, 0.8) / (h ** (0.5 * 0.5) + 1e-3) + wd * p)


def blocks_of_three(estimate: Tensor) -> Tensor:
    """The mean size of each three numbers of a row, and of those that are left."""
    if estimate.ndim == 1:
        return estimate
    parts = [part.abs().mean(-1, keepdim=True).expand_as(part) for part in estimate.split(3, dim=-1)]
    return torch.cat(parts, dim=-1)


def root(matrix: Tensor, power: float) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return vectors @ torch.diag((values.clamp(min=0) + 1e-3) ** -power) @ vectors.T


def shampoo(p: Tensor, g: History, lr: float, wd: float, role: Role, memory: dict[str, Any]) -> Tensor:
    if role == "vector":
        return adamw_of(p, g, lr, wd, 1e-2)
    if p.ndim == 3:
        parts = [shampoo(p[i], [one[i] for one in g], lr, 0.0, role, memory.setdefault(i, {"bare": 1})) for i in (0, 1)]
        u = torch.stack(parts)
    else:
        known = max(t for t in range(1, len(g) + 1) if t <= 3 or t % 3 == 0)
        left, right = (unbiased([one @ one.T for one in of[:known]], 0.7) for of in (g, [one.T for one in g]))
        u = unbiased(g, 0.8) @ root(right, 0.5 if role == "embedding" else 0.25)
        u = u if role == "embedding" else root(left, 0.25) @ u
        if "bare" in memory:
            return u
    like = unbiased(g, 0.8) / (unbiased(squares(g), 0.9).sqrt() + 1e-2)
    return p - lr * (u * like.norm() / u.norm() + wd * p)


def soap(p: Tensor, g: History, lr: float, wd: float, role: Role, memory: dict[str, Any]) -> Tensor:
    if role == "vector":
        return adamw_of(p, g, lr, wd, 1e-3)
    if p.ndim == 3:
        each = [[one[i] for one in g] for i in (0, 1)]
        return torch.stack([soap(p[i], each[i], lr, wd, role, memory.setdefault(i, {})) for i in (0, 1)])
    moments = average([one @ one.T for one in g], 0.9), average([one.T @ one for one in g], 0.9)
    sides = (1,) if role == "embedding" else (0, 1)
    if len(g) == 1:
        memory["v"] = torch.zeros_like(p)
        memory["q"] = [torch.eye(size).double() for size in p.shape]
        for side in sides:
            memory["q"][side] = torch.linalg.eigh(moments[side])[1].flip(1)
        return p
    left, right = memory["q"]
    memory["v"] = 0.9 * memory["v"] + 0.1 * (left.T @ g[-1] @ right) ** 2
    n = len(g) - 1
    size = math.sqrt(1 - 0.9**n) / (1 - 0.8**n)
    u = left @ ((left.T @ average(g[1:], 0.8) @ right) / (memory["v"].sqrt() + 1e-3)) @ right.T
    if n % 3 == 0:
        for side in sides:
            q = memory["q"][side]
            order = torch.argsort(torch.diag(q.T @ moments[side] @ q), descending=True)
            memory["v"] = memory["v"].index_select(side, order)
            memory["q"][side] = torch.linalg.qr(moments[side] @ q[:, order])[0]
    return p - lr * (size * u + wd * p)


def adamw_of(
    p: Tensor, g: History, lr: float, wd: float, eps: float, betas: tuple[float, float] = (0.8, 0.9)
) -> Tensor:
    """AdamW's step, of what a matrix optimizer leaves to it."""
    return p - lr * (unbiased(g, betas[0]) / (unbiased(squares(g), betas[1]).sqrt() + eps) + wd * p)


def orthogonal(matrix: Tensor) -> Tensor:
    """Muon's polynomial of the singular values, by their decomposition."""
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    s = s / s.norm()
    for _ in range(5):
        s = QUINTIC[0] * s + QUINTIC[1] * s**3 + QUINTIC[2] * s**5
    return u @ torch.diag(s) @ vh


def matrices(p: Tensor) -> list[tuple[Any, ...]]:
    """Where the matrices of a parameter are: experts, the fused one's two, or all of it."""
    return [(0,), (1,)] if p.ndim == 3 else [(slice(0, 2),), (slice(2, 6),)] if p.shape[0] == 6 else [(slice(None),)]


def muon(p: Tensor, g: History, lr: float, wd: float, role: Role, memory: dict[str, Any]) -> Tensor:
    if role != "matrix":
        return adamw_of(p, g, lr, wd, 1e-3)
    lr, wd = lr / MULTIPLIER * MULTIPLIER**0.5, wd  # with width, its updates grow as the root of Adam's
    ahead, new = 0.3 * g[-1] + 0.7 * average(g, 0.7), p * (1 - lr * wd)
    for at in matrices(p):
        update = orthogonal(ahead[at])
        new[at] -= lr * 0.2 * math.sqrt(max(update.shape)) * update
    return new


def normuon(p: Tensor, g: History, lr: float, wd: float, role: Role, memory: dict[str, Any]) -> Tensor:
    if role != "matrix":
        return adamw_of(p, g, lr, wd, 1e-3)
    lr = lr / MULTIPLIER * MULTIPLIER**0.5
    ahead, new = 0.3 * g[-1] + 0.7 * average(g, 0.7), p * (1 - lr * wd)
    for i, at in enumerate(matrices(p)):
        update = orthogonal(ahead[at])
        rows = memory[i] = 0.6 * memory.get(i, 0.0) + 0.4 * update.square().mean(1, keepdim=True)
        normed = update / (rows.sqrt() + 1e-10)
        new[at] -= lr * 0.2 * normed / normed.square().mean().sqrt()
    return new


BETAS: dict[str, Any] = {"beta1": 0.8, "beta2": 0.9, "eps": 1e-3}
MUON: dict[str, Any] = {"momentum": 0.7, "ns_dtype": "fp64", **BETAS}
CASES: dict[str, tuple[Formula, dict[str, Any]]] = {
    "adafactor": (
        adafactor,
        {"beta1": 0.4, "decay": 0.6, "threshold": 0.9, "relative": True, "eps1": 1e-3, "eps2": 0.7},
    ),
    "adahessian": (adahessian, {"hessian_every": 3, "power": 0.5, "block": 3, **BETAS}),
    "adam": (adam, BETAS),
    "adamw": (adamw, BETAS),
    "adan": (adan, {"beta1": 0.8, "beta2": 0.7, "beta3": 0.9, "eps": 1e-3}),
    "ademamix": (ademamix, {"beta3": 0.99, "alpha": 3.0, "rise": 0.5, **BETAS}),
    "adopt": (adopt, {**BETAS, "eps": 1e-2}),
    "lamb": (lamb, BETAS),
    "lion": (lion, {"beta1": 0.7, "beta2": 0.9}),
    "mars": (mars, {"gamma": 0.03, **BETAS}),
    "muon": (muon, MUON),
    "normuon": (normuon, {"row_beta": 0.6, **MUON}),
    "schedule_free": (schedule_free, BETAS),
    "sgd": (sgd, {"momentum": 0.7}),
    "shampoo": (shampoo, {"root_every": 3, "moment_beta": 0.7, "eps_adam": 1e-2, **BETAS}),
    "soap": (soap, {"basis_every": 3, **BETAS}),
    "sophia": (sophia, {"hessian_every": 3, "gamma": 0.5, **BETAS}),
}


@pytest.mark.parametrize("name", CASES)
def test_ten_steps(name: str) -> None:
    formula, options = CASES[name]
    ours, loss = problem()
    recipe = registry.build("optim", {"name": name, "lr": LR, "weight_decay": DECAY, **options})
    run(recipe.build(as_groups(ours, rows=(2, 4))), loss, STEPS)
    theirs, loss = problem()
    history: list[History] = [[] for _ in theirs]
    memories: list[dict[str, Any]] = [{} for _ in theirs]
    for step in range(STEPS):
        gradients = torch.autograd.grad(loss(), theirs)
        with torch.no_grad():
            for p, g, past, memory, role in zip(theirs, gradients, history, memories, ROLES, strict=True):
                past.append(g)
                memory["now"] = g
                lr = LR * rate(step) * (MULTIPLIER if role == "matrix" else 1.0)
                p.copy_(formula(p.clone(), past, lr, 0.0 if role == "vector" else DECAY, role, memory))
    for one, other, first in zip(ours, theirs, problem()[0], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
        assert (one - first).abs().max() > 1e-3


def test_prodigy() -> None:
    """Its d is of all parameters together. With a d that grows: the first is small."""
    b1, b2, d0, coef = 0.8, 0.9, 1e-3, 1.3
    ours, loss = problem()
    options = {"lr": 1.0, "weight_decay": DECAY, "d0": d0, "d_coef": coef}
    recipe = registry.build("optim", {"name": "prodigy", **options, **BETAS})
    optimizer = recipe.build(as_groups(ours))
    run(optimizer, loss, STEPS)
    theirs, loss = problem()
    first = [p.detach().clone() for p in theirs]
    m, v, s = ([torch.zeros_like(p) for p in theirs] for _ in range(3))
    r, d, used = torch.zeros(()).double(), d0, d0
    for step in range(STEPS):
        gradients = torch.autograd.grad(loss(), theirs)
        lrs = [rate(step) * (MULTIPLIER if role == "matrix" else 1.0) for role in ROLES]
        with torch.no_grad():
            r = math.sqrt(b2) * r + sum(
                lr * d**2 * (g * (start - p)).sum()
                for lr, g, start, p in zip(lrs, gradients, first, theirs, strict=True)
            )
            for i, (p, g, lr, role) in enumerate(zip(theirs, gradients, lrs, ROLES, strict=True)):
                s[i] = math.sqrt(b2) * s[i] + lr * d**2 * g
                m[i], v[i] = b1 * m[i] + (1 - b1) * d * g, b2 * v[i] + (1 - b2) * d**2 * g**2
                decay = 0.0 if role == "vector" else DECAY
                p.sub_(lr * d * (m[i] / (v[i].sqrt() + d * 1e-3) + decay * p))
        used, d = d, max(d, (coef * r / sum(one.abs().sum() for one in s)).item())
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
    assert used > 2 * d0, "the estimate grew"
    assert optimizer.state["all"]["next"].item() == pytest.approx(d, rel=1e-10)


def test_every_optimizer_has_its_formula() -> None:
    shipped = {name for name, part in registry.index()["optim"].items() if part.module.startswith("gpt_lab.")}
    assert set(CASES) | {"prodigy"} == shipped
