"""Log-likelihoods against one row at a time; padding changes no number."""

from __future__ import annotations

import pytest
import torch

from gpt_lab.data.tokenizers.simple import Byte, Char
from gpt_lab.errors import DataError
from gpt_lab.evaluate.likelihood import Pair, log_likelihoods, pair
from gpt_lab.model.gpt import GPT, initialize
from tests.helpers import tiny_config

PAIRS = [Pair(tuple(range(1, 1 + n)), tuple(range(40, 40 + m))) for n, m in ((1, 1), (9, 3), (4, 2), (30, 2), (2, 8))]


@pytest.mark.parametrize("attention", ["mha", "sliding", "differential", "gated_deltanet", "mamba2", "none"])
def test_padding_changes_no_number(attention: str) -> None:
    cfg = tiny_config(attention=attention)
    model = GPT(cfg, 64)
    initialize(model, cfg)
    model.eval()
    together = log_likelihoods(model, PAIRS, 16)
    one_by_one = log_likelihoods(model, PAIRS, 16, logits=1)
    for one, other, asked in zip(together, one_by_one, PAIRS, strict=True):
        assert one.log_probs == pytest.approx(other.log_probs, abs=1e-6) and one.right == other.right
        whole = torch.tensor([*asked.context, *asked.continuation])[-17:]
        log_TV = model(whole[None, :-1])[0].log_softmax(-1)
        end = len(asked.continuation)
        by_hand = log_TV[range(len(whole) - 1), whole[1:]][-end:]
        assert one.log_probs == pytest.approx(by_hand.tolist(), abs=1e-5)
        assert one.greedy == bool((log_TV.argmax(-1) == whole[1:])[-end:].all())


def test_pairs_are_cut_where_the_context_ends() -> None:
    assert pair(Byte(), "ab ", "c") == pair(Byte(), "ab", " c") == Pair((97, 98), (32, 99))
    assert pair(Byte(), "", "c").continuation == (99,)
    letters = Char(eot=False)
    letters.fit(["abc"])
    with pytest.raises(DataError, match="cannot write a text of this task, 'abd'"):
        pair(letters, "ab", "d")


def test_what_does_not_fit_is_said() -> None:
    cfg = tiny_config()
    model = GPT(cfg, 64)
    with pytest.raises(DataError, match="17 tokens is longer than the model's context of 16"):
        log_likelihoods(model, [Pair((1,), tuple(range(17)))], 16)
    with pytest.raises(DataError, match="without a token"):
        log_likelihoods(model, [Pair((1,), ())], 16)
