"""DPO and GRPO by their papers' formulas, by hand; which answers are right; that sampling follows the model."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from gpt_lab.parts.dropout import row_keys
from gpt_lab.parts.objective.base import IGNORED, Sequences
from gpt_lab.parts.objective.dpo import PreferenceOptimization
from gpt_lab.parts.objective.grpo import GroupRelative, grpo_loss, questions

VOCAB, STOP = 7, 6


class Model(torch.nn.Module):
    """Logits of the next token from a table by the last one; gradients go to the table."""

    vocab_size = VOCAB

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.table = torch.nn.Parameter(torch.randn(VOCAB, VOCAB, generator=torch.Generator().manual_seed(seed)))

    def forward(self, tokens_BT: Tensor, **_: object) -> Tensor:
        return self.table[tokens_BT]

    def log_prob(self, before: int, after: int) -> float:
        return math.log(self.table[before].exp()[after].item() / self.table[before].exp().sum().item())


def test_dpo_is_the_formula() -> None:
    tokens = torch.tensor([[1, 2, 3, STOP], [1, 2, 5, 4], [2, 0, STOP, STOP], [2, 1, 1, STOP]])
    targets = torch.tensor([[-100, 3, STOP, -100], [-100, 5, 4, STOP], [0, STOP, -100, -100], [1, 1, STOP, -100]])
    model, reference = Model(0), Model(1)
    objective = PreferenceOptimization(beta=0.3)
    objective.teacher_model = reference
    outcome = objective.train(model, Sequences(tokens, targets))  # type: ignore[arg-type]
    gained = [
        sum(
            model.log_prob(int(t), int(aim)) - reference.log_prob(int(t), int(aim))
            for t, aim in zip(row, aims, strict=True)
            if aim != IGNORED
        )
        for row, aims in zip(tokens, targets, strict=True)
    ]
    margins = [0.3 * (gained[0] - gained[1]), 0.3 * (gained[2] - gained[3])]
    by_hand = sum(-math.log(1 / (1 + math.exp(-margin))) for margin in margins) / 2
    assert outcome.loss.item() == pytest.approx(by_hand, rel=1e-5)
    assert (outcome.nats / outcome.number).item() == pytest.approx(by_hand, rel=1e-5)
    score = objective.score(model, Sequences(tokens, targets), answers=True)  # type: ignore[arg-type]
    assert score.nats.item() == pytest.approx(2 * by_hand, rel=1e-5) and score.right is not None
    assert (int(score.number), int(score.right)) == (2, sum(margin > 0 for margin in margins))
    outcome.loss.backward()
    assert model.table.grad is not None and reference.table.grad is None


def test_grpo_is_the_formula() -> None:
    ours, theirs = (
        torch.tensor([[-1.0, -2.0, -0.5], [-0.3, -1.5, -9.0]]),
        torch.tensor([[-1.2, -1.0, -0.4], [-0.3, -1.1, -9.0]]),
    )
    own = torch.tensor([[True, True, True], [False, True, False]])
    advantages, beta = torch.tensor([1.0, -1.0]), 0.2
    ours.requires_grad_()
    loss = grpo_loss(ours, theirs, own, advantages, beta)
    each = []
    for row in range(2):
        terms = [
            advantages[row].item() - beta * (math.exp(q - p) - (q - p) - 1)
            for p, q, counts in zip(ours[row].tolist(), theirs[row].tolist(), own[row].tolist(), strict=True)
            if counts
        ]
        each.append(sum(terms) / len(terms))
    assert loss.item() == pytest.approx(-sum(each) / 2, rel=1e-5)
    loss.backward()
    assert ours.grad is not None  # of the ratio: the advantage; of the divergence: 1 - q/p
    wanted = -(1.0 - beta * (1 - math.exp(-1.2 + 1.0))) / 3 / 2
    assert ours.grad[0, 0].item() == pytest.approx(wanted, rel=1e-4)
    assert ours.grad[1, 0].item() == 0.0


def test_answers_are_right_if_they_are_the_answer_and_end() -> None:
    tokens = torch.tensor([[1, 2, 3, STOP, 0, 0], [4, 5, STOP, 0, 0, 0]])
    targets = torch.tensor([[-100, 3, STOP, -100, -100, -100], [5, STOP, -100, -100, -100, -100]])
    given = Sequences(tokens, targets, None, row_keys(0, 0, torch.arange(2)))
    asked = questions(given, 3)
    assert asked.lengths_B.tolist() == [2, 1] and asked.stop_B.tolist() == [STOP, STOP]
    assert asked.answers_BL.tolist() == [[3, STOP, -100, -100], [5, STOP, -100, -100]]
    model = Model(0)
    with torch.no_grad():
        model.table.fill_(-30.0)
        for before, after in ((2, 3), (3, STOP), (4, 5), (5, 5)):  # right; and one that never ends
            model.table[before, after] = 30.0
    objective = GroupRelative(tokens=3, group=2)
    said = objective.answer(model, tokens, asked, None)  # type: ignore[arg-type]
    assert objective.right(said, asked).tolist() == [1.0, 0.0]
    assert said.tokens_NT[1].tolist() == [4, 5, 5, 5, STOP, STOP] and said.own_NT[1].tolist() == [
        False,
        *[True] * 3,
        False,
        False,
    ]
    score = objective.score(model, given, answers=True)  # type: ignore[arg-type]
    assert [float(one) for one in score if one is not None] == [1.0, 2.0, 1.0]


def test_samples_follow_the_model_and_the_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shares of many first tokens are the model's probabilities; the same keys give the same answers."""
    model, rows = Model(3), 400
    tokens = torch.tensor([[1, 2, STOP]]).repeat(rows, 1)
    targets = torch.tensor([[2, STOP, -100]]).repeat(rows, 1)
    given = Sequences(tokens, targets, None, row_keys(5, 9, torch.arange(rows)))
    objective = GroupRelative(tokens=2, group=8, temperature=1.5)
    objective.teacher_model = Model(4)
    seen: list[Tensor] = []
    answer: Callable[..., object] = objective.answer

    def watched(*arguments: object) -> object:
        said = answer(*arguments)
        seen.append(said.tokens_NT)  # type: ignore[attr-defined]
        return said

    monkeypatch.setattr(objective, "answer", watched)
    first, second = (objective.train(model, given) for _ in range(2))  # type: ignore[arg-type]
    assert torch.equal(seen[0], seen[1]) and torch.equal(first.loss, second.loss)
    shares = torch.bincount(seen[0][:, 1], minlength=VOCAB) / len(seen[0])
    torch.testing.assert_close(shares, (model.table[1] / 1.5).softmax(-1), rtol=0, atol=0.03)
