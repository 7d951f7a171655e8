"""The loss of docs/your-own-parts.md: chosen by name, against its formula, trained, counted, resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from gpt_lab import registry
from gpt_lab.certify.contract import contract
from gpt_lab.config.schema import RunConfig
from gpt_lab.cost.flops import cost
from gpt_lab.errors import ConfigError
from gpt_lab.model.gpt import GPT, initialize
from gpt_lab.parts.objective.base import Sequences
from tests.helpers import tiny_config
from tests.thirdparty import my_loss
from tests.train.test_resume import interrupted
from tests.train.train_helpers import assert_same, curve, train


@pytest.fixture(autouse=True)
def announced(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the file lay in parts/."""
    (part,) = registry._scan("tests.thirdparty.my_loss", Path(my_loss.__file__))
    monkeypatch.setitem(registry.index()["objective"], part.name, part)  # type: ignore[arg-type]


def make(**settings: Any) -> RunConfig:
    return tiny_config(**{"objective": "contrastive", "data": "synthetic", **settings})


def test_formula() -> None:
    cfg = make()
    model, objective = GPT(cfg, 19), registry.build("objective", cfg.objective)
    initialize(model, cfg)
    text_BT = torch.randint(19, (2, 17))
    given = Sequences(text_BT[:, :-1], text_BT[:, 1:])
    hidden_BTD = model.hidden(given.tokens_BT, model.flow(given.tokens_BT))
    total = 0.0
    for row in hidden_BTD:
        for place in range(12):
            foreseen = model.auxiliary(row[place])  # type: ignore[misc]
            likeness = torch.stack([torch.cosine_similarity(foreseen, row[other], 0) for other in range(4, 16)]) / 0.1
            total = total - likeness.log_softmax(0)[place]
    outcome = objective.train(model, given)
    plain = registry.build("objective", {"name": "ce"}).train(model, given)
    torch.testing.assert_close(outcome.loss, plain.loss + 0.1 * total / 24)
    assert outcome.nats == plain.nats


def test_it_trains_is_counted_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"budget.steps": 20, "eval.every": 6, "runs_dir": str(tmp_path), "optim.lr": 0.01, "data.symbols": 4}
    whole = train(make(**settings))
    losses = [row["train/loss"] for row in curve(whole.path) if "train/loss" in row]
    assert sum(losses[-5:]) < 0.92 * sum(losses[:5])
    cfg = make(study="again", **settings)
    interrupted(cfg, 15, monkeypatch)
    assert_same(train(cfg).path, whole.path)
    plain, more = cost(make(objective="ce"), 19), cost(make(), 19)
    assert more.parameters - plain.parameters == 32 * 32
    assert more.train_flops_per_token - plain.train_flops_per_token == 3 * 2 * 32 * (32 + 16)


def test_it_keeps_the_contract_and_says_what_it_cannot_do() -> None:
    assert all(finding.passed for finding in contract(["objective=contrastive", "compile=off"]))
    with pytest.raises(ConfigError, match=r"objective\.ahead=16 must be less than scale\.context=16"):
        GPT(make(**{"objective.ahead": 16}), 19)
