"""Synthetic tasks: the answers follow from the inputs."""

from __future__ import annotations

import numpy as np
import pytest

from gpt_lab.data.synthetic import IGNORED, Synthetic, TaskSizes
from gpt_lab.errors import ConfigError

CASES = [("copy", 16, None), ("copy", 17, 5), ("induction", 16, 3), ("induction", 33, None), ("mqar", 64, None)]


def plan(task: str, context: int, items: int | None) -> TaskSizes:
    return Synthetic(task=task, symbols=32, items=items).plan(context)  # type: ignore[arg-type]


@pytest.mark.parametrize("task, context, items", CASES)
def test_answers(task: str, context: int, items: int | None) -> None:
    made = plan(task, context, items)
    tokens, targets = made.examples(seed=1, step=2, rows=200)
    assert tokens.shape == targets.shape == (200, context)
    assert tokens.min() >= 0
    assert tokens.max() < made.vocab_size
    assert ((targets != IGNORED).sum(axis=1) == made.items).all()
    for row, wanted in zip(tokens.tolist(), targets.tolist(), strict=True):
        for at, answer in enumerate(wanted):
            if answer == IGNORED:
                continue
            if task == "copy":
                assert row[made.items] == 32
                assert answer == row[at - made.items]
            else:  # the token now was seen once before, and the answer came after it
                (before,) = [i for i, token in enumerate(row[:at]) if token == row[at]]
                assert row[before + 1] == answer
            if task != "mqar" and at + 1 < context:
                assert row[at + 1] == answer


@pytest.mark.parametrize("task, context, items", CASES)
def test_a_pure_function_of_seed_and_step(task: str, context: int, items: int | None) -> None:
    made = plan(task, context, items)
    first = made.examples(1, 2, 50)
    assert all(np.array_equal(a, b) for a, b in zip(first, made.examples(1, 2, 50), strict=True))
    for seed, step in [(1, 3), (2, 2), (2**64 - 1, 0)]:
        assert not np.array_equal(first.tokens, made.examples(seed, step, 50).tokens)


def test_answers_are_spread() -> None:
    """No answer can be guessed from its place: positions and values take every value they may."""
    tokens, targets = plan("mqar", 64, 4).examples(0, 0, 4000)
    places = np.flatnonzero((targets != IGNORED).any(axis=0))
    assert places.tolist() == list(range(8, 64, 2))
    assert set(targets[targets != IGNORED].tolist()) == set(range(16, 32))
    near, far = ((targets[:, at] != IGNORED).mean() for at in (8, 62))
    assert near > 3 * far  # a power law
    tokens, targets = plan("induction", 16, 1).examples(0, 0, 4000)
    assert set(np.argmax(tokens[:, :14] == 32, axis=1).tolist()) == set(range(0, 14, 2))
    assert set(targets[targets != IGNORED].tolist()) == set(range(32))


@pytest.mark.parametrize("task, vocab_size", [("copy", 33), ("induction", 35), ("mqar", 32)])
def test_vocabulary(task: str, vocab_size: int) -> None:
    assert plan(task, 16, 3).vocab_size == vocab_size


@pytest.mark.parametrize(
    "task, symbols, items, context, says",
    [
        ("copy", 32, 9, 16, "copy with data.items=9 needs a context of 18 tokens, and scale.context=16"),
        ("copy", 32, None, 1, "needs a context of 2 tokens"),
        ("induction", 32, 5, 16, "induction with data.items=5 needs a context of 20 tokens"),
        ("mqar", 32, 5, 16, "mqar with data.items=5 needs a context of 20 tokens"),
        ("mqar", 7, 4, 16, "data.symbols must be at least 8 for mqar with data.items=4, not 7"),
        ("copy", 1, 4, 16, "data.symbols must be at least 2 for copy"),
    ],
)
def test_what_does_not_fit(task: str, symbols: int, items: int | None, context: int, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Synthetic(task=task, symbols=symbols, items=items).plan(context)  # type: ignore[arg-type]
