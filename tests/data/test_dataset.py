"""Batches and validation: each a pure function of its arguments, each validation target exactly once."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gpt_lab.config.schema import RunConfig
from gpt_lab.data.dataset import open_dataset
from gpt_lab.data.tokenizers.tokenizer import load_tokenizer
from gpt_lab.errors import ConfigError, DataError

Make = Callable[..., RunConfig]
SYNTHETIC = {"name": "synthetic", "task": "mqar", "items": 4}


@pytest.mark.parametrize("data", [None, SYNTHETIC])
def test_a_batch_depends_on_seed_and_step_only(config: Make, data: dict[str, object] | None) -> None:
    more = {"data": data} if data else {}
    dataset = open_dataset(config(**more))
    third = dataset.batch(3)
    assert third.tokens_BT.shape == third.targets_BT.shape == (4, 16)
    assert third.tokens_BT.dtype == third.targets_BT.dtype == torch.int64
    assert third.documents_BT is None
    assert third.tokens_BT.is_contiguous()
    assert third.targets_BT.is_contiguous()
    fresh = open_dataset(config(**more))
    for rows in (1, 2, 3):
        parts = [fresh.batch(3, slice(start, start + rows)) for start in range(0, 4, rows)]
        assert torch.equal(torch.cat([part.tokens_BT for part in parts]), third.tokens_BT)
        assert torch.equal(torch.cat([part.targets_BT for part in parts]), third.targets_BT)
    assert not torch.equal(dataset.batch(4).tokens_BT, third.tokens_BT)
    assert not torch.equal(open_dataset(config(seed=1, **more)).batch(3).tokens_BT, third.tokens_BT)
    fixed = open_dataset(config(seed=1, **{"batch.seed": 0}, **more))
    assert torch.equal(fixed.batch(3).tokens_BT, third.tokens_BT)
    with pytest.raises(ValueError, match="contiguous"):
        dataset.batch(0, slice(0, 4, 2))


@pytest.mark.parametrize(
    "text, expected",
    [
        ("Thisbe:\nO wall, full often\n", "Thisbe:"),
        ("\n \n\tA short line \nanother\n", "A short line"),
        ("one two three four five six seven eight nine ten\n", "one two three four five six seven eight"),
        ("é" * 300, "é" * 40),
    ],
)
def test_the_opening_is_the_first_line_of_the_validation_text(
    text: str, expected: str, config: Make, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("to be or not to be " * 100, encoding="utf-8")
    (tmp_path / "b.txt").write_text(text * 9, encoding="utf-8")
    data = {"name": "text", "path": str(tmp_path / "a.txt"), "val_path": str(tmp_path / "b.txt")}
    assert open_dataset(config(data=data)).opening == expected
    assert open_dataset(config(data=SYNTHETIC)).opening == ""


def test_another_process_sees_the_same(config: Make, story: Path) -> None:
    """And what it imports for that: a library only where the tokenizer is used."""
    cfg = config()
    here = open_dataset(cfg).batch(7).tokens_BT[0].tolist()
    program = f"""
