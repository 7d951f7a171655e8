"""Multi-token prediction against a loop over places that reads only what comes before; its cost; its plain logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from gpt_lab import registry
from gpt_lab.cost.flops import cost_of
from gpt_lab.model.gpt import GPT, initialize
from gpt_lab.parts.objective.base import Sequences
from tests.helpers import tiny_config

VOCAB, B, T = 23, 2, 7


def make(objective: Any) -> GPT:
    cfg = tiny_config(objective=objective, **{"scale.width": 16, "scale.depth": 1})
    model = GPT(cfg, VOCAB)
    initialize(model, cfg)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
    return model.eval()


@pytest.mark.parametrize("style", ["sequential", "parallel"])
def test_each_place_predicts_the_tokens_after_the_next(style: str) -> None:
    settings = {"name": "mtp", "ahead": 2, "weight": 0.7, "style": style}
    model, objective = make(settings), registry.build("objective", settings)
    text_BT = torch.randint(VOCAB, (B, T + 1), generator=torch.Generator().manual_seed(0))
    given = Sequences(text_BT[:, :-1], text_BT[:, 1:])
    sums = torch.zeros(2)
    for place in range(T):
        tokens_BT = text_BT[:, : place + 1]
        flow = model.flow(tokens_BT)
        x_BTD = hidden_BTD = model.hidden(tokens_BT, flow)
        for k, module in enumerate(model.auxiliary, start=1):  # type: ignore[arg-type, var-annotated]
            if place + k + 1 > T:
                break
            if style == "sequential":
                before_BTD = model.embed(text_BT[:, k : place + 1 + k])
                x_BTD = module.proj(torch.cat((module.hidden_norm(x_BTD), module.embed_norm(before_BTD)), -1))
            else:
                x_BTD = hidden_BTD
            x_BTD = module.block(x_BTD, flow)
            logits_BV = model.logits(module.norm(x_BTD))[:, -1]
            sums[k - 1] += F.cross_entropy(logits_BV, text_BT[:, place + k + 1], reduction="sum")
    plain = registry.build("objective", {"name": "ce"}).train(model, given)
    outcome = objective.train(model, given)
    torch.testing.assert_close(outcome.loss, plain.loss + 0.7 * (sums / (B * T)).mean())
    assert (outcome.nats, outcome.number) == (plain.nats, plain.number)
    assert objective.score(model, given).nats == plain.nats


def test_the_model_is_the_same_without_its_modules_and_they_cost_what_they_are() -> None:
    plain, more = make("ce"), make({"name": "mtp", "ahead": 2})
    tokens_BT = torch.randint(VOCAB, (B, T))
    assert torch.equal(plain(tokens_BT), more(tokens_BT))
    one, other = cost_of(plain), cost_of(more)
    assert more.auxiliary is not None
    assert other.parameters - one.parameters == sum(p.numel() for p in more.auxiliary.parameters())
    block = one.train_flops_per_token / 3 - 2 * VOCAB * 16  # of one layer
    assert other.train_flops_per_token - one.train_flops_per_token == 3 * 2 * (2 * 2 * 16 * 16 + block + 2 * VOCAB * 16)
