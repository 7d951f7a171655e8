"""Masked diffusion against the chain rule over all orders of a tiny text; BERT's masking against its shares."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gpt_lab.errors import ConfigError
from gpt_lab.parts.dropout import row_keys
from gpt_lab.parts.objective.base import Sequences
from gpt_lab.parts.objective.masked import MaskedDiffusion, MaskedLanguageModel

V, T = 3, 3
MASK = V


class Table:
    """A model that reads both ways: logits of every place, looked up by all that it reads."""

    vocab_size = V

    def __init__(self) -> None:
        self.logits = 2 * torch.randn((V + 1) ** T, T, V, generator=torch.Generator().manual_seed(0))

    def __call__(self, tokens_BT: Tensor, **beside: Any) -> Tensor:
        return self.logits[(tokens_BT * (V + 1) ** torch.arange(T)).sum(1)]


def any_order(model: Table, text: tuple[int, ...]) -> float:
    """Nats of a text whose tokens come in an order drawn at random, each seen by those after it: the mean over all."""
    total = 0.0
    orders = list(itertools.permutations(range(T)))
    for order in orders:
        known = [MASK] * T
        for place in order:
            total -= model(torch.tensor([known]))[0, place].log_softmax(-1)[text[place]].item()
            known[place] = text[place]
    return total / len(orders)


def sequences(text_BT: Tensor, seed: int = 1) -> Sequences:
    return Sequences(text_BT.roll(1, 1), text_BT, None, row_keys(seed, 0, torch.arange(len(text_BT))))


def test_the_bound_is_the_chain_rule_over_all_orders_and_bounds() -> None:
    """Of every text of three tokens; and no model's probabilities add up to more than 1, so nor do exp(-bound)s."""
    model, objective = Table(), MaskedDiffusion(val_draws=2)
    bounds = {text: any_order(model, text) for text in itertools.product(range(V), repeat=T)}
    assert sum(math.exp(-bound) for bound in bounds.values()) <= 1 + 1e-9
    for text in ((0, 1, 2), (2, 2, 0)):
        given = sequences(torch.tensor(text).repeat(4000, 1))
        found = [objective.train(model, given), objective.score(model, given)]  # type: ignore[arg-type]
        rows = objective.nats_of_rows(model, given, objective.hide(given.targets_BT, given.keys_B, MASK))  # type: ignore[arg-type]
        error = rows.std().item() / 4000**0.5
        for one in found:
            assert int(one.number if hasattr(one, "number") else one.count) == 4000 * T
            assert abs(float(one.nats) / 4000 - bounds[text]) < 4 * error


def test_any_number_is_hidden_equally_often_and_the_same_whatever_the_rows() -> None:
    text_BT, keys_B = torch.zeros(6000, 5, dtype=torch.long), row_keys(3, 7, torch.arange(6000))
    hidden = MaskedDiffusion().hide(text_BT, keys_B, MASK)
    counts = torch.bincount(hidden.chosen_BT.sum(1), minlength=6)
    assert counts[0] == 0 and (counts[1:] - 1200).abs().max() < 5 * 1200**0.5
    assert (hidden.chosen_BT.sum(0) - 3600).abs().max() < 5 * 1440**0.5, "every place alike"
    assert torch.equal(hidden.inputs_BT == MASK, hidden.chosen_BT)
    part = MaskedDiffusion().hide(text_BT[40:50], keys_B[40:50], MASK)
    assert torch.equal(part.chosen_BT, hidden.chosen_BT[40:50])
    drawn = [MaskedDiffusion().number(torch.tensor([64]), keys_B[:1], draw, 4).item() for draw in range(4)]
    assert {(later - before) % 64 for before, later in itertools.pairwise(drawn)} == {16}, "draws lie evenly apart"


def test_what_is_no_text_is_never_asked_for() -> None:
    text_BT = torch.tensor([[1, 2, -100], [-100, -100, -100]])
    for objective in (MaskedDiffusion(), MaskedLanguageModel(rate=1.0)):
        hidden = objective.hide(text_BT, row_keys(0, 0, torch.arange(2)), MASK)
        assert not hidden.chosen_BT[text_BT == -100].any() and (hidden.inputs_BT[text_BT == -100] == MASK).all()
        outcome = objective.train(Table(), sequences(text_BT))  # type: ignore[arg-type]
        assert int(outcome.number) == 2 and outcome.loss.item() == pytest.approx(outcome.nats.item() / 2)


def test_bert_masks_its_shares() -> None:
    text_BT = torch.full((4000, 20), 5)
    hidden = MaskedLanguageModel().hide(text_BT, row_keys(3, 7, torch.arange(4000)), 100)
    assert (hidden.chosen_BT.sum(1) == 3).all(), "15 % of 20"
    read = hidden.inputs_BT[hidden.chosen_BT]
    shares = [(read == 100).float().mean().item(), ((read != 100) & (read != 5)).float().mean().item()]
    assert shares == pytest.approx([0.8, 0.1 * 99 / 100], abs=0.01)
    other = read[(read != 100) & (read != 5)]
    assert other.unique().numel() == 99 and int(other.max()) < 100, "any token of the vocabulary"
    assert (hidden.inputs_BT[~hidden.chosen_BT] == 5).all()
    with pytest.raises(ConfigError, match="their sum must be at most 1"):
        MaskedLanguageModel(masked=0.8, random=0.3)


def test_berts_loss_is_the_mean_over_what_is_hidden() -> None:
    text_BT = torch.randint(V, (6, T))
    given, model = sequences(text_BT), Table()
    objective = MaskedLanguageModel(rate=0.6, masked=0.5, random=0.5)
    hidden = objective.hide(text_BT, given.keys_B, MASK)  # type: ignore[arg-type]
    logits_BTV = model(hidden.inputs_BT)
    expected = F.cross_entropy(logits_BTV[hidden.chosen_BT], text_BT[hidden.chosen_BT])
    torch.testing.assert_close(objective.train(model, given).loss, expected)  # type: ignore[arg-type]


def test_berts_validation_is_the_same_whatever_it_trains_on() -> None:
    given = sequences(torch.randint(V, (50, T)))
    one = MaskedLanguageModel(rate=0.9, masked=0.1, random=0.0, val_draws=2).score(Table(), given)  # type: ignore[arg-type]
    assert one == MaskedLanguageModel(val_draws=2).score(Table(), given)  # type: ignore[arg-type]
    assert one.nats != MaskedLanguageModel(val_draws=3).score(Table(), given).nats  # type: ignore[arg-type]