from gpt_lab.data.dataset import open_dataset
from tests.helpers import tiny_config
cfg = tiny_config(data={{"name": "text", "path": {str(story)!r}}}, tokenizer="byte")
print(open_dataset(cfg).batch(7).tokens_BT[0].tolist())
import sys
assert not {{"tokenizers", "tiktoken", "regex", "datasets", "pyarrow", "pandas"}} & set(sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert json.loads(done.stdout) == here


def test_targets_are_the_next_tokens(config: Make) -> None:
    dataset = open_dataset(config())
    stream = dataset.shards.train.tolist()  # type: ignore[attr-defined]
    batch = dataset.batch(0)
    for tokens, targets in zip(batch.tokens_BT.tolist(), batch.targets_BT.tolist(), strict=True):
        assert tokens[1:] == targets[:-1]
        assert any(stream[i : i + 17] == [*tokens, targets[-1]] for i in range(len(stream)))


def test_an_epoch_covers_the_text(config: Make, story: Path) -> None:
    story.write_text("".join(f"{number:08}" for number in range(1000)), encoding="utf-8")
    dataset = open_dataset(config())
    windows = (dataset.train_tokens - 16) // 16
    seen = [row for step in range(windows // 4) for row in map(tuple, dataset.batch(step).tokens_BT.tolist())]
    assert len(set(seen)) == len(seen) == windows // 4 * 4  # no window twice, and no two of this text are alike


@pytest.mark.parametrize("rows", [1, 8, 10_000])
def test_validation_has_each_target_once(config: Make, rows: int) -> None:
    dataset = open_dataset(config())
    stream = dataset.shards.val.tolist()  # type: ignore[attr-defined]
    batches = list(dataset.validation(rows))
    assert len({batch.tokens_BT.shape for batch in batches}) == 1
    targets = [t for batch in batches for t in batch.targets_BT.flatten().tolist() if t != -100]
    assert targets == stream[1:]
    inputs = torch.cat([batch.tokens_BT.flatten() for batch in batches]).tolist()
    assert inputs[: len(stream) - 1] == stream[:-1]
    assert all(0 <= token < dataset.vocab_size for token in inputs)
    assert all(batch.targets_BT.is_contiguous() for batch in batches)
    assert (dataset.val_tokens, dataset.val_bytes) == (len(stream), len(stream) - 2)
    assert dataset.bytes_per_token == pytest.approx((len(stream) - 2) / (len(stream) - 1))


def test_a_limited_validation_is_spread_and_fixed(config: Make) -> None:
    dataset = open_dataset(config())
    every = torch.cat([batch.tokens_BT for batch in dataset.validation(8)])
    some = torch.cat([batch.tokens_BT for batch in dataset.validation(5, limit=400)])
    places = [int((every == row).all(dim=1).nonzero()[0]) for row in some]
    assert len(places) == 400 // 16
    assert places == sorted(set(places))
    windows = -(-(dataset.val_tokens - 1) // 16)
    assert places[0] == 0
    assert places[-1] >= windows * 0.9
    assert sum(batch.tokens_BT.numel() for batch in dataset.validation(5, limit=1)) == 16
    whole = sum(int((batch.targets_BT != -100).sum()) for batch in dataset.validation(5, limit=10**9))
    assert whole == dataset.val_tokens - 1


def test_document_mask(config: Make, tmp_path: Path) -> None:
    rows = [{"text": "x" * (i % 7 + 1)} for i in range(300)]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    data = {"name": "jsonl", "path": str(path), "val_fraction": 0.3}
    dataset = open_dataset(config(data=data, **{"batch.document_mask": True}))
    for batch in [dataset.batch(0), *dataset.validation(2)]:
        documents = batch.documents_BT
        assert documents is not None
        assert documents.shape == batch.tokens_BT.shape
        starts = batch.tokens_BT == 256
        assert torch.equal(documents[:, 1:] - documents[:, :-1], starts[:, 1:].long())
        assert torch.equal(documents[:, 0], starts[:, 0].long())
        assert documents.max() > 1
    with pytest.raises(ConfigError, match="document_mask=true needs a token between documents, and tokenizer=char has"):
        open_dataset(config(tokenizer={"name": "char", "eot": False}, **{"batch.document_mask": True}))
    with pytest.raises(ConfigError, match="document_mask=true needs text"):
        open_dataset(config(data="synthetic", **{"batch.document_mask": True}))


def test_text_shorter_than_one_context(config: Make, story: Path) -> None:
    story.write_text("x" * 40, encoding="utf-8")
    assert open_dataset(config(**{"scale.context": 36})).batch(0).tokens_BT.shape[1] == 36
    with pytest.raises(
        DataError, match="the training text has 38 tokens, and one sequence of scale.context=38 needs 39"
    ):
        open_dataset(config(**{"scale.context": 38}))


def test_the_tokenizer_can_be_saved_elsewhere(config: Make, tmp_path: Path) -> None:
    dataset = open_dataset(config(tokenizer={"name": "bpe", "vocab_size": 300}))
    tokenizer = dataset.tokenizer
    assert tokenizer is not None
    assert tokenizer is dataset.tokenizer
    tokenizer.save(tmp_path / "run")
    assert load_tokenizer(tmp_path / "run").encode("the queen") == tokenizer.encode("the queen")


def test_synthetic_data_has_no_text(config: Make) -> None:
    dataset = open_dataset(config(data="synthetic"))
    assert dataset.tokenizer is None
    assert dataset.bytes_per_token is None
    assert dataset.floors() == {}
    assert dataset.val_bytes == 0
    whole = list(dataset.validation(100))
    assert [batch.tokens_BT.shape[0] for batch in whole] == [100, 100, 100]
    answers = sum(int((batch.targets_BT != -100).sum()) for batch in whole)
    assert answers == 256 * 8  # the copies of 8 symbols; what fills up the last batch has none
    other = list(open_dataset(config(data="synthetic", seed=5)).validation(100))
    assert all(torch.equal(a.tokens_BT, b.tokens_BT) for a, b in zip(whole, other, strict=True))
    assert sum(batch.tokens_BT.shape[0] for batch in dataset.validation(10, limit=320)) == 20


def test_fingerprints_tell_data_apart(config: Make) -> None:
    names = [
        open_dataset(config(data=data)).fingerprint
        for data in ("synthetic", {"name": "synthetic", "symbols": 32}, {"name": "synthetic", "task": "mqar"})
    ]
    assert len({*names, open_dataset(config()).fingerprint}) == 4
