"""Prompts of different lengths in one batch: each has the text that it has alone."""

from __future__ import annotations

from typing import Any

import pytest

from gpt_lab.errors import ConfigError
from gpt_lab.infer.generate import Usage, complete, gathered
from gpt_lab.infer.several import generate_several
from tests.parts.decoding import model

PROMPTS = [[5, 7, 11, 2], [3], [9, 8, 7, 6, 5, 4, 3, 2, 1]]


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("settings", [{}, {"position": "learned"}], ids=["rope", "learned"])
def test_each_has_the_text_that_it_has_alone(settings: dict[str, Any], use_cache: bool) -> None:
    """Also where rows end at different steps, and at a position encoding that ends at the training context."""
    made = model(**settings).double()
    options = {"max_tokens": 20, "temperature": 1.3, "top_k": 9, "repetition_penalty": 1.2, "samples": 2, "seed": 3}
    stop, usage = complete(made, PROMPTS[1], **options)[1][6], Usage()
    steps = generate_several(made, PROMPTS, stop=stop, use_cache=use_cache, log_probabilities=2, usage=usage, **options)
    alone, notes = [], []
    for prompt in PROMPTS:
        own = Usage()
        alone += complete(made, prompt, stop=stop, log_probabilities=2, usage=own, **options)
        notes.append(own.log_probabilities)
    got = gathered(steps, 6)
    assert got == alone
    assert len(got[3]) <= 6 < max(map(len, got))
    for row, ids in enumerate(got):
        for step in range(len(ids)):
            here, there = usage.log_probabilities[step][row], notes[row // 2][step][row % 2]
            assert here is not None and there is not None
            assert here.token == there.token == ids[step] and here.chosen == pytest.approx(there.chosen)
            assert [token for token, _ in here.top] == [token for token, _ in there.top]


def test_a_row_that_the_caller_wants_no_more_of_is_left_out() -> None:
    usage, lengths = Usage(), [0, 0]
    for step, given in enumerate(generate_several(model(), PROMPTS[:2], max_tokens=9, usage=usage)):
        lengths = [n + (token >= 0) for n, token in zip(lengths, given, strict=True)]
        if step == 3:
            usage.finished.add(0)
    assert lengths == [4, 9]


def test_what_cannot_be_continued_is_refused() -> None:
    for prompts, why in (([], "no prompts"), ([[1], []], "empty"), ([[1], [61]], "outside")):
        with pytest.raises(ConfigError, match=why):
            generate_several(model(), prompts, max_tokens=1)
    with pytest.raises(ConfigError, match="samples must be a whole number >= 1, not 0"):
        generate_several(model(), PROMPTS, max_tokens=1, samples=0)
