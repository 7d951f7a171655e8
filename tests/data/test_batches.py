"""The order of windows: a permutation per epoch, a pure function of seed and sequence number."""

from __future__ import annotations

import numpy as np
import pytest

from gpt_lab.data.batches import BLOCK, Order, documents, gather, permute, philox_key


def keys(seed: int = 0) -> np.ndarray:
    return np.random.Generator(np.random.Philox(key=philox_key(seed, 0))).integers(0, 2**64, size=6, dtype=np.uint64)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 9, 10, 99, 100, 101, 1000, 65537])
def test_permutation(size: int) -> None:
    images = permute(np.arange(size), size, keys())
    assert sorted(images.tolist()) == list(range(size))


def test_permutation_is_random() -> None:
    """First images, neighbours' distances and fixed points look like those of random permutations."""
    size, trials = 1000, 200
    images = np.stack([permute(np.arange(size), size, keys(seed)) for seed in range(trials)])
    assert np.abs(images.mean(axis=0) - (size - 1) / 2).max() < 5 * size / np.sqrt(12 * trials)
    steps = np.abs(np.diff(images, axis=1))
    assert steps.mean() == pytest.approx(size / 3, rel=0.02)
    assert (images == np.arange(size)).sum() == pytest.approx(trials, abs=5 * np.sqrt(trials))
    assert np.abs(np.corrcoef(images[:, :50].T) - np.eye(50)).max() < 0.4


def test_permutation_of_a_huge_range() -> None:
    images = permute(np.arange(10_000), 10**15, keys())
    assert len(set(images.tolist())) == 10_000
    assert images.min() >= 0
    assert images.max() < 10**15
    assert images.mean() == pytest.approx(5e14, rel=0.05)


@pytest.mark.parametrize("tokens", [17, 18, 31, 32, 33, 100, 1000, 16 * 5000 + 3])
def test_an_epoch_visits_every_window_once(tokens: int) -> None:
    order = Order(tokens, 16, seed=1)
    for epoch in range(3):
        starts = np.sort(order.starts(epoch * order.windows, order.windows))
        assert (np.diff(starts) == 16).all()
        assert 0 <= starts[0] < 16
        assert starts[-1] + 17 <= tokens  # the last target is inside
        assert tokens - order.windows * 16 < 2 * 16 or order.windows == 1  # and no whole window more would be


def test_offsets_reach_every_token() -> None:
    order = Order(16 * 7 + 5, 16, seed=3)
    starts = {int(start) for epoch in range(400) for start in order.starts(epoch * order.windows, 1) % 16}
    assert starts == set(range(16))
    everywhere = set(order.starts(0, 4000).tolist())
    assert min(everywhere) == 0
    assert max(everywhere) == (order.windows - 1) * 16 + 15


def test_how_sequences_are_asked_for_changes_nothing() -> None:
    whole = Order(1000, 16, seed=2).starts(0, 3 * BLOCK)
    order = Order(1000, 16, seed=2)
    for first, number in [(0, 5), (BLOCK - 3, 7), (2 * BLOCK, 1), (17, 100), (BLOCK, BLOCK), (5, 2 * BLOCK)]:
        assert (order.starts(first, number) == whole[first : first + number]).all()


def test_golden_numbers() -> None:
    """The order of the data is part of what a seed means: it must never change."""
    assert Order(10_000, 16, 0).starts(0, 6).tolist() == [4023, 7959, 775, 5719, 8807, 3495]
    assert Order(10_000, 16, 1).starts(1000, 4).tolist() == [8392, 1000, 6264, 8024]


def test_seeds_differ() -> None:
    first, second = (Order(10_000, 16, seed).starts(0, 500) for seed in (0, 1))
    assert (first == second).mean() < 0.05
    assert (Order(10_000, 16, 2**64 + 1).starts(0, 500) == second).all()  # seeds of any size are taken


def test_gather() -> None:
    tokens = np.arange(100, dtype=np.uint16)
    inputs, targets = gather(tokens, np.array([0, 7, 83]), 16)
    assert inputs.dtype == targets.dtype == np.int64
    assert (inputs == np.array([0, 7, 83])[:, None] + np.arange(16)).all()
    assert (targets == inputs + 1).all()
    assert targets.max() == 99
    inputs[:] = 0  # a copy: the stream stays
    assert tokens[7] == 7


def test_document_numbers() -> None:
    tokens = np.array([[5, 9, 1, 9, 9, 2], [9, 1, 2, 3, 4, 5]])
    assert documents(tokens, 9).tolist() == [[0, 1, 1, 2, 3, 3], [1, 1, 1, 1, 1, 1]]
