"""The loss some tokens at a time against the plain one: F.cross_entropy in fp64, and the model's own path in fp32."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gpt_lab.model.gpt import GPT, initialize
from gpt_lab.parts.objective.base import IGNORED, Objective, Projection, Sequences
from gpt_lab.parts.objective.ce import CrossEntropy
from gpt_lab.parts.objective.chunked import LossRule, chunked_sums
from gpt_lab.parts.objective.mtp import MultiToken
from tests.helpers import tiny_config

N, D, V, ROWS = 13, 6, 11, 16


def given(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    x = torch.randn(N, D, dtype=dtype, requires_grad=True)
    weight = (2 * torch.randn(ROWS, D, dtype=dtype)).requires_grad_()
    targets = torch.randint(V, (N,))
    targets[[0, 4, 5]] = IGNORED
    return x, weight, targets


@pytest.mark.parametrize("chunk", [1, 5, 100])
@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("smoothing, z_loss", [(0.0, 0.0), (0.1, 0.01)])
def test_loss_and_gradients_are_those_of_torch(
    chunk: int, softcap: float | None, smoothing: float, z_loss: float
) -> None:
    x, weight, targets = given()
    logits = F.linear(x, weight)[:, :V]
    logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    kept = targets != IGNORED
    expected = F.cross_entropy(logits, targets, label_smoothing=smoothing, reduction="sum")
    expected = expected + z_loss * logits.logsumexp(-1)[kept].square().sum()
    theirs = torch.autograd.grad(3 * expected, (x, weight))
    total, nats = chunked_sums(Projection(x, weight, V, softcap), targets, LossRule(smoothing, z_loss, chunk))
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(nats, F.cross_entropy(logits, targets, reduction="sum"))
    assert not nats.requires_grad
    mine = torch.autograd.grad(3 * total, (x, weight))
    torch.testing.assert_close(mine, theirs)
    assert mine[0][0].abs().max() == 0 and mine[1][V:].abs().max() == 0, "ignored tokens, rows of padding"


@pytest.mark.skipif(not hasattr(F, "linear_cross_entropy"), reason="torch has none before 2.13")
def test_it_is_torchs_own_where_torch_has_one() -> None:
    x, weight, targets = given(torch.float32)
    options: Any = torch.nn.LinearCrossEntropyOptions()
    theirs = F.linear_cross_entropy(x, weight, targets, reduction="sum", options=options)
    mine = chunked_sums(Projection(x, weight, ROWS, None), targets, LossRule(0.0, 0.0, 4))[0]
    torch.testing.assert_close(mine, theirs)
    pair = [torch.autograd.grad(loss, (x, weight)) for loss in (mine, theirs)]
    torch.testing.assert_close(*pair)


def test_what_is_frozen_gets_no_gradient() -> None:
    x, weight, targets = given()
    for frozen, trained in ((x, weight), (weight, x)):
        frozen.requires_grad_(False)
        total, _ = chunked_sums(Projection(x, weight, V, None), targets, LossRule(0.0, 0.0, 4))
        total.backward()
        assert frozen.grad is None and trained.grad is not None
        frozen.requires_grad_(True)
        x.grad = weight.grad = None


def test_a_gradient_of_its_gradient_is_refused() -> None:
    x, weight, targets = given()
    total, _ = chunked_sums(Projection(x, weight, V, None), targets, LossRule(0.0, 0.0, 4))
    (first,) = torch.autograd.grad(total.square(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def outcome(trained: Objective, chunk: int | None, autocast: bool, **settings: Any) -> tuple[Tensor, Tensor, Any]:
    """Loss, nats and all gradients of a tiny model."""
    cfg = tiny_config(**settings)
    model = GPT(cfg, 61)
    initialize(model, cfg)
    model.choose_kernels("cpu", "fp32", documents=True)
    tokens = torch.randint(61, (2, 17))
    targets = tokens[:, 1:].clone()
    targets[0, :4] = IGNORED
    documents = torch.arange(2)[:, None].expand(2, 16) + (torch.arange(16) > 7)
    trained.chunk = chunk
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss, nats, number = trained.train(model, Sequences(tokens[:, :-1], targets, documents))
    assert number == 28
    loss.backward()
    return loss.detach(), nats, {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("autocast", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize(
    "objective, settings",
    [
        (CrossEntropy(), {"model.tied": True, "model.vocab_multiple": 16}),
        (CrossEntropy(label_smoothing=0.1, z_loss=1e-3), {"model.tied": False, "model.logit_softcap": 5.0}),
        (CrossEntropy(), {"init": "mup", "init.base_width": 16}),
        (MultiToken(ahead=2), {"objective": "mtp", "objective.ahead": 2}),
    ],
    ids=["tied, padded", "untied, capped", "scaled logits", "mtp"],
)
def test_a_model_learns_the_same(objective: CrossEntropy, settings: dict[str, Any], autocast: bool) -> None:
    results = []
    for chunk in (None, 7):
        torch.manual_seed(0)
        results.append(outcome(objective, chunk, autocast, **settings))
    tolerance = {"rtol": 2e-2, "atol": 2e-3} if autocast else {"rtol": 1e-5, "atol": 1e-7}
    torch.testing.assert_close(*results, **tolerance)


@pytest.mark.compiles
def test_it_compiles_to_the_same() -> None:
    x, weight, targets = given(torch.float32)

    def loss(x: Tensor, weight: Tensor) -> Tensor:
        return chunked_sums(Projection(x, weight, V, 3.0), targets, LossRule(0.1, 0.01, 5))[0]

    eager = torch.autograd.grad(loss(x, weight), (x, weight))
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")(x, weight)
    torch.testing.assert_close(torch.autograd.grad(compiled, (x, weight)), eager)
