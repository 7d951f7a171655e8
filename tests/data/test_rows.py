"""Rows by step: buckets against a count of every token, lengths that grow, exact numbers of tokens and of FLOPs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from gpt_lab.config.schema import RunConfig
from gpt_lab.data.dataset import open_dataset
from gpt_lab.data.rows import Bucketed
from gpt_lab.data.synthetic import IGNORED
from gpt_lab.errors import ConfigError
from tests.data.test_packing import EOT, SIZES, bounds, toy
from tests.helpers import tiny_config

Make = Callable[..., RunConfig]
LENGTHS, PLACES = [4, 8, 16], 32


def test_an_epoch_of_buckets_has_every_pair_once() -> None:
    stream = toy()
    made = Bucketed(stream, LENGTHS, PLACES, seed=0)
    steps = int(made._batches.sum())
    for epoch in range(3):
        pairs: Counter[tuple[int, int]] = Counter()
        for step in range(epoch * steps, (epoch + 1) * steps):
            tokens, targets = made.take(step, 0, made.number(step))
            assert tokens.shape == targets.shape == (made.number(step), PLACES // made.number(step))
            counted = targets != IGNORED
            assert made.tokens(step + 1) - made.tokens(step) == counted.sum()
            assert (tokens[~counted] == EOT).all()
            assert (np.diff(counted.astype(int), axis=1) <= 0).all(), "padding stands at the end"
            lengths = counted.sum(axis=1)
            shorter = max((one for one in LENGTHS if one < tokens.shape[1]), default=0)
            assert all(size == 0 or shorter < size <= tokens.shape[1] for size in lengths), "the shortest that holds it"
            pairs.update(zip(tokens[counted].tolist(), targets[counted].tolist(), strict=True))
        assert pairs == Counter(zip(stream.tokens[:-1].tolist(), stream.tokens[1:].tolist(), strict=True))
    assert made.tokens(3 * steps) == 3 * sum(SIZES)
    assert sum(made.read(steps).values()) == steps * PLACES
    whole = sum(end - start <= 16 for start, end in bounds(stream)) / len(SIZES)
    assert made.statistics() == pytest.approx((0.0, 1 - whole, sum(SIZES) / (steps * PLACES)))


def test_buckets_are_a_pure_function_of_seed_and_step() -> None:
    one, other = (Bucketed(toy(), LENGTHS, PLACES, seed=1) for _ in range(2))
    for step in (31, 2, 17, 0):
        whole = one.take(step, 0, one.number(step))
        parts = [other.take(step, row, row + 1) for row in range(other.number(step))]
        for i in range(2):
            assert (np.concatenate([part[i] for part in parts]) == whole[i]).all()
    again = Bucketed(toy(), LENGTHS, PLACES, seed=2)
    assert [again.number(step) for step in range(20)] != [one.number(step) for step in range(20)]


@pytest.fixture
def rows(tmp_path: Path) -> dict[str, str]:
    """JSON lines of very different lengths."""
    path = tmp_path / "rows.jsonl"
    texts = ("ab cd " * (1 + i * i % 23) for i in range(200))
    path.write_text("".join(f'{{"text": "{text}{i}"}}\n' for i, text in enumerate(texts)), encoding="utf-8")
    return {"name": "jsonl", "path": str(path)}


@pytest.mark.parametrize("packing", ["stream", "bos_aligned", "best_fit", "bucketed"])
def test_lengths_grow_over_a_share_of_the_budget(packing: str, config: Make, rows: dict[str, str]) -> None:
    cfg = config(
        data=rows,
        **{"budget.steps": 40, "batch.curriculum": 0.6, "batch.packing": packing, "batch.document_mask": True},
    )
    dataset = open_dataset(cfg)
    batches = [dataset.batch(step) for step in range(44)]
    longest = [batch.tokens_BT.shape[1] for batch in batches]
    expected = [2] * 8 + [4] * 8 + [8] * 8 + [16] * 20
    if packing == "bucketed":
        assert all(a <= b for a, b in zip(longest, expected, strict=True)) and {2, 4, 8, 16} == {*longest}
    else:
        assert longest == expected
    assert all(batch.tokens_BT.numel() == 64 for batch in batches)
    counted = [int((batch.targets_BT != IGNORED).sum()) for batch in batches]
    assert [dataset.tokens_after(step) for step in range(45)] == np.cumsum([0, *counted]).tolist()
    read = Counter[int]()
    for step, length in enumerate(longest):
        assert dataset.read_after(step) == read
        read[length] += 64
    fresh = open_dataset(cfg)  # as after a resume
    for step in (30, 7, 23, 24):
        assert torch.equal(fresh.batch(step).tokens_BT, batches[step].tokens_BT)
        parts = [fresh.batch(step, slice(row, row + 1)) for row in range(len(batches[step].tokens_BT))]
        assert torch.equal(torch.cat([part.targets_BT for part in parts]), batches[step].targets_BT)
        documents_BT = batches[step].documents_BT
        assert documents_BT is not None
        starts = batches[step].tokens_BT == 256
        assert torch.equal(documents_BT.diff(dim=1), starts[:, 1:].long())


def test_a_curriculum_goes_with_a_batch_that_grows(config: Make) -> None:
    cfg = config(**{"budget.tokens": 2000.0, "batch.start": 16, "batch.ramp": 800, "batch.curriculum": 0.5})
    dataset = open_dataset(cfg)
    sizes = [dataset.batch(step).tokens_BT.numel() for step in range(50)]
    assert sizes == [cfg.batch_sizes.rows(step) * 16 for step in range(50)]
    assert [dataset.tokens_after(step) for step in range(51)] == np.cumsum([0, *sizes]).tolist()


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"batch.packing": "bucketed", "batch.start": 16, "batch.ramp": 99}, "makes batches of one size: leave out"),
        ({"batch.curriculum": 0.5, "budget.seconds": 3.0}, "must be known beforehand: set budget.steps or budget.tok"),
        ({"batch.curriculum": 0.5, "budget.flops": 1e9}, "must be known beforehand: set budget.steps or budget.tokens"),
        ({"batch.curriculum": 0.5, "budget.tokens": 1e4, "batch.packing": "bucketed"}, "beforehand: set budget.steps$"),
        ({"batch.curriculum": 0.5, "batch.shortest": 16}, "batch.curriculum needs shorter rows, halves of scale.cont"),
        ({"batch.curriculum": 0.5, "batch.shortest": 32}, "batch.shortest=32 is more than scale.context=16"),
        ({"batch.packing": "best_fit", "data": "synthetic"}, "batch.packing needs text: data=synthetic"),
        (
            {"batch.packing": "bucketed", "batch.shortest": 1, "scale.context": 512},
            "rows of 10 lengths, each half of the next: raise it to 4 or more, for 8 at most",
        ),
    ],
)
def test_what_cannot_be_is_one_line(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        tiny_config(**settings)


def test_documents_must_be_told_apart(config: Make) -> None:
    with pytest.raises(ConfigError, match="best_fit needs a token between documents, and tokenizer=byte has none"):
        open_dataset(config(tokenizer={"name": "byte", "eot": False}, **{"batch.packing": "best_fit"}))


def test_a_packing_that_drops_most_of_the_text_says_so(config: Make) -> None:
    dataset = open_dataset(config(**{"batch.packing": "bos_aligned"}))
    (warning,) = dataset.warnings
    assert warning.startswith("batch.packing=bos_aligned: 99.9% of the tokens dropped, 100% of the documents cut")
    assert open_dataset(config(**{"batch.packing": "best_fit"})).warnings == []
