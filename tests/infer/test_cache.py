"""The key/value cache alone: what it returns, what it holds, how it grows."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from gpt_lab.infer.cache import Cache
from gpt_lab.parts.states import FIRST_CAPACITY, KeyValues, Recurrence


def tokens(positions: Tensor, rows: int = 2, heads: int = 3, size: int = 4) -> tuple[Tensor, Tensor]:
    """Keys and values that carry their row, head and position, so that any mix-up shows."""
    k = positions.double()[None, None, :, None] + 1000 * torch.arange(rows)[:, None, None, None]
    k = k + 10000 * torch.arange(heads)[None, :, None, None] + torch.arange(size) / 8
    return k, -k


def chunks(total: int, seed: int) -> list[int]:
    draw = random.Random(seed)
    sizes: list[int] = []
    while sum(sizes) < total:
        sizes.append(min(draw.choice([1, 1, 1, 2, 5, 17]), total - sum(sizes)))
    return sizes


@pytest.mark.parametrize("window", [None, 1, 2, 5, 16, 500])
@pytest.mark.parametrize("seed", range(4))
def test_every_position_in_reach_is_returned_once_with_its_own_key_and_value(window: int | None, seed: int) -> None:
    cache, first = KeyValues(window), 0
    for size in chunks(150, seed):
        positions_T = torch.arange(first, first + size)
        k, v, positions_S = cache.update(*tokens(positions_T), positions_T)
        oldest = 0 if window is None else max(0, first - window + 1)
        reach = set(range(oldest, first + size))
        assert reach <= set(positions_S.tolist()) <= set(range(first + size))
        assert len(set(positions_S.tolist())) == len(positions_S)
        expected_k, expected_v = tokens(positions_S)
        assert torch.equal(k, expected_k) and torch.equal(v, expected_v)
        first += size
    assert cache.seen == 150
    assert cache.held == (150 if window is None else min(150, window))


@pytest.mark.parametrize("window", [3, 64, 100])
def test_a_ring_never_allocates_more_slots_than_its_window(window: int) -> None:
    cache = KeyValues(window)
    slot = 2 * 2 * 3 * 4 * 8 + 8  # keys and values: rows, heads, size, float64; and the position
    for first in range(0, 3 * window, 7):
        positions_T = torch.arange(first, first + 7)
        cache.update(*tokens(positions_T), positions_T)
        assert cache.nbytes <= window * slot
    assert cache.nbytes == window * slot


def test_growth_is_geometric() -> None:
    cache, sizes = KeyValues(), set()
    for position in range(1000):
        positions_T = torch.tensor([position])
        cache.update(*tokens(positions_T), positions_T)
        sizes.add(cache.nbytes)
    slot = 2 * 2 * 3 * 4 * 8 + 8
    assert sizes == {n * slot for n in (64, 128, 256, 512, 1024)} and FIRST_CAPACITY == 64


def test_memory_follows_the_number_of_key_value_heads() -> None:
    def nbytes(heads: int) -> int:
        cache, positions_T = Cache(), torch.arange(64)
        for layer in range(2):
            cache.slot(layer, "attention", KeyValues).update(*tokens(positions_T, heads=heads), positions_T)
        return cache.nbytes - 2 * 64 * 8  # less the positions, which no head owns

    assert nbytes(8) == 4 * nbytes(2) == 8 * nbytes(1) > 0


def test_expand_repeats_the_prompt_and_later_tokens_stay_apart() -> None:
    cache, prompt = Cache(), torch.arange(5)
    cache.slot(0, "attention", KeyValues).update(*tokens(prompt, rows=1), prompt)
    cache.expand(3)
    five = torch.tensor([5])
    k, v, positions_S = cache.slot(0, "attention", KeyValues).update(*tokens(five, rows=3), five)
    assert positions_S.tolist() == [0, 1, 2, 3, 4, 5]
    assert torch.equal(k[:, :, :5], tokens(prompt, rows=1)[0].expand(3, -1, -1, -1))
    assert torch.equal(v[:, :, 5:], tokens(five, rows=3)[1])


def test_clear_forgets_but_keeps_the_memory_and_takes_another_batch() -> None:
    cache, positions_T = Cache(), torch.arange(6)
    state = cache.slot(0, "attention", lambda: KeyValues(4))
    state.update(*tokens(positions_T), positions_T)
    held = cache.nbytes
    cache.clear()
    assert cache.seen == state.seen == 0 and cache.nbytes == held
    k, _, positions_S = state.update(*tokens(positions_T[:3], rows=5), positions_T[:3])
    assert positions_S.tolist() == [0, 1, 2] and torch.equal(k, tokens(positions_T[:3], rows=5)[0])


def test_a_part_finds_its_own_state_at_each_depth_and_site() -> None:
    cache = Cache()
    slots = {(layer, site): cache.slot(layer, site, Recurrence) for layer in range(2) for site in ("attention", "mlp")}
    assert len({id(state) for state in slots.values()}) == 4
    assert all(cache.slot(*key, Recurrence) is state for key, state in slots.items())


def test_a_recurrence_holds_the_same_after_every_token() -> None:
    state, sizes = Recurrence(), set()
    assert state.get("memory") is None
    for step in range(5):
        state.keep(1, memory=torch.full((1, 2, 3), float(step)))
        sizes.add(state.nbytes)
    assert sizes == {2 * 3 * 4} and state.seen == 5
    state.expand(4)
    memory = state.get("memory")
    assert memory is not None and torch.equal(memory, torch.full((4, 2, 3), 4.0))
    state.clear()
    assert state.seen == 0 and state.get("memory") is None and state.nbytes == 0
